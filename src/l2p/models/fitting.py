"""Owns the closed-form start of a conversion: both new ends fitted by least squares (decision 0003).

Input end: A maps an RGB patch to what the source's VAE and patchify give for it. It is completed to W = A + U with
W W^T = s^2 I by directions of least signal, so that white pixel noise becomes white latent noise of deviation s: the
frozen blocks then see latents as they know them, at the noise level sigma' of `snr_scale` s.
Output end: a linear map from the token features to the clean RGB patch.
"""

# N patches, K values of a latent token, D token width, P patch side, B batch

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from l2p.diffusion.path import interpolate
from l2p.diffusion.timesteps import draw_sigma
from l2p.errors import ModelError
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.graft import graft, source_tensors
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin, load_source_config, load_source_pipeline

BATCH_SIZE = 100
SEPARATION = 1e3  # eigenvalue that keeps the rows of A out of the least-signal directions
MAX_PATCH_VALUES = 4096  # the fit solves dense systems of this size; larger patches start at random
NOISE_SEED = 5


@dataclass(frozen=True)
class Calibration:
    """Images uint8 [N, 3, H, W] of the source with the embedding of each one's prompt."""

    images: Tensor
    embeddings: list[PromptEmbedding]


@dataclass(frozen=True)
class EncoderFit:
    """Linear encoder: latent token = weight @ (patch - mean patch), weight [K, 3PP] in pixel_unshuffle order.

    `noise_gain` is s; `r2` the share of the latents' variance that is explained, 0..1.
    """

    weight: Tensor
    pixel_mean: tuple[float, ...]
    noise_gain: float
    r2: float


def fit_graft(
    pin: SourcePin, calibration: Calibration, *, ridge: float, seed: int, **settings: Any
) -> tuple[PixelTransformer, EncoderFit]:
    """Graft `pin` with both ends fitted on `calibration`.

    Args:
        pin: the source.
        calibration: some hundred images of the source.
        ridge: regularisation of both fits, in units of squared pixel values in [-1, 1].
        seed: seed of what stays random (the head).
        settings: patch_size, head_type, head_widths, embedder_rank of `PixelTransformer`.

    Raises:
        ModelError: the patch is too large to be fitted.
    """
    pixels = calibration.images.float() / 127.5 - 1
    encoder = fit_encoder(pin, pixels, patch_size=settings["patch_size"], ridge=ridge)
    model = graft(
        pin,
        seed=seed,
        prediction="x0",
        snr_scale=encoder.noise_gain,
        pixel_mean=encoder.pixel_mean,
        linear_readout=True,
        **settings,
    )
    _start_embedder(model, encoder, pin)
    shift = _own_shift(load_source_config(pin, "scheduler")) / encoder.noise_gain
    _fit_readout(model, pixels, calibration.embeddings, ridge=ridge, shift=shift)
    return model, encoder


@torch.no_grad()
def _start_embedder(model: PixelTransformer, encoder: EncoderFit, pin: SourcePin) -> None:
    """Make the patch embedder the source's own after the linear encoder, in place."""
    embedder = model.dit.get_submodule(model.adapter.embedder)
    if not hasattr(embedder, "weight"):
        raise ModelError(
            "convert.init: fitted needs a linear patch embedder, and this one has a bottleneck. Raise "
            "convert.embedder.max_parameters, or set convert.init: random."
        )
    tensors = {name: stored.read() for name, stored in source_tensors(pin).items() if model.adapter.left_behind(name)}
    weight, bias = model.adapter.source_embedding(tensors)
    embedder.weight.copy_((weight.double() @ encoder.weight).reshape(embedder.weight.shape))
    if bias is not None:
        embedder.bias.copy_(bias)


@torch.no_grad()
def fit_encoder(pin: SourcePin, pixels: Tensor, *, patch_size: int, ridge: float) -> EncoderFit:
    """Fit the linear encoder on pixels [B, 3, H, W] in [-1, 1] against the source's own VAE."""
    if 3 * patch_size**2 > MAX_PATCH_VALUES:
        raise ModelError(
            f"convert.patch_size_px = {patch_size}: a patch has {3 * patch_size**2} values, too many to be fitted "
            f"(at most {MAX_PATCH_VALUES}). Set convert.init: random."
        )
    pipeline = load_source_pipeline(pin)
    adapter, mean = PixelTransformer.adapter_of(pin.transformer_class), pixels.mean((0, 2, 3))
    latents = torch.cat([_latents(pipeline.vae, batch) for batch in pixels.split(BATCH_SIZE)])
    target = adapter.latent_tokens(latents, pipeline.transformer.config).flatten(0, 1).double()
    patches = _patches(pixels - mean.view(1, 3, 1, 1), patch_size).double()
    signal, wanted = patches - patches.mean(0), target - target.mean(0)
    covariance = signal.T @ signal / len(signal)
    identity = torch.eye(len(covariance), dtype=torch.float64)
    weight = (wanted.T @ signal / len(signal)) @ torch.linalg.inv(covariance + ridge * identity)
    r2 = 1 - (wanted - signal @ weight.T).square().mean() / wanted.square().mean()
    white, gain = _whiten(weight, covariance)
    return EncoderFit(white, tuple(mean.tolist()), gain, float(r2))


def _whiten(weight: Tensor, covariance: Tensor) -> tuple[Tensor, float]:
    """Add least-signal directions to `weight` [K, M] until W W^T = s^2 I; returns W and s."""
    squared, basis = torch.linalg.eigh(weight @ weight.T)
    gain = float(squared.max().sqrt())
    rows = torch.linalg.qr(weight.T)[0]
    outside = torch.eye(len(covariance), dtype=weight.dtype) - rows @ rows.T
    _, directions = torch.linalg.eigh(outside @ covariance @ outside + SEPARATION * (rows @ rows.T))
    quiet = directions[:, : len(weight)].T
    fill = basis @ torch.diag((gain**2 - squared).clamp_min(0).sqrt()) @ basis.T
    return weight + fill @ quiet, gain


@torch.no_grad()
def _fit_readout(
    model: PixelTransformer, pixels: Tensor, embeddings: list[PromptEmbedding], *, ridge: float, shift: float
) -> None:
    """Fit the linear readout from the features of noisy calibration images to the clean ones, in place."""
    width, generator = model.token_dim + 1, torch.Generator().manual_seed(NOISE_SEED)
    gram = torch.zeros(width, width, dtype=torch.float64)
    cross = torch.zeros(width, 3 * model.config.patch_size**2, dtype=torch.float64)
    count = 0
    for start in range(0, len(pixels), BATCH_SIZE):
        x0 = pixels[start : start + BATCH_SIZE]
        sigma = draw_sigma("uniform", len(x0), shift=shift, generator=generator)
        noisy = interpolate(x0, torch.randn(x0.shape, generator=generator), sigma)
        text = model.adapter.collate(embeddings[start : start + BATCH_SIZE])
        tokens = model.tokens(noisy, sigma, text).permute(0, 2, 3, 1)
        features = F.layer_norm(tokens.float(), (model.token_dim,)).flatten(0, 2).double()
        features = F.pad(features, (0, 1), value=1.0)
        gram += features.T @ features
        cross += features.T @ _patches(x0, model.config.patch_size).double()
        count += len(features)
    solution = torch.linalg.solve(gram + count * ridge * 0.2 * torch.eye(width, dtype=torch.float64), cross)
    linear = model.get_submodule("readout.linear")
    linear.weight.copy_(solution[:-1].T)
    linear.bias.copy_(solution[-1])


def _patches(pixels: Tensor, patch_size: int) -> Tensor:
    """[B, 3, H, W] -> [N, 3PP] in pixel_unshuffle order, tokens row-major."""
    return F.pixel_unshuffle(pixels, patch_size).permute(0, 2, 3, 1).flatten(0, 2)


def _latents(vae: Any, pixels: Tensor) -> Tensor:
    """Normalised latent means of pixels in [-1, 1]."""
    if type(vae).__name__ != "AutoencoderKL":
        raise ModelError(
            f"convert.init: fitted knows the normalisation of AutoencoderKL latents, and this source has "
            f"{type(vae).__name__}. Set convert.init: random."
        )
    mean = vae.encode(pixels).latent_dist.mean
    return (mean - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def _own_shift(scheduler: dict[str, Any]) -> float:
    """The source's own static time shift, under the name that its scheduler has for it; 1 without any."""
    return float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices spread evenly over range(count)."""
    if count <= wanted:
        return list(range(count))
    return [index for index, _ in itertools.groupby(int(i * count / wanted) for i in range(wanted))]
