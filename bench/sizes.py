"""Parameters and operations of published sources and their pixel models, counted at full size without weights.

    python -m bench.sizes                      # Z-Image; some seconds
    python -m bench.sizes --family sana chroma
    python -m bench.sizes --family all         # some minutes

Operations are those of one denoising step of one image without guidance (a multiplication and an addition are two), as
torch's FlopCounterMode sees them on the meta device. Attention is counted: there it runs as its two matrix products.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from l2p.config import load_params
from l2p.models.adapters import Adapter, get_adapter
from l2p.models.embedder import choose_rank
from l2p.models.families import NAMES, KnownSource, read_known
from l2p.models.families.sizes import empty_pixel_model, empty_source
from l2p.models.pixel_transformer import CHANNELS, parameters_of
from l2p.quiet import quiet_third_parties

ROOT = Path(__file__).parents[1]
NATIVE_RESOLUTION_PX = 1024  # at which the pixel model has the source's own patch; above, the token grid is kept
RESOLUTIONS_PX = (1024, 2048, 4096)
PATCHES_PX = (16, 32, 64, 128, 160)  # of 1K, 2K, 4K, 8K and 10K at 64 tokens a side
OFFICIAL_LEVELS = {16: 4, 32: 5, 64: 6, 128: 7, 160: 6}  # 10K: six, so that the bottleneck has 160 places a side
INNERMOST_WIDTH = 512
UNET_WIDTHS = (64, 128, 256, 512)
TERA, MILLION = 1e12, 1e6


@dataclass(frozen=True)
class StepCount:
    """Operations at one size; `source` and `decode` are None where the source has no positions for it."""

    resolution_px: int
    patch_px: int
    source: int | None
    decode: int | None
    official: int
    unet: int


def main() -> None:
    """Count and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", nargs="+", default=["z-image"], choices=[*NAMES, "all"], help="published sources")
    parser.add_argument("--resolutions", nargs="+", type=int, default=list(RESOLUTIONS_PX), help="sides in pixels")
    arguments = parser.parse_args()
    quiet_third_parties()
    names = NAMES if "all" in arguments.family else tuple(arguments.family)
    for name in names:
        print_counts(read_known(name), tuple(arguments.resolutions))
    print_patches(read_known(names[0]))


def print_counts(known: KnownSource, resolutions_px: tuple[int, ...]) -> None:
    """TFLOP of one step of the source, of one decoding, and of one step of the pixel model with either head."""
    print(f"\n{known.title}: TFLOP of one step, batch 1, no guidance\n")
    print(f"{'size':>6}{'patch':>7}{'source':>10}{'decode':>10}{'official':>10}{'unet':>8}{'source / official':>19}")
    for resolution in resolutions_px:
        count = count_step(known, resolution)
        source, decode = (f"{n / TERA:.1f}" if n is not None else "none" for n in (count.source, count.decode))
        ratio = "none" if count.source is None else f"{count.source / count.official:.1f}x"
        pixel = f"{count.official / TERA:>10.1f}{count.unet / TERA:>8.1f}"
        print(f"{resolution:>6}{count.patch_px:>7}{source:>10}{decode:>10}{pixel}{ratio:>19}")


def print_patches(known: KnownSource) -> None:
    """Parameters of what is new in the pixel model, by patch."""
    print(f"\n{known.title}: new parameters by patch, million\n")
    print(f"{'patch':>6}{'size':>7}{'linear':>9}{'as converted':>14}{'rank':>7}{'official':>10}{'unet':>7}")
    for patch, rank, linear, embedder, official, unet in count_patches(known):
        size = patch * NATIVE_RESOLUTION_PX // get_adapter(known.transformer_class).native_patch_px
        cells = f"{linear / MILLION:>9.1f}{embedder / MILLION:>14.1f}{rank or 'none':>7}"
        print(f"{patch:>6}{size:>7}{cells}{official / MILLION:>10.1f}{unet / MILLION:>7.1f}")


def count_step(known: KnownSource, resolution_px: int) -> StepCount:
    """Operations of one step of `known` and of its pixel model at one square size."""
    adapter = get_adapter(known.transformer_class)
    patch = patch_at(adapter, resolution_px)
    pixels, time = torch.empty(1, CHANNELS, resolution_px, resolution_px, device="meta"), torch.empty(1, device="meta")
    text = text_inputs(known, device="meta")

    def pixel(head_type: str, widths: tuple[int, ...]) -> int:
        model = empty_pixel_model(
            known,
            patch_size=patch,
            head_type=head_type,
            head_widths=widths,
            embedder_rank=rank_at(known, patch),
        )
        return operations(lambda: model.predict(pixels, time, text), known)

    fits = has_positions(known, resolution_px)
    return StepCount(
        resolution_px=resolution_px,
        patch_px=patch,
        source=_source_operations(known, resolution_px) if fits else None,
        decode=_decode_operations(known, resolution_px) if fits else None,
        official=pixel("official", official_widths(patch)),
        unet=pixel("unet", UNET_WIDTHS),
    )


def count_patches(known: KnownSource) -> Iterator[tuple[int, int | None, int, int, int, int]]:
    """(patch, rank, linear embedder, embedder as converted, official head, unet head) of every patch."""
    for patch in PATCHES_PX:
        rank = rank_at(known, patch)
        changes: dict[str, Any] = {"patch_size": patch, "head_widths": official_widths(patch)}
        linear = empty_pixel_model(known, **changes)
        unet = empty_pixel_model(known, patch_size=patch, head_type="unet", head_widths=UNET_WIDTHS, embedder_rank=rank)
        whole, converted = (parameters_of(m.dit.get_submodule(m.adapter.embedder)) for m in (linear, unet))
        yield patch, rank, whole, converted, parameters_of(linear.head), parameters_of(unet.head)


def patch_at(adapter: Adapter, resolution_px: int, *, native_px: int = NATIVE_RESOLUTION_PX) -> int:
    """The patch that keeps the token grid of the native resolution."""
    return max(1, resolution_px // native_px) * adapter.native_patch_px


def official_widths(patch_px: int, *, innermost: int = INNERMOST_WIDTH) -> tuple[int, ...]:
    """Widths of the official head at a patch, outermost first."""
    return tuple(innermost >> level for level in reversed(range(OFFICIAL_LEVELS[patch_px])))


def rank_at(known: KnownSource, patch_px: int) -> int | None:
    """Rank of the embedder by the rule of params.yaml."""
    rule = load_params(ROOT / "params.yaml").convert.embedder
    dim = get_adapter(known.transformer_class).token_dim(known.settings)
    return choose_rank(CHANNELS * patch_px**2, dim, max_parameters=rule.max_parameters, rank=rule.rank)


def has_positions(known: KnownSource, resolution_px: int) -> bool:
    """Whether the source itself can draw this size."""
    adapter = get_adapter(known.transformer_class)
    largest = adapter.max_grid(known.settings)
    return largest is None or resolution_px // adapter.native_patch_px <= largest


def text_inputs(known: KnownSource, *, device: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The `text` of one prompt of a usual length; its values are noise."""
    embedding = {key: torch.randn(shape) for key, shape in known.text.items()}
    text = get_adapter(known.transformer_class).collate([embedding])
    return tree_map_only(Tensor, lambda t: t.to(device, dtype if t.is_floating_point() else t.dtype), text)


def source_arguments(adapter: Adapter, transformer: Any, text: dict[str, Any], grid: int) -> dict[str, Any]:
    """What the source's own transformer is called with for `grid` tokens a side, in the device and dtype of `text`."""
    config = transformer.config
    like = next(iter(tensors_of(text)))
    side = grid if adapter.packed else grid * adapter.latent_patch(config)
    latents = like.new_empty(1, config.in_channels, side, side)
    sigma = torch.full((1,), 0.5, device=like.device)
    guidance = torch.full_like(sigma, adapter.embedded_guidance) if config.get("guidance_embeds") else None
    if not latents.is_meta:
        latents.normal_()
    arguments = adapter.arguments(latents, sigma, text, config=config, guidance_B=guidance)
    if "patch_size" in arguments:  # Z-Image is told at each call
        arguments["patch_size"] = adapter.latent_patch(config)
    return arguments


def latents_for(known: KnownSource, resolution_px: int, like: Tensor) -> Tensor:
    """Empty latents of one image, as the VAE decodes them."""
    adapter = get_adapter(known.transformer_class)
    side = resolution_px * adapter.latent_patch(known.settings) // adapter.native_patch_px
    frames = (1,) if "z_dim" in known.vae else ()  # an autoencoder of videos
    channels = known.vae["z_dim"] if frames else known.vae["latent_channels"]
    return like.new_zeros(1, channels, *frames, side, side)


def build_vae(known: KnownSource) -> Any:
    """The source's VAE with random weights, on the default device, without tiling."""
    settings = {key: value for key, value in known.vae.items() if not key.startswith("_")}
    return getattr(diffusers, known.vae["_class_name"])(**settings)


def tensors_of(text: dict[str, Any]) -> Iterator[Tensor]:
    """The floating tensors in a `text` argument."""
    for value in text.values():
        for tensor in value if isinstance(value, list) else [value]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                yield tensor


def operations(run: Callable[[], object], known: KnownSource) -> int:
    """Operations of `run` on the meta device."""
    with (
        torch.no_grad(),
        FlopCounterMode(display=False) as counter,
        KnownLengths(max(n for n, _ in known.text.values())),
    ):
        run()
    return int(counter.get_total_flops())


class KnownLengths(TorchFunctionMode):
    """Answers what the meta device cannot: how long the captions are, which Lumina 2 reads off their mask."""

    def __init__(self, length: int) -> None:
        """`length` is that of every caption."""
        super().__init__()
        self.length = length

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Tensor.tolist() of a meta tensor; everything else passes."""
        if func is Tensor.tolist and args[0].is_meta:
            return [self.length] * len(args[0])
        return func(*args, **(kwargs or {}))


def _source_operations(known: KnownSource, resolution_px: int) -> int:
    adapter, transformer = get_adapter(known.transformer_class), empty_source(known)
    grid, text = resolution_px // adapter.native_patch_px, text_inputs(known, device="meta")
    arguments = source_arguments(adapter, transformer, text, grid)
    return operations(lambda: transformer(**arguments, return_dict=False), known)


def _decode_operations(known: KnownSource, resolution_px: int) -> int:
    with torch.device("meta"):
        vae = build_vae(known)
    latents = latents_for(known, resolution_px, torch.empty(0, device="meta"))
    return operations(lambda: vae.decode(latents), known)


if __name__ == "__main__":
    main()
