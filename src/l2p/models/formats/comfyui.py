"""Owns ComfyUI's spelling of the official layout: a prefix, one matrix for q, k and v, and names of its own.

Facts: `z_image_to_diffusers` in ComfyUI's comfy/utils.py and its detection in comfy/model_detection.py; see
docs/formats.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

PREFIX = "model.diffusion_model."

_RENAMED = {
    "attention.to_out.0.": "attention.out.",
    "attention.norm_q.": "attention.q_norm.",
    "attention.norm_k.": "attention.k_norm.",
}
_FUSED = ".attention.qkv."
_PROJECTIONS = tuple(f".attention.to_{part}." for part in "qkv")  # in the order of their rows in the fused matrix
_NUMBERED_EMBEDDER = re.compile(r"^all_x_embedder\.\d+-1\.")


def comfyui_layout(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Name in ComfyUI's file -> official names of the tensors that it holds, one below the other."""
    layout: dict[str, tuple[str, ...]] = {}
    for name in names:
        own = _own_name(name)
        layout[own] = tuple(official_names(own, name)) if _FUSED in own else (name,)
    return layout


def official_names(name: str, embedder: str) -> list[str]:
    """Official names of what the tensor `name` of a file holds; the file may spell any of them either way.

    Args:
        name: in the file, with or without ComfyUI's prefix.
        embedder: how the official layout calls the patch embedder, such as "all_x_embedder.16-1.".
    """
    name = name.removeprefix(PREFIX)
    for official, own in _RENAMED.items():
        name = name.replace(own, official)
    if name.startswith("x_embedder."):
        name = embedder + name.removeprefix("x_embedder.")
    return [name.replace(_FUSED, projection) for projection in _PROJECTIONS] if _FUSED in name else [name]


def is_comfyui(names: Iterable[str]) -> bool:
    """Whether any of the names of a file is spelled in ComfyUI's way."""
    return any(name.startswith((PREFIX, "x_embedder.")) or _FUSED in name for name in names)


def _own_name(name: str) -> str:
    for official, own in _RENAMED.items():
        name = name.replace(official, own)
    for projection in _PROJECTIONS:
        name = name.replace(projection, _FUSED)
    return PREFIX + _NUMBERED_EMBEDDER.sub("x_embedder.", name)
