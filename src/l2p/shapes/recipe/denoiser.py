"""Owns the latent denoiser of the embedded source and the loop that trains it together with the text encoder.

Flow matching on normalised latents in Z-Image's own convention (model time 1 - sigma, output x0 - eps), sigma uniform
with shift 2, 10 % caption dropout, Muon for the matrices of the blocks and AdamW for the rest, averaged weights.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import ZImageTransformer2DModel
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen3Model

from l2p.shapes.recipe import checkpoint
from l2p.shapes.recipe.batched import BatchedForward
from l2p.shapes.recipe.text import HIDDEN_SIZE, encode, tokenize

log = logging.getLogger(__name__)

BATCH_SIZE = 64
LEARNING_RATE = 2e-3
SHIFT = 2.0
CAPTION_DROPOUT = 0.1
WARMUP_STEPS = 150
DECAY_SHARE = 0.5  # the last half of the run decays the learning rate linearly to 0
EMA_DECAY = 0.999
EMA_EVERY = 4
SAVE_EVERY = 250
LATENT_SIZE = 8


@dataclass(frozen=True)
class TextModel:
    """Tokenizer and text encoder, trained together with the denoiser."""

    tokenizer: PreTrainedTokenizerFast
    encoder: Qwen3Model


def build(latent_channels: int) -> ZImageTransformer2DModel:
    """A narrow Z-Image transformer: width 192, 6 layers, 1 refiner; zero-initialised output, open gates."""
    model = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=latent_channels,
        dim=192,
        n_layers=6,
        n_refiner_layers=1,
        n_heads=3,
        n_kv_heads=3,
        cap_feat_dim=HIDDEN_SIZE,
        axes_dims=[16, 24, 24],
        axes_lens=[600, 64, 64],
    )
    nn.init.normal_(model.x_pad_token, std=0.02)
    nn.init.normal_(model.cap_pad_token, std=0.02)
    for block in [*model.noise_refiner, *model.layers]:
        modulation = block.adaLN_modulation[0]
        nn.init.normal_(modulation.weight, std=0.02)
        nn.init.zeros_(modulation.bias)
        with torch.no_grad():
            modulation.bias.view(4, -1)[1::2] = 0.3
    final = model.all_final_layer["2-1"]
    for layer in (final.linear, final.adaLN_modulation[1]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def train(
    model: ZImageTransformer2DModel,
    text: TextModel,
    latents: torch.Tensor,
    captions: list[str],
    *,
    steps: int,
    seed: int,
    folder: Path,
    compile_model: bool = True,
) -> None:
    """Train in place for `steps` steps on latents [N, C, 8, 8], resuming from `folder`; ends with averaged weights."""
    ids, mask = tokenize(text.tokenizer, captions)
    empty_ids, empty_mask = tokenize(text.tokenizer, [""])
    forward = BatchedForward(model.train(), LATENT_SIZE, LATENT_SIZE)
    text.encoder.train()

    def predict(noisy: torch.Tensor, clock: torch.Tensor, tokens: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return forward(noisy, clock, encode(text.encoder, tokens), keep)

    compiled = torch.compile(predict, dynamic=False) if compile_model else predict
    params = [*model.parameters(), *text.encoder.parameters()]
    average = [p.detach().clone() for p in params]
    optimizers = _optimizers(model, text.encoder)
    path = folder / "denoiser.pt"
    start = _resume(path, params, average, optimizers)
    began, losses = time.monotonic(), []
    for step in range(start, steps):
        rate = LEARNING_RATE * min(1, (step + 1) / WARMUP_STEPS) * min(1, (1 - step / steps) / DECAY_SHARE)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
        generator = checkpoint.step_generator(seed, step)
        picks = torch.randint(len(latents), (BATCH_SIZE,), generator=generator)
        dropped = torch.rand(BATCH_SIZE, 1, generator=generator) < CAPTION_DROPOUT
        tokens, keep = torch.where(dropped, empty_ids, ids[picks]), torch.where(dropped, empty_mask, mask[picks])
        uniform = torch.rand(BATCH_SIZE, generator=generator)
        sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        noise = torch.randn(latents[picks].shape, generator=generator)
        s = sigma.view(-1, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            out = compiled((1 - s) * latents[picks] + s * noise, 1 - sigma, tokens, keep)
        loss = (out.float() - (latents[picks] - noise)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if (step + 1) % EMA_EVERY == 0:
            decay = min(EMA_DECAY, (1 + step) / (20 + step)) ** EMA_EVERY
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in params], 1 - decay)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            speed = (step + 1 - start) / (time.monotonic() - began)
            log.info("denoiser step %d/%d loss %.4f, %.2f steps/s", step + 1, steps, np.mean(losses), speed)
            losses.clear()
            states = [optimizer.state_dict() for optimizer in optimizers]
            checkpoint.save(path, {"step": step + 1, "params": params, "average": average, "optimizers": states})
    with torch.no_grad():
        torch._foreach_copy_(params, average)
    model.eval()
    text.encoder.eval()


def _optimizers(model: nn.Module, text_encoder: nn.Module) -> list[torch.optim.Optimizer]:
    matrices: list[nn.Parameter] = []
    rest = list(text_encoder.parameters())
    for name, parameter in model.named_parameters():
        in_block = name.startswith(("layers", "noise_refiner", "context_refiner")) and "adaLN" not in name
        (matrices if in_block and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    return [muon, adamw]


def _resume(path: Path, params: list, average: list, optimizers: list[torch.optim.Optimizer]) -> int:
    state = checkpoint.load(path)
    if state is None:
        return 0
    with torch.no_grad():
        torch._foreach_copy_(params, state["params"])
        torch._foreach_copy_(average, state["average"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    log.info("resuming %s at step %d", path.name, state["step"])
    return int(state["step"])
