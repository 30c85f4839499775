"""Owns moving tensors between safetensors files and models, strictly: nothing missing, unexpected or mis-shaped.

A model is built on the meta device and each tensor of the files takes the place of its empty one. Files are memory
mapped: a tensor that needs no conversion is not even copied, any other is opened, converted and closed on its own, so
that loading needs the memory of the finished model and one tensor more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from l2p.errors import ModelError

_SHARD_INDEX = "*.safetensors.index.json"


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file, not read yet; `dtype` in the file's spelling, such as "BF16"."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor on the CPU; floating ones in `dtype`, if given.

        Raises:
            ModelError: the file is damaged.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(self.name)
        except (OSError, SafetensorError) as error:
            raise _unreadable(self.path, error) from error
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor


def index_file(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file by name; only its header is read.

    Raises:
        ModelError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return {n: Stored(path, n, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def index_folder(folder: Path) -> dict[str, Stored]:
    """The tensors of every safetensors file in `folder`, a single file or shards; variants such as fp16 are left out.

    Raises:
        ModelError: no weights, a missing shard, or a tensor that is in two files.
    """
    paths = [path for path in sorted(folder.glob("*.safetensors")) if not is_variant(path)]
    if not paths:
        raise ModelError(f"{folder}: holds no .safetensors weights (variants such as *.fp16.safetensors do not count).")
    for index in (path for path in folder.glob(_SHARD_INDEX) if not is_variant(path)):
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(wanted - {path.name for path in paths}):
            raise ModelError(f"{folder}: {index.name} names {missing[0]}, which is not there. Fetch the source again.")
    tensors: dict[str, Stored] = {}
    for path in paths:
        found = index_file(path)
        if twice := sorted(set(found) & set(tensors)):
            raise ModelError(f"{folder}: {twice[0]} is in {tensors[twice[0]].path.name} and in {path.name}. Keep one.")
        tensors |= found
    return tensors


def is_variant(path: Path) -> bool:
    """Whether a file of weights, or their index, is a second form of others beside it: NAME.fp16.safetensors."""
    return "." in path.name.removesuffix(".index.json").removesuffix(".safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    return {name: stored.read() for name, stored in index_file(path).items()}


@torch.no_grad()
def assign(
    model: nn.Module,
    tensors: Mapping[str, Stored],
    *,
    origin: str,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
) -> None:
    """Put `tensors` into `model`; every name must exist there with the same shape.

    Args:
        model: may be on the meta device, wholly or in part.
        tensors: by the model's names.
        origin: what to call the files in a message.
        dtype: of the floating tensors in the model; None = as stored.
        device: where they go.

    Raises:
        ModelError: names the first tensors that do not fit.
    """
    check_fits(model, tensors, origin=origin)
    for name, stored in tensors.items():
        _replace(model, name, stored.read(dtype).to(device))


def check_fits(model: nn.Module, tensors: Mapping[str, Stored], *, origin: str) -> None:
    """Every one of `tensors` must have its place in `model`.

    Raises:
        ModelError: names the first that have not.
    """
    own = {name: tensor.shape for name, tensor in model.state_dict().items()}
    unexpected = sorted(set(tensors) - set(own))
    if unexpected:
        raise ModelError(f"{origin}: {len(unexpected)} unexpected tensors, first {unexpected[:3]}.")
    for name, stored in tensors.items():
        if own[name] != stored.shape:
            raise ModelError(f"{origin}: {name} has shape {list(stored.shape)}, expected {list(own[name])}.")


def check_complete(model: nn.Module, given: Iterable[str], *, origin: str) -> None:
    """Every tensor of `model` must have been given.

    Raises:
        ModelError: names the first tensors that were not.
    """
    missing = sorted(set(model.state_dict()) - set(given))
    if missing:
        raise ModelError(f"{origin}: {len(missing)} tensors are missing, first {missing[:3]}.")


@torch.no_grad()
def materialise(model: nn.Module, names: Iterable[str]) -> None:
    """Give the tensors `names`, which are on the meta device, memory and their class's own initialisation."""
    owners = dict.fromkeys(name.rpartition(".")[0] for name in names)
    for owner in owners:
        module = model.get_submodule(owner)
        if any(tensor.is_meta for tensor in module.parameters(recurse=False)):
            module.to_empty(device="cpu", recurse=False)
            module.reset_parameters()  # type: ignore[operator]


def _replace(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=module.get_parameter(leaf).requires_grad)


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(f"{path}: cannot be read as safetensors ({error}). Restore the file or write it again.")
