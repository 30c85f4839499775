"""Owns reading a file in the official layout or ComfyUI's spelling as a delta on a pinned source.

What the file has in common with the source, bit for bit once the narrower of the two is widened, is not stored again.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from l2p.errors import ModelError
from l2p.files import atomic_path, read_json
from l2p.models.delta import save_delta
from l2p.models.formats.entries import Entry, on_paper
from l2p.models.formats.exporting import CONFIG
from l2p.models.formats.official import EXPRESSIBLE, SOURCE_CLASS, from_official, official_name, official_sampler
from l2p.models.formats.recognising import Recognised, recognise
from l2p.models.formats.stream import open_weights
from l2p.models.graft import build_empty, kept_tensors
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin, load_source_config, verify_source
from l2p.models.weights import Stored, assign

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Part(Stored):
    """Our tensor `ours` inside a file in another layout: its rows of the tensor `name`, read as ours."""

    ours: str = ""
    rows: tuple[int, int] = (0, 0)

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """Our tensor on the CPU; in `dtype`, if given."""
        return from_official(self.ours, super().read(dtype)[self.rows[0] : self.rows[1]])


@dataclass(frozen=True)
class Imported:
    """What was found: the tensors of the file, and how many of ours are new, differ from the source, or equal it."""

    spelling: str
    patch_size: int
    entries: list[Entry]
    new: int
    changed: int
    equal: int


def import_file(path: Path, folder: Path, *, pin: SourcePin) -> Imported:
    """Write the pixel model in the file `path` as a delta on `pin` into the new folder `folder`.

    Raises:
        MissingFileError: there is no such file.
        ModelError: the file is damaged, holds no pixel model, or one that does not fit the source.
        SourceError: the source differs from its pin.
    """
    if folder.exists():
        raise ModelError(f"{folder}: exists. Remove it, or give another --out.")
    stored = open_weights(path)
    found = recognise(stored, path)
    model = _build(found, pin)
    sampler = _agreed_sampler(path, model)
    parts = _match(found, stored, model, path)
    verify_source(pin)
    kept = kept_tensors(model, pin)
    new = [name for name in parts if name not in kept]
    shared = [name for name in parts if name in kept]
    progress = tqdm(shared, desc="compare with the source", unit="tensor", disable=None)
    changed = [name for name in progress if not _equal(parts[name].read(), kept[name].read())]
    assign(model, {name: parts[name] for name in (*new, *changed)}, origin=str(path))
    with atomic_path(folder) as partial:
        save_delta(model, partial, pin=pin, names=[*new, *changed], sampler=sampler)
    entries = list(on_paper(stored).values())
    equal = len(shared) - len(changed)
    return Imported(found.spelling, found.patch_size, entries, new=len(new), changed=len(changed), equal=equal)


def _build(found: Recognised, pin: SourcePin) -> PixelTransformer:
    if pin.transformer_class != SOURCE_CLASS:
        raise ModelError(
            f"{pin.path} is a {pin.transformer_class}: official pixel models stand on {SOURCE_CLASS}. Give the source "
            "that the file was made from with --source."
        )
    settings = {"patch_size": found.patch_size, "head_widths": found.head_widths}
    return build_empty(EXPRESSIBLE | settings | {"source_config": load_source_config(pin, "transformer")})


def _match(found: Recognised, stored: Mapping[str, Stored], model: PixelTransformer, path: Path) -> dict[str, Part]:
    """Where in the file each of our tensors lies: all are there, none is left over, and the shapes are the model's."""
    naming = {"patch_size": found.patch_size, "levels": len(found.head_widths)}
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    ours = {official_name(name, **naming): name for name in shapes}
    given = Counter(official for officials in found.parts.values() for official in officials)
    for problem, names in (
        ("missing", ours.keys() - given.keys()),
        ("unexpected", given.keys() - ours.keys()),
        ("given twice", {name for name, times in given.items() if times > 1}),
    ):
        if names:
            raise ModelError(
                f"{path}: {len(names)} tensors are {problem}, first {sorted(names)[:3]}. Expected the {len(ours)} of a "
                f"pixel model as large as the source ({_size(model)})."
            )
    parts: dict[str, Part] = {}
    for name, officials in found.parts.items():
        rows = _rows(stored[name], {ours[official]: shapes[ours[official]] for official in officials})
        if rows is None:
            raise ModelError(
                f"{path}: {name} has shape {list(stored[name].shape)}. Expected {[shapes[ours[o]] for o in officials]} "
                f"as in the source ({_size(model)}); is it a model of another source?"
            )
        parts |= rows
    return {name: parts[name] for name in shapes}


def _rows(stored: Stored, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Part] | None:
    """Tensors of ours, one below the other, in one of a file; None where it has another shape."""
    parts, start = {}, 0
    for name, shape in shapes.items():
        parts[name] = Part(stored.path, stored.name, shape, stored.dtype, name, (start, start + shape[0]))
        start += shape[0]
    whole = (start, *next(iter(shapes.values()))[1:])
    return parts if stored.shape == whole else None


def _agreed_sampler(path: Path, model: PixelTransformer) -> dict[str, Any]:
    """Sampler of a config.json of ours beside the file, which must agree with the weights; else the official one."""
    beside = path.with_name(CONFIG)
    config = read_json(beside, written_by="l2p export") if beside.is_file() else {}
    if config.get("_class_name") != type(model).__name__:
        return official_sampler(model.config.patch_size)
    own = _settings(json.loads(model.to_json_string()))
    stated = _settings(config)
    for setting in sorted(own.keys() | stated.keys() - {"sampler"}):
        if own.get(setting) != stated.get(setting):
            raise ModelError(
                f"{beside}: {setting} = {stated.get(setting)!r}, but the weights and the source say "
                f"{own.get(setting)!r}. Remove or correct it, or give the source it names with --source."
            )
    return dict(config["sampler"]) if "sampler" in config else official_sampler(model.config.patch_size)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration of ours flat, without what only says who wrote it."""
    nested = config.get("source_config", {})
    flat = {key: value for key, value in config.items() if key != "source_config"}
    flat |= {f"source_config.{key}": value for key, value in nested.items() if not key.startswith("_")}
    return {key: value for key, value in flat.items() if not key.startswith("_")}


def _equal(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same bits once both have the wider of their dtypes."""
    wide = torch.promote_types(tensor.dtype, other.dtype)
    bits = _BITS[wide.itemsize]
    return torch.equal(tensor.to(wide).contiguous().view(bits), other.to(wide).contiguous().view(bits))


def _size(model: PixelTransformer) -> str:
    return f"width of {model.token_dim}, {len(list(model.dit.get_submodule('layers').children()))} layers"
