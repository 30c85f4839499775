"""Owns distances between two sets of images, as distances between the features that a model sees in them."""

from __future__ import annotations

import numpy as np
import torch

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0  # Jayasumana et al. 2024 (arXiv 2401.09603), section 4
_BLOCK = 1024


def cmmd(one: np.ndarray, other: np.ndarray) -> float:
    """Squared maximum mean discrepancy of two sets of CLIP embeddings, x 1000 (arXiv 2401.09603).

    Gaussian kernel exp(-|x - y|^2 / (2 sigma^2)) with sigma = 10 on embeddings of length 1; the biased estimator, as in
    the authors' own code, so equal sets have distance 0.

    Args:
        one: float [n, D].
        other: float [m, D].
    """
    one, other = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (one, other))
    value = _mean_kernel(one, one) + _mean_kernel(other, other) - 2 * _mean_kernel(one, other)
    return CMMD_SCALE * value


def frechet(one: np.ndarray, other: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features [n, D] and [m, D], by torchmetrics."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = torch.nn.Identity()
    features.num_features = one.shape[1]
    metric = FrechetInceptionDistance(feature=features)
    metric.update(torch.from_numpy(one.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(other.astype(np.float64)), real=False)
    return float(metric.compute())


def _mean_kernel(one: np.ndarray, other: np.ndarray) -> float:
    """Mean of the kernel over all pairs, in blocks."""
    gamma = 1 / (2 * CMMD_SIGMA**2)
    total = 0.0
    for start in range(0, len(one), _BLOCK):
        block = one[start : start + _BLOCK].astype(np.float64)
        squares = (block**2).sum(1)[:, None] + (other.astype(np.float64) ** 2).sum(1)[None] - 2 * block @ other.T
        total += float(np.exp(-gamma * np.maximum(squares, 0)).sum())
    return total / (len(one) * len(other))
