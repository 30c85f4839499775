"""Owns the end of a training: the averaged weights as a delta on the pinned source, with nothing else changed."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from l2p.errors import TrainingError
from l2p.models.delta import WEIGHTS, save_delta
from l2p.models.graft import kept_tensors
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin
from l2p.training.engine import Engine


def export(
    model: PixelTransformer, engine: Engine, folder: Path, *, names: list[str], pin: SourcePin, sampler: dict[str, Any]
) -> None:
    """Write the averages of the trained parameters `names` to `folder`; every process must call it, rank 0 writes.

    Raises:
        TrainingError: a frozen tensor is no longer the source's, or the file lacks a tensor.
    """
    trained = set(names)
    frozen = engine.whole_tensors([name for name in model.state_dict() if name not in trained])
    if engine.rank == 0:
        check_frozen(model, frozen, pin)
    else:
        collections.deque(frozen, maxlen=0)
    stored = sorted(set(names) | set(model.new_tensors()))
    with engine.drawing():
        tensors = {
            name: tensor.to("cpu", copy=True).contiguous()  # the model gets its own weights back
            for name, tensor in engine.whole_tensors(stored)
            if engine.rank == 0
        }
    if engine.rank == 0:
        save_delta(model, folder, pin=pin, names=names, sampler=sampler, tensors=tensors)
        check_stored(folder / WEIGHTS, set(stored))


def check_frozen(model: PixelTransformer, tensors: Iterable[tuple[str, Tensor]], pin: SourcePin) -> None:
    """Tensors that are not trained must be the source's, bit for bit, at the precision in which they are held."""
    source = kept_tensors(model, pin)
    for name, tensor in tensors:
        if not torch.equal(tensor.cpu(), source[name].read(tensor.dtype)):
            raise TrainingError(
                f"{name}: frozen, but no longer the source's. This is a fault of l2p; nothing was stored."
            )


def check_stored(path: Path, expected: set[str]) -> None:
    """The file must hold exactly the `expected` tensors."""
    with safe_open(path, framework="pt") as file:
        found = set(file.keys())
    if found != expected:
        odd = sorted(found ^ expected)
        raise TrainingError(
            f"{path}: holds {len(found)} tensors instead of {len(expected)}, first {odd[:3]}. This is a fault of l2p."
        )
