"""Owns the recipe's training data: renders of the world with their captions, drawn from the training side only."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch

from l2p.shapes.captions import training_prompts
from l2p.shapes.render import render
from l2p.shapes.world import Scene, draw_scene


@dataclass(frozen=True)
class Renders:
    """Images uint8 [N, 3, 64, 64] with the caption and the scene of each."""

    images: torch.Tensor
    captions: list[str]
    scenes: list[Scene]


def draw_renders(count: int, seed: int) -> Renders:
    """Draw `count` captioned renders; the same seed gives the same data."""
    rng = random.Random(seed)
    prompts = list(training_prompts(count, rng))
    scenes = [draw_scene(prompt, rng) for prompt in prompts]
    images = np.stack([render(scene) for scene in scenes]).transpose(0, 3, 1, 2)
    return Renders(torch.from_numpy(np.ascontiguousarray(images)), [prompt.text for prompt in prompts], scenes)


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """uint8 [B, 3, H, W] in 0..255 -> float in [-1, 1]."""
    return images.float() / 127.5 - 1


def to_images(pixels: torch.Tensor) -> np.ndarray:
    """Float [B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3]."""
    return ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
