"""Owns the official layout: which of our tensors has which published name, and what differs besides the name.

The columns of the published patch embedder are (ph, pw, c) where ours are (c, ph, pw), and the published head puts out
x0 - eps where ours puts out eps - x0 (decision 0001). Both changes are exact, so both directions are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from l2p.errors import ModelError

SOURCE_CLASS = "ZImageTransformer2DModel"
EMBEDDER, OUTPUT = "dit.all_x_embedder.1-1.", "head.out_conv."
PUBLISHED_EMBEDDER, PUBLISHED_HEAD = "all_x_embedder.", "local_decoder."

# All that the layout can say; a model with anything else would be another model once it is read back.
EXPRESSIBLE: dict[str, Any] = {
    "source_class": SOURCE_CLASS,
    "head_type": "official",
    "embedder_rank": None,
    "prediction": "velocity",
    "snr_scale": 1.0,
    "pixel_mean": [0.0, 0.0, 0.0],
    "linear_readout": False,
}

# Samplers of the official scripts. Their cfg_scale w is v_u + w (v_c - v_u); Z-Image's guidance scale is w - 1.
SAMPLER_1K = {"num_steps": 30, "guidance_scale": 1.0, "shift": 3.0}
SAMPLER_4K = {"num_steps": 50, "guidance_scale": 3.0, "shift": 5.0}
PATCH_4K_PX = 64

_LEVELS_4K = ("0", "0b", "1", "2", "3", "4")
_STAGE = re.compile(r"^head\.(enc|up|dec)(\d+)\.")


def check_expressible(config: Mapping[str, Any]) -> None:
    """Refuse a pixel model that the official layout cannot express.

    Raises:
        ModelError: names the setting.
    """
    for setting, expected in EXPRESSIBLE.items():
        found = list(config[setting]) if setting == "pixel_mean" else config[setting]
        if found != expected:
            raise ModelError(
                f"{setting} = {found!r}: the official and ComfyUI layouts know {expected!r} only. Export with --format "
                "diffusers, which keeps every setting."
            )
    if config["source_config"].get("siglip_feat_dim") is not None:
        raise ModelError(
            "source_config.siglip_feat_dim: the official and ComfyUI layouts know text conditioning only. Export with "
            "--format diffusers."
        )


def official_sampler(patch_size: int) -> dict[str, Any]:
    """How the official scripts sample a model of this patch: the 1K script's settings, or those of 4K and above."""
    return dict(SAMPLER_4K if patch_size >= PATCH_4K_PX else SAMPLER_1K)


def level_names(levels: int) -> tuple[str, ...]:
    """Published names of the head's levels, outermost first; the 4K head has two levels around those of the 1K head."""
    return _LEVELS_4K if levels == len(_LEVELS_4K) else tuple(str(level) for level in range(1, levels + 1))


def official_name(name: str, *, patch_size: int, levels: int) -> str:
    """Published name of our tensor `name`.

    Args:
        name: of ours.
        patch_size: P, pixels.
        levels: of the head.
    """
    if name.startswith(EMBEDDER):
        return f"{PUBLISHED_EMBEDDER}{patch_size}-1.{name.removeprefix(EMBEDDER)}"
    published = level_names(levels)
    name = _STAGE.sub(lambda stage: f"head.{stage[1]}{published[int(stage[2]) - 1]}.", name)
    if name.startswith("head."):
        return PUBLISHED_HEAD + name.removeprefix("head.")
    return name.removeprefix("dit.")


def to_official(name: str, tensor: Tensor) -> Tensor:
    """Values of our tensor `name` as they are published."""
    if name == f"{EMBEDDER}weight":
        return tensor.unflatten(1, (3, -1)).transpose(1, 2).flatten(1)
    return -tensor if name.startswith(OUTPUT) else tensor


def from_official(name: str, tensor: Tensor) -> Tensor:
    """Values of our tensor `name` from the published ones."""
    if name == f"{EMBEDDER}weight":
        return tensor.unflatten(1, (-1, 3)).transpose(1, 2).flatten(1)
    return -tensor if name.startswith(OUTPUT) else tensor
