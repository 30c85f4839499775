"""Peak host memory of conversion and loading, against the weights of the finished model, beside the naive way.

    python -m bench.loading                          # a Z-Image of 0.2 billion parameters; a minute
    python -m bench.loading --dim 2048 --layers 16   # a larger one

Each row is a process of its own: peak resident memory (VmHWM) above what the imports take, with every weight of the
finished model read once, so that none is left on the disk. Naive: `from_pretrained`, then its weights into a second
model. Hashing a source passes through the page cache, which is not resident memory.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImageTransformer2DModel
from diffusers.utils import logging

from l2p.evaluation.measuring import MIB, MemoryMeter, empty_caches
from l2p.files import write_json
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.graft import graft
from l2p.models.pixel_transformer import PixelTransformer, tensor_dtype
from l2p.models.source import MODEL_INDEX, SourcePin, pin_source
from l2p.quiet import quiet_third_parties

TARGET = 1.2  # peak by weights
HEAD_DIM = 128
SHAPE: dict[str, Any] = {"patch_size": 16, "head_widths": (64, 128, 256, 512)}
SAMPLER = {"num_steps": 1, "guidance_scale": 0.0, "shift": None}


@dataclass(frozen=True)
class Case:
    """One way to a finished model: what is done, the precision on disk, and that in memory."""

    way: str
    stored: str
    wanted: str


@dataclass(frozen=True)
class Measured:
    """Bytes and seconds of one case."""

    weights: int
    peak: int
    seconds: float


CASES = (
    Case("graft", "bfloat16", "bfloat16"),
    Case("graft", "float32", "float32"),
    Case("graft", "float32", "bfloat16"),
    Case("load", "bfloat16", "bfloat16"),
    Case("load", "float32", "bfloat16"),
    Case("naive", "bfloat16", "bfloat16"),
    Case("naive", "float32", "bfloat16"),
)


def main() -> None:
    """Measure and print the table; exit code 1 when a row of ours is above the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=1024, help=f"width of the transformer, a multiple of {HEAD_DIM}")
    parser.add_argument("--layers", type=int, default=12, help="blocks of the transformer")
    arguments = parser.parse_args()
    quiet_third_parties()
    logging.set_verbosity_error()  # diffusers is imported already
    with tempfile.TemporaryDirectory() as folder:
        write_sources(Path(folder), dim=arguments.dim, layers=arguments.layers)
        rows = [(case, measure_apart(case, Path(folder))) for case in CASES]
    print(f"\n{'way':<8}{'stored':<10}{'in memory':<11}{'weights MB':>11}{'peak MB':>9}{'ratio':>7}{'s':>7}")
    for case, row in rows:
        sizes = f"{row.weights / MIB:>11.0f}{row.peak / MIB:>9.0f}{row.peak / row.weights:>7.2f}{row.seconds:>7.1f}"
        print(f"{case.way:<8}{case.stored:<10}{case.wanted:<11}{sizes}")
    missed = [case for case, row in rows if case.way != "naive" and row.peak > TARGET * row.weights]
    print(f"\ntarget: at most {TARGET} x the weights: {'missed' if missed else 'met'}")
    sys.exit(1 if missed else 0)


def write_sources(folder: Path, *, dim: int, layers: int) -> None:
    """A sharded Z-Image with random weights in either precision, its pin, and an untrained pixel model on it."""
    torch.manual_seed(0)
    transformer = ZImageTransformer2DModel(
        dim=dim, n_layers=layers, n_heads=dim // HEAD_DIM, n_kv_heads=dim // HEAD_DIM
    )
    for precision in ("float32", "bfloat16"):
        source = folder / precision
        if precision == "bfloat16":
            transformer.bfloat16()
        transformer.save_pretrained(source / "transformer", max_shard_size="100MB")
        FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(source / "scheduler")
        index = {"_class_name": "ZImagePipeline", "transformer": ["diffusers", "ZImageTransformer2DModel"]}
        write_json(source / MODEL_INDEX, index)
        pin = pin_source(str(source))
        pin.save(folder / f"{precision}.json")
        model = graft(pin, seed=0, dtype=precision, **SHAPE)
        save_delta(model, folder / f"{precision}-delta", pin=pin, names=model.new_tensors(), sampler=SAMPLER)


def measure_apart(case: Case, folder: Path) -> Measured:
    """`measure` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, case, folder).result()


def measure(case: Case, folder: Path) -> Measured:
    """Peak memory of this process on the way to a finished model, above what it took before."""
    way: Callable[[Case, Path], PixelTransformer] = {"graft": _graft, "load": _load, "naive": _naive}[case.way]
    meter = MemoryMeter("cpu")
    empty_caches("cpu")
    meter.start()
    began = time.perf_counter()
    model = way(case, folder)
    weights = sum(touch(tensor) for tensor in model.state_dict().values())
    peak, seconds = meter.peak_bytes(), time.perf_counter() - began
    if peak is None:
        raise SystemExit("peak memory can be measured on Linux only (/proc/self/clear_refs).")
    return Measured(weights, peak, seconds)


def touch(tensor: torch.Tensor) -> int:
    """Read the tensor; returns its bytes."""
    tensor.sum()
    return tensor.numel() * tensor.element_size()


def _graft(case: Case, folder: Path) -> PixelTransformer:
    return graft(SourcePin.load(folder / f"{case.stored}.json"), seed=0, dtype=case.wanted, **SHAPE)


def _load(case: Case, folder: Path) -> PixelTransformer:
    return load_pixel_model(folder / f"{case.stored}-delta", dtype=case.wanted)


def _naive(case: Case, folder: Path) -> PixelTransformer:
    dtype = tensor_dtype(case.wanted)
    source = ZImageTransformer2DModel.from_pretrained(folder / case.stored / "transformer", dtype=dtype)
    config = dict(source.config)
    model = PixelTransformer("ZImageTransformer2DModel", config, **SHAPE).to(dtype)
    kept = {f"dit.{name}": tensor for name, tensor in source.state_dict().items()}
    model.load_state_dict({name: kept[name] for name in model.state_dict() if name in kept}, strict=False)
    return model


if __name__ == "__main__":
    main()
