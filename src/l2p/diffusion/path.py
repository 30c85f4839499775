"""Owns the straight path between an image and noise, and the conversions between its two parametrisations.

Convention (decision 0001): sigma in [0, 1], 1 = noise; x_sigma = (1 - sigma) x0 + sigma eps; velocity v = eps - x0.
"""

from __future__ import annotations

from torch import Tensor

MIN_SIGMA = 1e-3  # below this, x0 -> velocity divides by a number too small to mean anything


def expand(sigma_B: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] with the rank of `like`."""
    return sigma_B.view(-1, *[1] * (like.ndim - 1))


def interpolate(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Point of the path at `sigma` [B] between x0 [B, ...] and noise [B, ...]."""
    s = expand(sigma, x0)
    return (1 - s) * x0 + s * noise


def velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """Derivative of the path with respect to sigma: eps - x0."""
    return noise - x0


def velocity_from_x0(noisy: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
    """v = (x_sigma - x0) / sigma; sigma is floored at MIN_SIGMA."""
    return (noisy - x0) / expand(sigma.clamp_min(MIN_SIGMA), noisy)


def x0_from_velocity(noisy: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """x0 = x_sigma - sigma v."""
    return noisy - expand(sigma, noisy) * v
