"""Owns the conversion step: a pinned source becomes an untrained pixel model with the source's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin, load_source_config
from l2p.models.weights import assign, check_complete, read_folder


def source_tensors(pin: SourcePin) -> dict[str, Tensor]:
    """All weights of the source's transformer, under its own names."""
    return read_folder(pin.folder / "transformer")


def kept_tensors(model: PixelTransformer, pin: SourcePin) -> dict[str, Tensor]:
    """The source's transformer weights under the pixel model's names, without its embedder and its tail."""
    adapter = model.adapter
    dropped = (adapter.source_embedder, *adapter.source_tail(model.config.source_config))
    tensors = source_tensors(pin)
    return {
        f"dit.{name}": tensor
        for name, tensor in tensors.items()
        if not name.startswith(tuple(f"{d}." for d in dropped))
    }


@torch.no_grad()
def graft(pin: SourcePin, *, seed: int, **settings: Any) -> PixelTransformer:
    """Build the pixel model of `pin` with the source's weights; embedder and head are new, drawn with `seed`.

    Args:
        pin: the source.
        seed: seed of the new weights.
        settings: patch_size, head_widths, prediction, snr_scale, pixel_mean, linear_readout of `PixelTransformer`.

    Raises:
        ModelError: a tensor of the source is missing, unexpected or mis-shaped.
    """
    config = load_source_config(pin, "transformer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PixelTransformer(source_class=pin.transformer_class, source_config=config, **settings)
    kept = kept_tensors(model, pin)
    origin = f"{pin.path}/transformer"
    assign(model, kept, origin=origin)
    check_complete(model, set(kept) | set(model.new_tensors()), origin=origin)
    return model.eval()
