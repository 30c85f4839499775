"""Owns writing a safetensors file one tensor after the other, and saying of a file why it is not a whole one.

The library writes whole dictionaries; a model of this size would be in memory twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from l2p.errors import MissingFileError, ModelError
from l2p.files import atomic_path
from l2p.models.formats.entries import SPELLINGS, Entry
from l2p.models.weights import Stored, index_file

_LENGTH_BYTES = 8  # of the number that precedes the header: its length, little endian
_ALIGNMENT = 8
_LONGEST_HEADER = 100_000_000  # that the library reads, in bytes
_PICKLES = (b"PK\x03\x04", b"\x80")  # how files of torch.save begin: a zip archive, or a bare pickle


def write_tensors(path: Path, entries: Sequence[Entry], read: Callable[[Entry], Tensor]) -> None:
    """Write `entries` to the safetensors file `path`, whole or not at all.

    Args:
        path: the file.
        entries: all of its tensors.
        read: gives the tensor of an entry, on the CPU with the entry's shape and dtype.
    """
    # The widest first, as the library has it: then every tensor begins at a multiple of its item size.
    ordered = sorted(entries, key=lambda entry: (-entry.dtype.itemsize, entry.name))
    header = _header(ordered)
    with atomic_path(path) as partial, partial.open("wb") as stream:
        stream.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        total = sum(entry.bytes for entry in ordered)
        with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=None) as progress:
            for entry in ordered:
                tensor = read(entry)
                assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), entry.name
                stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
                progress.update(entry.bytes)


def open_weights(path: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file that somebody else wrote, by name; only its header is read.

    Raises:
        MissingFileError: there is no such file.
        ModelError: a pickle, a truncated file, or none of this kind; says what was expected.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: no such file. Expected a .safetensors file with the weights of a model.")
    found = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        promised = _promised_bytes(stream.read(length)) if length < min(found, _LONGEST_HEADER) else None
    if promised is None and start.startswith(_PICKLES):
        raise ModelError(
            f"{path}: a pickled PyTorch file, which can run code when it is opened. Only safetensors is read; get the "
            "model in that form."
        )
    if promised is not None and found != _LENGTH_BYTES + length + promised:
        raise ModelError(
            f"{path}: {found:,} bytes, but its header promises {_LENGTH_BYTES + length + promised:,}. The file is "
            "truncated or damaged; fetch it again."
        )
    return index_file(path)


def _header(entries: Sequence[Entry]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for entry in entries:
        offsets = [start, start + entry.bytes]
        header[entry.name] = {"dtype": SPELLINGS[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        start += entry.bytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % _ALIGNMENT)


def _promised_bytes(header: bytes) -> int | None:
    """How many bytes of tensors a header announces; None where it is no header."""
    try:
        tensors = json.loads(header)
        return max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
