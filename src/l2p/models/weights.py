"""Owns moving tensors between safetensors files and models, strictly: nothing missing, unexpected or mis-shaped."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from l2p.errors import ModelError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path}: cannot be read as safetensors ({error}). Restore the file or write it again."
        ) from error


def read_folder(folder: Path) -> dict[str, Tensor]:
    """All tensors of every safetensors file in `folder` (single file or shards)."""
    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= read_tensors(path)
    if not tensors:
        raise ModelError(f"{folder}: holds no .safetensors weights.")
    return tensors


def assign(model: nn.Module, tensors: dict[str, Tensor], *, origin: str) -> None:
    """Copy `tensors` into `model`; every name must exist there with the same shape.

    Raises:
        ModelError: names the first tensors that do not fit.
    """
    own = model.state_dict()
    unexpected = sorted(set(tensors) - set(own))
    if unexpected:
        raise ModelError(f"{origin}: {len(unexpected)} unexpected tensors, first {unexpected[:3]}.")
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise ModelError(f"{origin}: {name} has shape {list(tensor.shape)}, expected {list(own[name].shape)}.")
        own[name].copy_(tensor)


def check_complete(model: nn.Module, given: set[str], *, origin: str) -> None:
    """Every tensor of `model` must have been given.

    Raises:
        ModelError: names the first tensors that were not.
    """
    missing = sorted(set(model.state_dict()) - given)
    if missing:
        raise ModelError(f"{origin}: {len(missing)} tensors are missing, first {missing[:3]}.")
