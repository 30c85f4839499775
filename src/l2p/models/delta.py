"""Owns the stored form of a pixel model: a delta (new and trained tensors) on a pinned source, like an adapter of PEFT.

A folder with config.json (PixelTransformer), delta.safetensors, and delta.json: source pin, tensor list, sha256 of the
weights and the sampler it was made for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from l2p.errors import ModelError
from l2p.files import atomic_path, read_json, sha256_file, write_json
from l2p.models.graft import build_empty, kept_tensors, move
from l2p.models.pixel_transformer import PixelTransformer, tensor_dtype
from l2p.models.source import SourcePin, verify_source
from l2p.models.weights import Stored, assign, check_complete, check_fits, index_file

CARD, WEIGHTS, CONFIG = "delta.json", "delta.safetensors", "config.json"


def save_delta(
    model: PixelTransformer,
    folder: Path,
    *,
    pin: SourcePin,
    names: list[str],
    sampler: dict[str, Any],
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the tensors `names` of `model` as a delta on `pin`, together with those that are new.

    Args:
        model: the pixel model.
        folder: where the delta is written.
        pin: the source it stands on.
        names: tensors that differ from the source's.
        sampler: num_steps, guidance_scale and shift.
        tensors: the tensors themselves, where the model does not hold them whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict() if tensors is None else tensors
    stored = sorted(set(names) | set(model.new_tensors()))
    with atomic_path(folder / WEIGHTS) as partial:
        save_file(
            {name: state[name].detach().cpu().contiguous() for name in stored}, partial, metadata={"format": "pt"}
        )
    write_json(folder / CONFIG, json.loads(model.to_json_string()))
    card = {
        "source": asdict(pin),
        "tensors": {name: list(state[name].shape) for name in stored},
        "weights_sha256": sha256_file(folder / WEIGHTS),
        "sampler": sampler,
    }
    write_json(folder / CARD, card)


def read_delta_card(folder: Path) -> dict[str, Any]:
    """delta.json of a delta folder."""
    card: dict[str, Any] = read_json(folder / CARD, written_by="l2p train")
    return card


@dataclass(frozen=True)
class StoredModel:
    """A pixel model that is not read yet.

    `model` has no memory, `tensors` are all of its tensors by name, in source or delta, `card` is delta.json.
    """

    model: PixelTransformer
    tensors: Mapping[str, Stored]
    card: dict[str, Any]


def open_delta(folder: Path) -> StoredModel:
    """A delta folder, verified, without reading a tensor into a model.

    Raises:
        SourceError: the source differs from the pin.
        ModelError: the delta's weights are damaged, incomplete, or do not fit its configuration.
    """
    card = read_delta_card(folder)
    pin, weights = SourcePin(**card["source"]), folder / WEIGHTS
    if not weights.is_file() or sha256_file(weights) != card["weights_sha256"]:
        raise ModelError(
            f"{weights}: missing or not what {CARD} says (sha256 {card['weights_sha256'][:12]}). Restore it."
        )
    verify_source(pin)
    model = build_empty(read_json(folder / CONFIG, written_by="l2p train"))
    kept, delta = kept_tensors(model, pin), index_file(weights)
    check_fits(model, kept, origin=f"{pin.path}/transformer")
    check_fits(model, delta, origin=str(weights))
    check_complete(model, {*kept, *delta}, origin=str(weights))
    return StoredModel(model, {**kept, **delta}, card)


def load_pixel_model(folder: Path, *, device: str = "cpu", dtype: str = "float32") -> PixelTransformer:
    """Rebuild a pixel model: the verified source's weights, with the delta's in place of those that it has.

    Raises:
        SourceError: the source differs from the pin.
        ModelError: the delta's weights are damaged, incomplete, or do not fit its configuration.
    """
    stored = open_delta(folder)
    assign(stored.model, stored.tensors, origin=str(folder), dtype=tensor_dtype(dtype), device=device)
    return move(stored.model, device, dtype).eval()
