"""Owns an exported file on paper: its tensors with name, shape, dtype and the tensors of ours that they are made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch

from l2p.models.weights import Stored

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
SPELLINGS = {dtype: spelling for spelling, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file; `parts` are our tensors, one below the other, that it holds."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    parts: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size in the file."""
        return self.parameters * self.dtype.itemsize


def on_paper(tensors: Mapping[str, Any]) -> dict[str, Entry]:
    """Our tensors, in memory, on the meta device or not read yet, as they would stand in a file of our own."""
    return {
        name: Entry(name, tuple(tensor.shape), DTYPES[tensor.dtype] if isinstance(tensor, Stored) else tensor.dtype, ())
        for name, tensor in tensors.items()
    }


def join(name: str, parts: Iterable[Entry], dtype: torch.dtype | None) -> Entry:
    """The entry `name` that holds `parts` one below the other.

    Args:
        name: in the file.
        parts: equal but for their number of rows.
        dtype: of the entry; None = the parts' own, widened where they differ, so that no value changes.
    """
    parts = list(parts)
    rows = sum(part.shape[0] for part in parts)
    widest = reduce(torch.promote_types, (part.dtype for part in parts))
    return Entry(name, (rows, *parts[0].shape[1:]), dtype or widest, tuple(part.name for part in parts))
