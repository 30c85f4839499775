"""Owns writing a pixel model as a whole diffusers pipeline: model, scheduler and the source's own text encoders."""

from __future__ import annotations

from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2p.errors import ModelError
from l2p.files import atomic_path
from l2p.models.delta import StoredModel
from l2p.models.formats.entries import DTYPES, Entry, join, on_paper
from l2p.models.pipeline import TEXT_PARTS, assemble
from l2p.models.source import SourcePin, load_text_pipeline
from l2p.models.weights import assign, index_folder

SHARD_SIZE = "5GB"  # of one file of weights


def plan_transformer(stored: StoredModel, dtype: torch.dtype | None) -> list[Entry]:
    """The tensors of the folder's `transformer`; nothing is read."""
    return [join(name, [entry], dtype) for name, entry in on_paper(stored.tensors).items()]


def export_pipeline(stored: StoredModel, folder: Path, dtype: torch.dtype | None) -> None:
    """Write the new folder `folder`, which `l2p.load_pixel_pipeline` and `DiffusionPipeline.from_pretrained` read.

    Args:
        stored: the model; it is read into memory, and stays in it.
        folder: must not exist.
        dtype: of the model and the text encoders; None = as stored.

    Raises:
        ModelError: the folder exists.
    """
    if folder.exists():
        raise ModelError(f"{folder}: exists. Remove it, or give another --out.")
    pin = SourcePin(**stored.card["source"])
    assign(stored.model, stored.tensors, origin=pin.path, dtype=dtype)
    _check_finite(stored.model)
    pipeline = assemble(stored.model, stored.card, _text_parts(pin, dtype))
    with atomic_path(folder) as partial:
        pipeline.save_pretrained(partial, max_shard_size=SHARD_SIZE)


def _text_parts(pin: SourcePin, dtype: torch.dtype | None) -> dict[str, Any]:
    """The source's tokenizers and text encoders; without a dtype in the widest that one of them is stored in."""
    folders = [pin.folder / name for name in TEXT_PARTS if name.startswith("text_encoder")]
    stored = [tensor.dtype for folder in folders if folder.is_dir() for tensor in index_folder(folder).values()]
    wanted = dtype or reduce(torch.promote_types, {DTYPES[name] for name in stored if name in DTYPES})
    pipeline = load_text_pipeline(pin, dtype="bfloat16" if wanted == torch.bfloat16 else "float32")
    parts = {name: getattr(pipeline, name, None) for name in TEXT_PARTS}
    return {name: part.to(wanted) if isinstance(part, nn.Module) else part for name, part in parts.items()}


def _check_finite(model: nn.Module) -> None:
    """A value beyond float16's range becomes infinite without an error."""
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float16 and not parameter.isfinite().all():
            raise ModelError(f"{name}: has values beyond float16's 65,504. Export with --dtype bfloat16.")
