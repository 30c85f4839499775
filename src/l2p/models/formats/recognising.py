"""Owns finding out what a file of weights is: an official pixel model in one of its spellings, or why it is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from l2p.errors import ModelError
from l2p.models.formats.comfyui import PREFIX, is_comfyui, official_names
from l2p.models.formats.entries import DTYPES
from l2p.models.formats.official import PUBLISHED_EMBEDDER, PUBLISHED_HEAD, level_names
from l2p.models.weights import Stored

EXPECTED = (
    "a Z-Image pixel model in the official layout or ComfyUI's: a patch embedder (`all_x_embedder.16-1` or "
    "`x_embedder`), the blocks, and a head `local_decoder`"
)
_EMBEDDER = re.compile(r"^(?:all_x_embedder\.(\d+)-1|x_embedder)\.weight$")
_ENCODER = re.compile(r"^local_decoder\.enc(\w+)\.0\.weight$")
_LORA = re.compile(r"lora_|\.lokr_|\.hada_|\.dora_")
_OUTER_LEVELS = ("local_decoder.enc_8k.", "local_decoder.enc_10k_a.")


@dataclass(frozen=True)
class Recognised:
    """What a file holds: `parts` maps its names to official ones, one below the other."""

    spelling: str
    patch_size: int
    head_widths: tuple[int, ...]
    parts: dict[str, list[str]]


def recognise(tensors: Mapping[str, Stored], path: Path) -> Recognised:
    """Patch, head and spelling of the pixel model in a file, from its names and shapes.

    Raises:
        ModelError: it is something else; says what it seems to be and what was expected.
    """
    bare = {name.removeprefix(PREFIX): stored for name, stored in tensors.items()}
    if wrong := _what_else(bare):
        raise ModelError(f"{path}: {wrong} Expected {EXPECTED}.")
    patch_size = _patch(bare, path)
    embedder = f"{PUBLISHED_EMBEDDER}{patch_size}-1."
    return Recognised(
        spelling="ComfyUI's spelling" if is_comfyui(tensors) else "official layout",
        patch_size=patch_size,
        head_widths=_widths(bare, path),
        parts={name: official_names(name, embedder) for name in tensors},
    )


def _what_else(bare: Mapping[str, Stored]) -> str | None:
    """What a file is that is no pixel model; None for one that may be."""
    first = sorted(bare)[:3]
    if any(_LORA.search(name) for name in bare):
        return f"a LoRA (first tensors {first}), which changes a model and is none."
    strange = sorted(name for name, stored in bare.items() if stored.dtype not in DTYPES)
    if strange:
        return f"{strange[0]} is stored as {bare[strange[0]].dtype}: a quantized model, which cannot be taken back."
    if any(name.startswith(_OUTER_LEVELS) for name in bare):
        return "an 8K or 10K model, whose head has an outer level of 3 channels that no head of ours has."
    if any(name.startswith(PUBLISHED_HEAD) for name in bare):
        return None
    if any(name.startswith(("all_final_layer.", "final_layer.")) for name in bare):
        return "a latent Z-Image model: it has a final layer and no local_decoder. `l2p convert` makes one of pixels."
    if any(name.startswith("dec_net.") for name in bare):
        return "another pixel model on Z-Image, with a head `dec_net`."
    if any(name.startswith(("dit.", "head.")) for name in bare):
        return "weights in our own layout, which are read as the folder they lie in."
    return f"not a pixel model (first tensors {first})."


def _patch(bare: Mapping[str, Stored], path: Path) -> int:
    """Side of the patch by the width of the embedder, which its name, if that has a number, must confirm."""
    found = {name: match for name in bare if (match := _EMBEDDER.match(name))}
    if len(found) != 1:
        names = ", ".join(sorted(found)) or "none"
        raise ModelError(f"{path}: patch embedders found: {names}. Expected one.")
    name, match = next(iter(found.items()))
    shape = bare[name].shape
    patch = math.isqrt(shape[-1] // 3)
    if len(shape) != 2 or shape[1] != 3 * patch**2 or patch == 0:
        raise ModelError(f"{path}: {name} has shape {list(shape)}. Expected [D, 3 P P] for RGB patches of P pixels.")
    if match[1] and int(match[1]) != patch:
        raise ModelError(f"{path}: {name} has {shape[1]} columns, so patch {patch}, and patch {match[1]} by its name.")
    return patch


def _widths(bare: Mapping[str, Stored], path: Path) -> tuple[int, ...]:
    """Channels of the head's levels, outermost first."""
    found = {match[1]: stored.shape[0] for name, stored in bare.items() if (match := _ENCODER.match(name))}
    levels = level_names(len(found))
    if not found or set(levels) != set(found):
        raise ModelError(
            f"{path}: levels of the head are {', '.join(sorted(found)) or 'none'}. Expected local_decoder.enc1 to enc4 "
            "as in the 1K model, or enc0, enc0b and enc1 to enc4 as in the 4K one."
        )
    return tuple(found[level] for level in levels)
