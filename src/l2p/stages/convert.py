"""Stage `convert`: the pinned source becomes an untrained pixel model, stored as a delta."""

from __future__ import annotations

from typing import Any

from l2p.config import Layout, Params
from l2p.models.delta import save_delta
from l2p.models.graft import graft
from l2p.models.source import SourcePin


def sampler_card(params: Params) -> dict[str, Any]:
    """The sampler settings that travel with a pixel model."""
    return params.sampling.pixel.model_dump()


def run(params: Params) -> None:
    """Graft the source and write `models/init`."""
    pin = SourcePin.load(Layout.source)
    settings = params.convert
    model = graft(
        pin,
        seed=settings.seed,
        patch_size=settings.patch_size_px,
        head_widths=settings.head.widths,
        prediction=settings.prediction,
        snr_scale=settings.snr_scale,
    )
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler=sampler_card(params))
    new = sum(model.state_dict()[name].numel() for name in model.new_tensors())
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    print(f"converted {pin.transformer_class} {pin.digest[:12]}: {total:,} parameters, {new:,} of them new")
