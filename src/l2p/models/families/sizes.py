"""Owns the sizes of published checkpoints and of their pixel models, counted on the meta device: without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import nn

from l2p.config import TrainableParams
from l2p.models.adapters import get_adapter
from l2p.models.families import KnownSource
from l2p.models.graft import build_empty
from l2p.models.pixel_transformer import PixelTransformer, parameters_of

TRAINED_ENDS = (1, 2, 3, 5)  # n of the paper: image blocks trained at each end


@dataclass(frozen=True)
class Sizes:
    """`trained` holds the trained parameters by n, with embedder, refiners, pad tokens and the default head."""

    parameters: int
    token_dim: int
    blocks: int
    native_patch_px: int
    trained: dict[int, int]


def count_sizes(known: KnownSource) -> Sizes:
    """Count the parameters of `known` and of its pixel model at the native patch.

    Raises:
        SourceError: no adapter for its class.
    """
    model = empty_pixel_model(known)
    adapter = model.adapter
    blocks = [block for name in adapter.image_blocks for block in model.dit.get_submodule(name).children()]
    return Sizes(
        parameters=parameters_of(empty_source(known)),
        token_dim=model.token_dim,
        blocks=len(blocks),
        native_patch_px=adapter.native_patch_px,
        trained={ends: count_trained(model, ends) for ends in TRAINED_ENDS},
    )


def count_trained(model: PixelTransformer, ends: int) -> int:
    """Trained parameters of `model` with n = `ends` blocks at each end; what is trained stays set."""
    model.set_trainable(
        TrainableParams(embedder=True, first_blocks=ends, last_blocks=ends, refiners=True, pad_tokens=True, head=True)
    )
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def empty_source(known: KnownSource) -> nn.Module:
    """The source's own transformer on the meta device, buffers included."""
    with torch.device("meta"):
        transformer: nn.Module = getattr(diffusers, known.transformer_class)(**known.settings)
    return transformer


def empty_pixel_model(known: KnownSource, **changes: Any) -> PixelTransformer:
    """The pixel model of `known` on the meta device, buffers included.

    Args:
        known: the checkpoint.
        changes: arguments of `PixelTransformer`; the patch is the native one unless they say otherwise.
    """
    adapter = get_adapter(known.transformer_class)
    config = {"source_class": known.transformer_class, "source_config": known.settings}
    with torch.device("meta"):
        return build_empty({**config, "patch_size": adapter.native_patch_px, **changes})
