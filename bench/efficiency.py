"""Time and peak memory of one denoising step, latent source against pixel model, at sizes up to 4K.

    python -m bench.efficiency                       # GPU: Z-Image at full size; CPU: the embedded source
    python -m bench.efficiency --family flux1-dev --resolutions 1024 4096
    python -m bench.efficiency --count               # no device: operations counted at full size (bench.sizes)

Weights are random (speed does not depend on their values) and made on the device in bfloat16. The source's own classes
are called directly, without guidance, VAE tiling off; its decoding is shared among the steps of a drawing. The pixel
model keeps the token grid of the smallest size: patch 16 at 1K, 32 at 2K, 64 at 4K. Peak memory includes the weights of
what is measured, not the text encoder.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from bench import sizes
from l2p.config import load_params
from l2p.evaluation.measuring import MemoryMeter, empty_caches
from l2p.models.adapters import get_adapter
from l2p.models.families import NAMES, KnownSource, read_known
from l2p.models.graft import build_empty
from l2p.models.pixel_transformer import CHANNELS
from l2p.models.source import load_source_config, load_text_pipeline, pin_source
from l2p.quiet import quiet_third_parties

PROMPT = "a photo of a red circle"
NO_MEMORY = "out of memory"
STD = 0.02  # of random weights
# What the paper claims at 4K, and what costs nothing at 1K.
MIN_RATIO_4K, MAX_STEP_4K_S, MAX_PEAK_4K_GB, MAX_SHARE_1K = 40.0, 1.2, 26.8, 1.05


@dataclass(frozen=True)
class Setting:
    """What is measured, and how."""

    known: KnownSource
    device: str
    native_px: int  # the size at which the pixel model has the source's patch
    num_steps: int  # among which decoding is shared
    repeats: int
    innermost_width: int  # of the head


@dataclass(frozen=True)
class Row:
    """One model at one size; a time is None where there is none, and `note` says why."""

    resolution_px: int
    model: str
    step_s: float | None
    decode_s: float | None
    peak_bytes: int | None
    note: str = ""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=NAMES, help="a published source; default on a GPU: z-image")
    parser.add_argument("--source", help="a folder in diffusers layout; default on a CPU: the embedded source")
    parser.add_argument("--resolutions", nargs="+", type=int, help="sides in pixels, the smallest is the native one")
    parser.add_argument("--num-steps", type=int, default=30, help="steps of a drawing, among which decoding is shared")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs; the median counts")
    parser.add_argument("--count", action="store_true", help="count operations instead; needs no device")
    arguments = parser.parse_args()
    quiet_third_parties()
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
    if arguments.count:
        sizes.print_counts(
            read_known(arguments.family or "z-image"), tuple(arguments.resolutions or sizes.RESOLUTIONS_PX)
        )
        return
    setting, resolutions = settle(arguments)
    rows = list(measure_all(setting, resolutions))
    print_rows(setting, rows)


def settle(arguments: argparse.Namespace) -> tuple[Setting, tuple[int, ...]]:
    """The setting of the command line, and the sizes."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    published = arguments.family is not None or (device == "cuda" and arguments.source is None)
    if published:
        known, standard, innermost = read_known(arguments.family or "z-image"), sizes.RESOLUTIONS_PX, 512
    else:
        known, standard = read_folder(arguments.source or str(sizes.ROOT / "sources/shapes")), (64, 128, 256)
        innermost = load_params(sizes.ROOT / "params.yaml").convert.head.widths[-1]
    resolutions = tuple(sorted(arguments.resolutions or standard))
    native = sizes.NATIVE_RESOLUTION_PX if published else resolutions[0]
    return Setting(known, device, native, arguments.num_steps, arguments.repeats, innermost), resolutions


def read_folder(path: str) -> KnownSource:
    """A source in diffusers layout, described as the published ones are."""
    pin = pin_source(path)
    adapter = get_adapter(pin.transformer_class)
    (embedding,) = adapter.encode(load_text_pipeline(pin), [PROMPT])
    return KnownSource(
        name=Path(path).name,
        title=Path(path).name,
        repository=path,
        licence=pin.licence or "not stated",
        prompt_encoder="its own",
        text={key: list(tensor.shape) for key, tensor in embedding.items()},
        transformer=load_source_config(pin, "transformer"),
        vae=load_source_config(pin, "vae"),
    )


def measure_all(setting: Setting, resolutions_px: tuple[int, ...]) -> Iterator[Row]:
    """The source at every size, then the pixel model of each size."""
    for resolution in resolutions_px:
        yield attempt(resolution, "source", partial(measure_source, setting, resolution))
        yield attempt(resolution, "pixel", partial(measure_pixel, setting, resolution))


def attempt(resolution_px: int, model: str, measured: Callable[[], Row]) -> Row:
    """The row, or one that says that the model did not fit."""
    try:
        return measured()
    except torch.OutOfMemoryError:
        return Row(resolution_px, model, None, None, None, NO_MEMORY)
    finally:
        gc.collect()
        empty_caches("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def measure_source(setting: Setting, resolution_px: int) -> Row:
    """One step of the source's transformer, and one decoding."""
    known, adapter = setting.known, get_adapter(setting.known.transformer_class)
    if not sizes.has_positions(known, resolution_px):
        return Row(resolution_px, "source", None, None, None, "no positions for this size")
    with init_empty_weights(include_buffers=False):
        transformer, vae = getattr(diffusers, known.transformer_class)(**known.settings), sizes.build_vae(known)
    weights = sum(fill(part, setting.device) for part in (transformer, vae))
    text = sizes.text_inputs(known, device=setting.device, dtype=torch.bfloat16)
    call = sizes.source_arguments(adapter, transformer, text, resolution_px // adapter.native_patch_px)
    like = torch.empty(0, dtype=torch.bfloat16, device=setting.device)
    latents = sizes.latents_for(known, resolution_px, like)
    step_s, step_peak = timed(lambda: transformer(**call, return_dict=False), setting)
    try:
        decode_s, decode_peak = timed(lambda: vae.decode(latents, return_dict=False), setting)
    except torch.OutOfMemoryError:
        return Row(resolution_px, "source", step_s, None, weights + step_peak, f"  decoding: {NO_MEMORY}")
    return Row(resolution_px, "source", step_s, decode_s, weights + max(step_peak, decode_peak))


@torch.no_grad()
def measure_pixel(setting: Setting, resolution_px: int) -> Row:
    """One step of the pixel model."""
    known, adapter = setting.known, get_adapter(setting.known.transformer_class)
    patch = sizes.patch_at(adapter, resolution_px, native_px=setting.native_px)
    config = {"source_class": known.transformer_class, "source_config": known.settings, "patch_size": patch}
    widths = sizes.official_widths(patch, innermost=setting.innermost_width)
    model = build_empty({**config, "head_widths": widths, "embedder_rank": sizes.rank_at(known, patch)})
    weights = fill(model, setting.device)
    text = sizes.text_inputs(known, device=setting.device, dtype=torch.bfloat16)
    pixels = torch.randn(1, CHANNELS, resolution_px, resolution_px, device=setting.device, dtype=torch.bfloat16)
    sigma = torch.full((1,), 0.5, device=setting.device)
    step_s, peak = timed(lambda: model(pixels, sigma, text), setting)
    return Row(resolution_px, "pixel", step_s, None, weights + peak)


def fill(model: nn.Module, device: str) -> int:
    """Give every empty parameter random values in bfloat16 on `device`, in place; returns the bytes of the model."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device).normal_(std=STD)
            module.register_parameter(name, nn.Parameter(values, requires_grad=False))
    nn.Module.to(model.eval(), device, torch.bfloat16)  # buffers; diffusers' own `to` warns of whole models
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def timed(run: Callable[[], Any], setting: Setting) -> tuple[float, int]:
    """Median seconds of `run` after one that warms up, and the peak bytes above what was there."""
    meter, seconds = MemoryMeter(setting.device), []
    meter.start()
    for _ in range(setting.repeats + 1):
        synchronise(setting.device)
        began = time.perf_counter()
        run()
        synchronise(setting.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]), meter.peak_bytes() or 0


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def print_rows(setting: Setting, rows: list[Row]) -> None:
    """The table, and which targets are met."""
    name = torch.cuda.get_device_name() if setting.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    print(f"\n{setting.known.title}, bfloat16, batch 1, no guidance, {name}\n")
    print(f"{'size':>6}  {'model':<8}{'step s':>9}{'decode s':>10}{'step + share':>14}{'peak GB':>9}{'ratio':>8}")
    source: Row | None = None
    for row in rows:
        source = row if row.model == "source" else source
        cells = "" if row.step_s is None else _cells(row, source, setting.num_steps)
        print(f"{row.resolution_px:>6}  {row.model:<8}{cells}{row.note}")
    for line in targets(rows):
        print(line)


def targets(rows: list[Row]) -> Iterator[str]:
    """One line for each target whose sizes were measured."""
    found = {(row.resolution_px, row.model): row for row in rows if row.step_s is not None}
    small, large = ((found.get((size, "source")), found.get((size, "pixel"))) for size in (1024, 4096))
    if pixel := large[1]:
        yield verdict("4K step, seconds", pixel.step_s or 0.0, MAX_STEP_4K_S)
        yield verdict("4K peak, GB", (pixel.peak_bytes or 0) / 1e9, MAX_PEAK_4K_GB)
        if large[0]:
            yield verdict("4K source / pixel", -(large[0].step_s or 0.0) / (pixel.step_s or 1.0), -MIN_RATIO_4K)
    if small[0] and small[1]:
        yield verdict("1K pixel / source", (small[1].step_s or 0.0) / (small[0].step_s or 1.0), MAX_SHARE_1K)


def verdict(what: str, found: float, most: float) -> str:
    """Whether a figure is at most what it may be; a least one is given negated."""
    bound = f"at least {-most:g}" if most < 0 else f"at most {most:g}"
    return f"{what}: {abs(found):.2f}, {bound}: {'met' if found <= most else 'missed'}"


def _cells(row: Row, source: Row | None, num_steps: int) -> str:
    step = row.step_s or 0.0
    whole = step + (row.decode_s or 0.0) / num_steps
    decode = "none" if row.decode_s is None else f"{row.decode_s:.4f}"
    ratio = ""
    if row.model == "pixel" and source is not None and source.step_s is not None:
        ratio = f"{source.step_s / step:.2f}x"
    return f"{step:>9.4f}{decode:>10}{whole:>14.4f}{(row.peak_bytes or 0) / 1e9:>9.2f}{ratio:>8}"


if __name__ == "__main__":
    main()
