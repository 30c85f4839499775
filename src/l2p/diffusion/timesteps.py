"""Owns the noise levels at which the model is trained: how sigma is drawn and shifted."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TimestepKind = Literal["uniform", "logit_normal", "official_1k"]

_TRAIN_STEPS = 1000
_OFFICIAL_LOW, _OFFICIAL_HIGH = -100, 800  # index draw of the published 1K script; index 0 is pure noise


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """s sigma / (1 + (s - 1) sigma): larger `shift` = more noise (SD3, arXiv 2403.03206, eq. 23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def unshift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Inverse of `shift_sigma`."""
    return shift_sigma(sigma, 1 / shift)


def draw_sigma(kind: TimestepKind, count: int, *, shift: float, generator: torch.Generator) -> Tensor:
    """Draw `count` noise levels in (0, 1], float32 [count].

    `uniform` and `logit_normal` are shifted afterwards. `official_1k` is the published script's
    `randint(-100, 800).clamp(0)` over 1,000 shifted levels, pure noise first: about 11 % pure noise, and low noise is
    never drawn.
    """
    if kind == "uniform":
        base = 1 - torch.rand(count, generator=generator)
    elif kind == "logit_normal":
        base = torch.randn(count, generator=generator).sigmoid()
    elif kind == "official_1k":
        index = torch.randint(_OFFICIAL_LOW, _OFFICIAL_HIGH, (count,), generator=generator).clamp_min(0)
        base = 1 - index / _TRAIN_STEPS
    else:
        raise ValueError(f"unknown kind of timesteps {kind!r}")
    return shift_sigma(base, shift)
