"""Owns the training objective: flow matching, with the head predicting the velocity or the image."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from l2p.diffusion.path import velocity

PredictionType = Literal["velocity", "x0"]


def flow_matching_loss(
    prediction: Tensor, x0: Tensor, noise: Tensor, sigma: Tensor, *, prediction_type: PredictionType, min_sigma: float
) -> tuple[Tensor, Tensor]:
    """Mean squared error of the velocity; returns (scalar, per sample [B]).

    An x0 prediction errs in velocity by its own error / sigma, so its squared error is weighted by 1 / sigma^2, with
    sigma clamped at `min_sigma` (0..1) because the weight has no bound otherwise.
    """
    if prediction_type == "velocity":
        per_sample = (prediction.float() - velocity(x0, noise)).square().flatten(1).mean(1)
    else:
        per_sample = (prediction.float() - x0).square().flatten(1).mean(1) / sigma.clamp_min(min_sigma) ** 2
    return per_sample.mean(), per_sample
