"""Stage `convert`: the pinned source becomes an untrained pixel model, stored as a delta."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from l2p.config import Layout, Params
from l2p.errors import MissingFileError
from l2p.models.delta import save_delta
from l2p.models.embeddings import EmbeddingStore
from l2p.models.fitting import Calibration, evenly, fit_graft
from l2p.models.graft import graft
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin


def sampler_card(params: Params) -> dict[str, Any]:
    """The sampler settings that travel with a pixel model."""
    return params.sampling.pixel.model_dump()


def run(params: Params) -> None:
    """Graft the source and write `models/init`."""
    pin = SourcePin.load(Layout.source)
    model = _converted(pin, params)
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler=sampler_card(params))
    new = sum(model.state_dict()[name].numel() for name in model.new_tensors())
    total = sum(tensor.numel() for tensor in model.state_dict().values())
    print(f"converted {pin.transformer_class} {pin.digest[:12]}: {total:,} parameters, {new:,} of them new")


def _converted(pin: SourcePin, params: Params) -> PixelTransformer:
    settings = params.convert
    shape = {"patch_size": settings.patch_size_px, "head_widths": settings.head.widths}
    if settings.init == "random":
        return graft(pin, seed=settings.seed, prediction=settings.prediction, **shape)
    model, fit = fit_graft(pin, _calibration(params), ridge=settings.ridge, seed=settings.seed, **shape)
    print(
        f"fitted both ends: a linear encoder explains {fit.r2:.0%} of the latents, noise gain s = {fit.noise_gain:.2f}"
    )
    return model


def _calibration(params: Params) -> Calibration:
    """Accepted corpus images, spread evenly over the corpus, with their prompts' embeddings."""
    if not Layout.manifest.is_file():
        raise MissingFileError(f"{Layout.manifest}: not found. `l2p validate` writes it; run that first.")
    manifest = pd.read_parquet(Layout.manifest, columns=["file_name", "prompt_id"])
    rows = manifest.iloc[evenly(len(manifest), params.convert.calibration_images)]
    store = EmbeddingStore(Layout.embeddings)
    images = [np.asarray(Image.open(Layout.corpus / name).convert("RGB")) for name in rows.file_name]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return Calibration(stacked, [store.get(prompt_id) for prompt_id in rows.prompt_id])
