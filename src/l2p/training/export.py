"""Owns the end of a training: the averaged weights as a delta on the pinned source, with nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from l2p.errors import TrainingError
from l2p.models.delta import WEIGHTS, save_delta
from l2p.models.graft import kept_tensors
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin
from l2p.training.state import Ema


def export(
    model: PixelTransformer, ema: Ema, folder: Path, *, names: list[str], pin: SourcePin, sampler: dict[str, Any]
) -> None:
    """Write the averages of the trained parameters `names` to `folder`.

    Raises:
        TrainingError: a frozen tensor is no longer the source's, or the file lacks a tensor.
    """
    check_frozen(model, names, pin)
    with ema.swapped_in():
        save_delta(model, folder, pin=pin, names=names, sampler=sampler)
    check_stored(folder / WEIGHTS, set(names) | set(model.new_tensors()))


def check_frozen(model: PixelTransformer, names: list[str], pin: SourcePin) -> None:
    """Every tensor that is not trained must be the source's, bit for bit, at the precision in which it is held."""
    trained, state = set(names), model.state_dict()
    source = kept_tensors(model, pin)
    for name, tensor in state.items():
        if name not in trained and not torch.equal(tensor.cpu(), source[name].read(tensor.dtype)):
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
