"""Owns the order of the recipe: renders -> autoencoder -> latents -> denoiser and text encoder -> diffusers folder."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline

from l2p.shapes.recipe import autoencoder, denoiser
from l2p.shapes.recipe.renders import draw_renders
from l2p.shapes.recipe.text import build_text_encoder, build_tokenizer

log = logging.getLogger(__name__)

VAE_FOLDER = "vae"
HELD_OUT_RENDERS = 500


@dataclass(frozen=True)
class Recipe:
    """Sizes and seeds of a source training; the defaults made `sources/shapes`."""

    vae_renders: int = 20_000
    vae_steps: int = 2_500
    renders: int = 40_000
    steps: int = 4_000
    data_seed: int = 1
    vae_seed: int = 8
    denoiser_seed: int = 3
    compile_model: bool = True


def train_source(recipe: Recipe, *, work: Path, out: Path) -> None:
    """Train the embedded source, save it to `out` (bfloat16, diffusers layout); `work` holds the checkpoints."""
    vae = _trained_vae(recipe, work)
    torch.manual_seed(0)
    renders = draw_renders(recipe.renders, recipe.data_seed)
    latents = autoencoder.normalise(vae, autoencoder.encode(vae, renders.images))
    tokenizer = build_tokenizer()
    text = denoiser.TextModel(tokenizer, build_text_encoder(len(tokenizer)))
    model = denoiser.build(autoencoder.LATENT_CHANNELS)
    denoiser.train(
        model,
        text,
        latents,
        renders.captions,
        steps=recipe.steps,
        seed=recipe.denoiser_seed,
        folder=work,
        compile_model=recipe.compile_model,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=denoiser.SHIFT)
    pipeline = ZImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=text.encoder, tokenizer=tokenizer, transformer=model
    )
    pipeline.to(torch.bfloat16).save_pretrained(out)
    (work / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    log.info("saved %s", out)


def _trained_vae(recipe: Recipe, work: Path) -> AutoencoderKL:
    folder = work / VAE_FOLDER
    if (folder / "config.json").is_file():
        return AutoencoderKL.from_pretrained(folder).eval()
    torch.manual_seed(0)
    renders = draw_renders(recipe.vae_renders, recipe.data_seed)
    vae = autoencoder.build()
    autoencoder.train(vae, renders, steps=recipe.vae_steps, seed=recipe.vae_seed, folder=work)
    autoencoder.register_statistics(vae, renders.images)
    exact = autoencoder.exact_share(vae, draw_renders(HELD_OUT_RENDERS, recipe.data_seed + 1))
    log.info("vae reconstructs %.1f %% of held-out scenes exactly", 100 * exact)
    vae.save_pretrained(folder)
    return vae
