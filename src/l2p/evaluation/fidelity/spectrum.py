"""Owns the sharpness spectrum: how much detail of each size an image holds, and whether a model keeps it.

Radially averaged power spectrum of the luminance under a Hann window. Frequencies are cycles per pixel, 0 to 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2p.evaluation.scores import Interval, percentile_interval, resample

BANDS = {"low": (0.0, 0.1), "mid": (0.1, 0.25), "high": (0.25, 0.5)}
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True)
class Band:
    """Power of the other model in a band over that of the reference; 1: the same amount of detail."""

    ratio: float
    interval: Interval


def radial_spectrum(image: np.ndarray) -> np.ndarray:
    """Mean power at each radius, float [min(H, W) // 2], of uint8 RGB [H, W, 3]; see `frequencies` for the bins.

    The mean of the image is taken away first, and power is normalised by the window: white noise of variance v (of
    luminance in 0..1) has power v everywhere.
    """
    luminance = image.astype(np.float64) @ _LUMA / 255
    height, width = luminance.shape
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    centred = luminance - (luminance * window).sum() / window.sum()
    power = np.abs(np.fft.fft2(centred * window)) ** 2 / (window**2).sum()
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    count = min(height, width) // 2
    place = np.floor(radius * 2 * count).astype(int)
    inside = place < count
    total = np.bincount(place[inside], weights=power[inside], minlength=count)
    return total / np.maximum(np.bincount(place[inside], minlength=count), 1)


def frequencies(count: int) -> np.ndarray:
    """Middle frequency of each of `count` bins, in cycles per pixel."""
    return (np.arange(count) + 0.5) / (2 * count)


def band_ratios(reference: np.ndarray, other: np.ndarray, strata: Sequence[int]) -> dict[str, Band]:
    """Power ratio in each band, with intervals over prompts.

    Args:
        reference: spectra of the reference's images [n, bins].
        other: of their counterparts [n, bins].
        strata: number of each image's prompt; images of one prompt are resampled together.
    """
    weights = _prompt_weights(strata)
    return {name: _band(reference, other, weights, limits) for name, limits in BANDS.items()}


def _prompt_weights(strata: Sequence[int]) -> np.ndarray:
    """Weights [RESAMPLES, n] that draw prompts with all their images."""
    numbers = np.asarray(strata)
    return resample([0] * (int(numbers.max()) + 1))[:, numbers]


def _band(reference: np.ndarray, other: np.ndarray, weights: np.ndarray, limits: tuple[float, float]) -> Band:
    middle = frequencies(reference.shape[1])
    chosen = (middle >= limits[0]) & (middle < limits[1])
    own, its = reference[:, chosen].sum(1), other[:, chosen].sum(1)
    smallest = np.finfo(float).tiny
    resampled = (weights @ its) / np.maximum(weights @ own, smallest)
    return Band(float(its.sum() / max(own.sum(), smallest)), percentile_interval(resampled))
