"""Images per second, peak memory and model FLOP utilisation of the training loop, beside a naive loop in the same run.

    python -m bench.training                                   # the embedded source; some minutes on two cores
    python -m bench.training --seconds 60                      # longer measurements
    python -m bench.training --family z-image --batch-size 4   # a GPU: full size, random weights, 1024 px
    python -m bench.training --family z-image --blocks 2 --width 1024 --resolution 256   # a CPU: a piece of it

The naive loop is the usual first script: text encoder in the loop, one image a step, every weight trained, every block
checkpointed. Each further row changes one thing; the last is this package's own loop (DeepSpeed, compiled blocks). Each
is measured in a process of its own. Peak memory is that of the measured steps, above what the process took before the
loop was built: torch's on a GPU, resident memory on a CPU. MFU is the operations of one forward and one backward pass
that the loop needs (bench.flops: recomputation and text encoder do not count, nor do gradients of frozen weights) a
second, divided by the device's peak: of its data sheet on a GPU, on a CPU the best matrix product in this run.

With --family there is no text encoder, and the plain loops hold their weights in bfloat16, as else they would not fit.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from bench import flops
from bench.random_models import ROOT, preset_params
from bench.training_loops import (
    Loop,
    Step,
    Task,
    choose_trained,
    ladder,
    open_loop,
    prepare_family,
    prepare_source,
    random_model,
)
from l2p.config import Layout, Params, load_params
from l2p.evaluation.measuring import MemoryMeter
from l2p.models.delta import load_pixel_model
from l2p.models.embeddings import EmbeddingStore
from l2p.models.families import NAMES
from l2p.models.pixel_transformer import tensor_dtype
from l2p.quiet import quiet_third_parties

WARM_UP_STEPS = 2
NO_MEMORY = "out of memory"
KEYS = ("naive", "embedded", "batches", "frozen", "kept", "uncompiled", "l2p")
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Measured:
    """One loop; all None where it did not fit, peak_bytes also where the system does not tell."""

    images_per_s: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Row:
    """A measured loop, with its operations for an image and its share of the peak (None where that is unknown)."""

    loop: Loop
    measured: Measured
    operations: int
    utilisation: float | None


def main() -> None:
    """Measure and print the table."""
    arguments = parse()
    quiet()
    task = choose_task(arguments)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        if task.family is None:
            prepare_source(Path(arguments.source).resolve(), task.params)
        else:
            prepare_family(task.family, task.params)
        peak = find_peak(task.params, arguments.peak_tflops)
        print_head(task, arguments, peak)
        rows: list[Row] = []
        for row in measure_all(task, arguments, peak):
            rows.append(row)
            print_row(row, rows[0])
    if rows and rows[0].measured.images_per_s is None:
        print(f"\n{rows[0].loop.name}: {NO_MEMORY} on this device, so there is no ratio.")


def quiet() -> None:
    """No bars and no advice between the rows."""
    quiet_third_parties()
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "sources/shapes"), help="folder in diffusers layout")
    parser.add_argument("--family", choices=NAMES, help="a published source at full size, instead; random weights")
    parser.add_argument("--blocks", type=int, help="of --family, image blocks that are kept; default: all")
    parser.add_argument("--width", type=int, help="of --family, width of the tokens; default: its own")
    parser.add_argument("--resolution", type=int, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, help="images a step; default: of params.yaml or the preset")
    parser.add_argument(
        "--checkpointing", choices=("none", "head", "blocks", "all"), help="of this package's loop; default as above"
    )
    parser.add_argument("--naive-weights", choices=("float32", "bfloat16"), help="precision in the plain loops")
    parser.add_argument("--peak-tflops", type=float, help="peak of the device, for MFU; default: known or measured")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    parser.add_argument("--loops", nargs="+", choices=KEYS, default=list(KEYS), help="rows to measure")
    return parser.parse_args()


def choose_task(arguments: argparse.Namespace) -> Task:
    """Parameters and model of the command line."""
    params = load_params(ROOT / "params.yaml") if arguments.family is None else preset_params(arguments.family)
    sizes: dict[str, Any] = {}
    if arguments.resolution:
        sizes = {"height_px": arguments.resolution, "width_px": arguments.resolution}
    train: dict[str, Any] = {"num_processes": 1}
    if arguments.batch_size:
        train["batch_size"] = arguments.batch_size
    if arguments.checkpointing:
        train["gradient_checkpointing"] = arguments.checkpointing
    params = params.model_copy(
        update={
            "synthesize": params.synthesize.model_copy(update=sizes),
            "train": params.train.model_copy(update=train),
        }
    )
    weights = arguments.naive_weights or ("float32" if arguments.family is None else "bfloat16")
    return Task(params, arguments.family, blocks=arguments.blocks, width=arguments.width, naive_dtype=weights)


def measure_all(task: Task, arguments: argparse.Namespace, peak: float | None) -> Iterator[Row]:
    """The loops that are asked for, slowest first, each in a process of its own."""
    operations = {everything: count_operations(task, everything=everything) for everything in (True, False)}
    for loop in ladder(task.params, text_encoder=task.family is None):
        if loop.key in arguments.loops:
            measured = apart(measure, loop, task, arguments.seconds)
            needed = operations[loop.all_trained]
            known = peak is not None and measured.images_per_s is not None
            yield Row(loop, measured, needed, measured.images_per_s * needed / peak if known else None)


def count_operations(task: Task, *, everything: bool) -> int:
    """Operations of training on one image, with every weight trained or those that params.yaml names."""
    model = load_pixel_model(Layout.init) if task.family is None else random_model(task)
    flops.on_meta(model)
    choose_trained(model, task.params, everything=everything)
    embedding = EmbeddingStore(Layout.embeddings).get("0")
    return flops.training_operations(
        model, embedding, (task.params.synthesize.height_px, task.params.synthesize.width_px)
    )


def find_peak(params: Params, told_tflops: float | None) -> float | None:
    """Operations a second that the device can do in the training's precision; None where it is not known."""
    if told_tflops is not None:
        return told_tflops * TERA
    if not torch.cuda.is_available():
        return apart(flops.measured_peak, tensor_dtype(params.train.precision))
    return flops.gpu_peak(torch.cuda.get_device_name()) if params.train.precision == "bfloat16" else None


def apart(run: Callable[..., Any], *arguments: Any) -> Any:
    """`run` in a fresh process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(run, *arguments).result()


def measure(loop: Loop, task: Task, seconds: float) -> Measured:
    """Speed and memory of one loop in this process."""
    quiet()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _import_first(loop, device)
    meter = MemoryMeter(device)
    meter.start()
    try:
        with open_loop(loop, task) as step:
            for index in range(WARM_UP_STEPS):
                step(index)
            MemoryMeter(device).start()  # forgets the peak of building and compiling; `meter` keeps its own start
            return Measured(images_per_s(step, loop.batch_size, seconds), meter.peak_bytes())
    except torch.OutOfMemoryError:
        return Measured(None, None)


def images_per_s(step: Step, batch_size: int, seconds: float) -> float:
    """Speed of `step` over about `seconds`, once it is warm."""
    _synchronise()
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        step(WARM_UP_STEPS + done)
        done += 1
    _synchronise()
    return done * batch_size / (time.perf_counter() - began)


def print_head(task: Task, arguments: argparse.Namespace, peak: float | None) -> None:
    """What is measured where, and the header of the table."""
    on_gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"
    params = task.params
    name = task.family or Path(arguments.source).resolve().name
    pieces = [f"{task.blocks} blocks" if task.blocks else "", f"width {task.width}" if task.width else ""]
    size = f"{params.synthesize.width_px}x{params.synthesize.height_px} px"
    what = ", ".join(filter(None, [name, *pieces, size, params.train.precision, device]))
    print(f"\n{what}\nplain loops: {task.naive_dtype} weights{'' if task.family is None else ', no text encoder'}")
    if peak is None:
        print("peak of this device: not known, so no MFU; --peak-tflops tells it")
    else:
        origin = "as told" if arguments.peak_tflops else "data sheet" if on_gpu else "its best matrix product"
        print(f"peak of this device: {peak / TERA:.2f} TFLOP/s ({origin})")
    print(f"\n{'loop':<30}{'images/s':>10}{'ratio':>9}{'peak GB':>9}{'TFLOP an image':>16}{'MFU':>8}")


def print_row(row: Row, baseline: Row) -> None:
    """One line of the table; the ratio is against `baseline`."""
    speed, first = row.measured.images_per_s, baseline.measured.images_per_s
    if speed is None:
        print(f"{row.loop.name:<30}{NO_MEMORY:>28}", flush=True)
        return
    ratio = "none" if first is None else f"{speed / first:.1f}x"
    peak = "none" if row.measured.peak_bytes is None else f"{row.measured.peak_bytes / GIGA:.2f}"
    share = "none" if row.utilisation is None else f"{row.utilisation:.1%}"
    count = f"{row.operations / TERA:.4g}"
    print(f"{row.loop.name:<30}{speed:>10.2f}{ratio:>9}{peak:>9}{count:>16}{share:>8}", flush=True)


def _import_first(loop: Loop, device: str) -> None:
    """Import what the loop imports at its first step, so that it does not count as the loop's memory."""
    if loop.ours:
        if device == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
        import deepspeed  # noqa: F401
    if loop.compiled:
        import torch._inductor.compile_fx  # noqa: F401


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
