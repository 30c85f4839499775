"""Owns the page's figures as geometry: histograms of what was measured with the limit in them, and bars of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from l2p.config import ValidateParams

BINS = 40
MAX_CLASSES = 40  # more are shown as the largest ones
_PERCENT = 100.0


@dataclass(frozen=True)
class Histogram:
    """How often each value occurs; bars and limit are percentages of the width and height of the plot.

    Attributes:
        title: what was measured.
        note: its extent in words.
        bars: (left, width, height) of each bin, lowest value first.
        ends: labels of both ends of the axis.
        limit: (position, label) of the limit, if there is one within the axis.
    """

    title: str
    note: str
    bars: tuple[tuple[float, float, float], ...]
    ends: tuple[str, str]
    limit: tuple[float, str] | None


def histograms(frame: pd.DataFrame, limits: ValidateParams) -> list[Histogram]:
    """Of every number that was measured; none of a corpus in which no image can be decoded."""
    plans = (
        ("Brightness", "mean", None),
        ("Contrast", "contrast", limits.min_contrast),
        ("Clipped values, share", "clipped_share", limits.max_clipped_share),
        ("Entropy, bits", "entropy_bits", limits.min_entropy_bits),
        ("Smoothness", "smoothness", limits.min_smoothness),
    )
    found = [_histogram(title, frame[column].dropna().to_numpy(), limit) for title, column, limit in plans]
    return [each for each in found if each is not None]


def _histogram(title: str, values: np.ndarray, limit: float | None) -> Histogram | None:
    if not len(values):
        return None
    known = values if limit is None else np.append(values, limit)
    low, high = float(known.min()), float(known.max())
    high = high if high > low else low + 1
    counts, _ = np.histogram(values, bins=BINS, range=(low, high))
    width = _PERCENT / BINS
    bars = tuple((place * width, width, _PERCENT * count / counts.max()) for place, count in enumerate(counts))
    place = None if limit is None else (_PERCENT * (limit - low) / (high - low), f"limit {limit:g}")
    note = f"median {np.median(values):.3g}, {values.min():.3g} to {values.max():.3g}"
    return Histogram(title, note, bars, (f"{low:.3g}", f"{high:.3g}"), place)


@dataclass(frozen=True)
class ClassBar:
    """A class: its images and how many of them were accepted; widths are percentages of the largest class."""

    name: str
    images: int
    accepted: int
    width: float
    accepted_width: float


def class_bars(classes: Mapping[str, Mapping[str, int]]) -> list[ClassBar]:
    """The largest classes, the largest first."""
    most = max((count["images"] for count in classes.values()), default=1)
    return [
        ClassBar(
            name,
            count["images"],
            count["accepted"],
            _PERCENT * count["images"] / most,
            _PERCENT * count["accepted"] / most,
        )
        for name, count in list(classes.items())[:MAX_CLASSES]
    ]
