"""Owns the conversion step: a pinned source becomes an untrained pixel model with the source's weights."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn

from l2p.models.pixel_transformer import PixelTransformer, tensor_dtype
from l2p.models.source import SourcePin, load_source_config
from l2p.models.weights import Stored, assign, check_complete, index_folder, materialise


def source_tensors(pin: SourcePin) -> dict[str, Stored]:
    """All weights of the source's transformer, under its own names, not read yet."""
    return index_folder(pin.folder / "transformer")


def kept_tensors(model: PixelTransformer, pin: SourcePin) -> dict[str, Stored]:
    """The source's transformer weights under the pixel model's names, without its embedder and its tail."""
    left_behind = model.adapter.left_behind
    return {f"dit.{name}": stored for name, stored in source_tensors(pin).items() if not left_behind(name)}


def build_empty(config: dict[str, Any]) -> PixelTransformer:
    """A pixel model of `config` whose parameters have no memory yet (meta device); computed buffers are real."""
    with init_empty_weights(include_buffers=False):
        return PixelTransformer(**{key: value for key, value in config.items() if not key.startswith("_")})


def move(model: PixelTransformer, device: str, dtype: str) -> PixelTransformer:
    """The model on `device` and in `dtype`; diffusers' own `to` warns of modules to keep in float32: of none."""
    nn.Module.to(model, device, tensor_dtype(dtype))
    return model


@torch.no_grad()
def graft(
    pin: SourcePin, *, seed: int, dtype: str = "float32", device: str = "cpu", **settings: Any
) -> PixelTransformer:
    """Build the pixel model of `pin` with the source's weights; embedder and head are new, drawn with `seed`.

    Args:
        pin: the source.
        seed: seed of the new weights.
        dtype: of the weights.
        device: where they go.
        settings: patch_size, head_type, head_widths, embedder_rank, prediction, snr_scale, pixel_mean, linear_readout
            of `PixelTransformer`.

    Raises:
        ModelError: a tensor of the source is missing, unexpected or mis-shaped.
    """
    config = load_source_config(pin, "transformer")
    model = build_empty({"source_class": pin.transformer_class, "source_config": config, **settings})
    kept = kept_tensors(model, pin)
    origin = f"{pin.path}/transformer"
    assign(model, kept, origin=origin, dtype=tensor_dtype(dtype), device=device)
    new = model.new_tensors()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        materialise(model, new)
    model.initialise_head()
    check_complete(model, {*kept, *new}, origin=origin)
    return move(model, device, dtype).eval()
