"""Stage `convert`: the pinned source becomes an untrained pixel model, stored as a delta."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from l2p.config import Layout, Params
from l2p.errors import MissingFileError
from l2p.files import require_below
from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import to_device
from l2p.models.delta import save_delta
from l2p.models.embedder import choose_rank
from l2p.models.embeddings import EmbeddingStore
from l2p.models.fitting import Calibration, evenly, fit_graft
from l2p.models.graft import graft
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer
from l2p.models.source import SourcePin, load_source_config


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
    settings, shape = params.convert, _shape(pin, params)
    if settings.init == "random":
        return graft(pin, seed=settings.seed, prediction=settings.prediction, **shape)
    model, fit = fit_graft(pin, _calibration(params), ridge=settings.ridge, seed=settings.seed, **shape)
    print(
        f"fitted both ends: a linear encoder explains {fit.r2:.0%} of the latents, noise gain s = {fit.noise_gain:.2f}"
    )
    return model


def _shape(pin: SourcePin, params: Params) -> dict[str, Any]:
    """Patch, head and embedder of the pixel model."""
    settings, config = params.convert, load_source_config(pin, "transformer")
    rank = choose_rank(
        CHANNELS * settings.patch_size_px**2,
        get_adapter(pin.transformer_class).token_dim(config),
        max_parameters=settings.embedder.max_parameters,
        rank=settings.embedder.rank,
    )
    return {
        "patch_size": settings.patch_size_px,
        "head_type": settings.head.type,
        "head_widths": settings.head.widths,
        "embedder_rank": rank,
    }


def _calibration(params: Params) -> Calibration:
    """Accepted corpus images of the size that most have, spread evenly, with their prompts' embeddings."""
    if not Layout.manifest.is_file():
        raise MissingFileError(f"{Layout.manifest}: not found. `l2p validate` writes it; run that first.")
    manifest = pd.read_parquet(Layout.manifest, columns=["file_name", "prompt_id", "height_px", "width_px"])
    sizes = manifest.groupby(["height_px", "width_px"])
    manifest = sizes.get_group(sizes.size().idxmax())
    rows = manifest.iloc[evenly(len(manifest), params.convert.calibration_images)]
    store = EmbeddingStore(Layout.embeddings)
    require_below(rows["file_name"], where=str(Layout.manifest))
    images = [np.asarray(Image.open(Layout.corpus / name).convert("RGB")) for name in rows.file_name]
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    texts = [to_device(store.get(prompt_id), torch.device("cpu"), torch.float32) for prompt_id in rows.prompt_id]
    return Calibration(stacked, texts)
