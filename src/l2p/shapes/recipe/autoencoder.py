"""Owns the VAE of the embedded source: its shape, its training and its latent statistics.

Loss: L1 + 2 MSE + KL_WEIGHT * KL, on latents jittered with a little noise so that the decoder forgives the denoiser.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from l2p.shapes.detector import detect
from l2p.shapes.recipe import checkpoint
from l2p.shapes.recipe.renders import Renders, to_images, to_pixels

log = logging.getLogger(__name__)

LATENT_CHANNELS = 4
BATCH_SIZE = 16
LEARNING_RATE = 2e-3
KL_WEIGHT = 5e-4
LATENT_JITTER = 0.1  # decoder robustness: up to this share of the latents' deviation is added as noise
EMA_DECAY = 0.995
SAVE_EVERY = 500
STATISTICS_IMAGES = 4000


def build() -> AutoencoderKL:
    """A narrow AutoencoderKL: 64x64x3 -> 8x8x4."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
    )


def train(vae: AutoencoderKL, renders: Renders, *, steps: int, seed: int, folder: Path) -> None:
    """Train in place for `steps` steps, resuming from `folder`; ends with averaged weights."""
    params = list(vae.parameters())
    average = [p.detach().clone() for p in params]
    optimizer = torch.optim.AdamW(params, lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    path = folder / "vae.pt"
    start = _resume(path, params, average, optimizer)
    began, losses = time.monotonic(), []
    for step in range(start, steps):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (step + 1) / 100) * min(1, (1 - step / steps) / 0.6)
        loss = _loss(vae, renders, checkpoint.step_generator(seed, step))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, [p.detach() for p in params], 1 - min(EMA_DECAY, (1 + step) / (10 + step)))
        losses.append(loss.item())
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            rate = (step + 1 - start) / (time.monotonic() - began)
            log.info("vae step %d/%d loss %.4f, %.1f steps/s", step + 1, steps, np.mean(losses), rate)
            losses.clear()
            state = {"step": step + 1, "params": params, "average": average, "optimizer": optimizer.state_dict()}
            checkpoint.save(path, state)
    with torch.no_grad():
        torch._foreach_copy_(params, average)
    vae.eval()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor, batch_size: int = 200) -> torch.Tensor:
    """Latent means of uint8 [N, 3, 64, 64] -> float [N, 4, 8, 8], not normalised."""
    parts = []
    for batch in images.split(batch_size):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.encode(to_pixels(batch)).latent_dist.mean.float())
    return torch.cat(parts)


def register_statistics(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Store the latents' mean and deviation as shift and scaling factor, so that the denoiser sees unit variance."""
    latents = encode(vae, images[:STATISTICS_IMAGES])
    vae.register_to_config(scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item())


def normalise(vae: AutoencoderKL, latents: torch.Tensor) -> torch.Tensor:
    """Raw latents -> what the denoiser sees."""
    return (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor, batch_size: int = 100) -> np.ndarray:
    """Normalised latents [N, 4, 8, 8] -> uint8 images [N, 64, 64, 3]."""
    raw = latents / vae.config["scaling_factor"] + vae.config["shift_factor"]
    with torch.autocast("cpu", torch.bfloat16):
        return np.concatenate([to_images(vae.decode(part).sample) for part in raw.split(batch_size)])


def exact_share(vae: AutoencoderKL, renders: Renders) -> float:
    """Share of scenes whose reconstruction is detected with exactly the right shapes and colours, 0..1."""
    images = decode(vae, normalise(vae, encode(vae, renders.images)))
    exact = 0
    for image, scene in zip(images, renders.scenes, strict=True):
        seen = sorted((d.shape, d.color) for d in detect(image) if d.score > 0.9)
        exact += seen == sorted((item.shape, item.color) for item in scene.items)
    return exact / len(images)


def _loss(vae: AutoencoderKL, renders: Renders, generator: torch.Generator) -> torch.Tensor:
    picks = torch.randint(len(renders.images), (BATCH_SIZE,), generator=generator)
    pixels = to_pixels(renders.images[picks])
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        jitter = LATENT_JITTER * torch.rand(BATCH_SIZE, 1, 1, 1, generator=generator) * mean.detach().std()
        noise = torch.randn(mean.shape, generator=generator)
        decoded = vae.decode(mean + noise * ((0.5 * logvar).exp() + jitter)).sample.float()
    error = decoded - pixels
    reconstruction = error.abs().mean() + 2 * error.square().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return reconstruction + KL_WEIGHT * kl


def _resume(path: Path, params: list, average: list, optimizer: torch.optim.Optimizer) -> int:
    state = checkpoint.load(path)
    if state is None:
        return 0
    with torch.no_grad():
        torch._foreach_copy_(params, state["params"])
        torch._foreach_copy_(average, state["average"])
    optimizer.load_state_dict(state["optimizer"])
    log.info("resuming %s at step %d", path.name, state["step"])
    return int(state["step"])
