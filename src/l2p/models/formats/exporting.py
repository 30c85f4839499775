"""Owns writing a pixel model as one file in the official layout or in ComfyUI's spelling of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from l2p.errors import ModelError
from l2p.files import read_json, write_json
from l2p.models.delta import StoredModel
from l2p.models.formats.comfyui import comfyui_layout
from l2p.models.formats.entries import Entry, join, on_paper
from l2p.models.formats.official import check_expressible, official_name, to_official
from l2p.models.formats.stream import write_tensors
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.weights import Stored

CONFIG = "config.json"  # beside the weights: how the model is built, and its sampler


def plan_file(
    model: PixelTransformer, tensors: Mapping[str, Any], *, comfyui: bool, dtype: torch.dtype | None = None
) -> list[Entry]:
    """What an exported file holds; nothing is read, so that tensors may be on the meta device.

    Args:
        model: whose configuration decides the layout.
        tensors: by our names, of a state dict or as stored.
        comfyui: ComfyUI's spelling instead of the official one.
        dtype: of all tensors; None = as they are.

    Raises:
        ModelError: the layout cannot express the model.
    """
    check_expressible(model.config)
    naming = {"patch_size": model.config.patch_size, "levels": len(model.config.head_widths)}
    ours = {official_name(name, **naming): entry for name, entry in on_paper(tensors).items()}
    layout = comfyui_layout(ours) if comfyui else {name: (name,) for name in ours}
    return [join(name, [ours[part] for part in parts], dtype) for name, parts in layout.items()]


def export_file(stored: StoredModel, path: Path, entries: list[Entry]) -> None:
    """Write what `plan_file` planned, one tensor at a time, and config.json beside it.

    Raises:
        ModelError: config.json beside `path` is that of another model, or a value does not fit the dtype.
    """
    config = json.loads(stored.model.to_json_string()) | {"sampler": stored.card["sampler"]}
    _check_folder(path, config)
    write_tensors(path, entries, lambda entry: _read(entry, stored.tensors))
    write_json(path.with_name(CONFIG), config)


def _read(entry: Entry, tensors: Mapping[str, Stored]) -> Tensor:
    tensor = torch.cat([to_official(part, tensors[part].read()).to(entry.dtype) for part in entry.parts])
    if entry.dtype == torch.float16 and not tensor.isfinite().all():
        raise ModelError(f"{entry.name}: has values beyond float16's 65,504. Export with --dtype bfloat16.")
    return tensor


def _check_folder(path: Path, config: dict[str, Any]) -> None:
    """A second model in one folder would give the first one its configuration."""
    beside = path.with_name(CONFIG)
    others = sorted(other.name for other in path.parent.glob("*.safetensors") if other.name != path.name)
    if others and beside.is_file() and read_json(beside, written_by="l2p export") != config:
        raise ModelError(f"{beside}: describes another model, {others[0]}. Give --out a folder of its own.")
