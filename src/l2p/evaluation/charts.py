"""Owns line charts as geometry in percent of the plot, so that a page can stretch the plot but not its labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

MAX_TICKS = 5
MIN_POWERS = 3  # so many powers of ten on a logarithmic axis are ticks enough
SMOOTHING = 25  # a line is the mean over this part (1/25) of the run


@dataclass(frozen=True)
class Tick:
    """A label at `percent` of an axis, from its lower end."""

    percent: float
    label: str


@dataclass(frozen=True)
class Line:
    """Points of one series as SVG writes them, in a box of 100 x 100 with y downwards: raw, and smoothed."""

    name: str
    raw: str
    smooth: str
    last: float


@dataclass(frozen=True)
class Chart:
    """Lines over the same x (`x_name` says of what) with the ticks of both axes."""

    title: str
    note: str
    x_name: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Axes:
    """What is drawn over what, and how.

    `note` is a word about the values, `x_name` what they are drawn over. `smooth` adds a running mean. `whole` shows
    every value, else one spike in a hundred may be cut, so that it does not flatten the rest.
    """

    note: str = ""
    x_name: str = "training steps"
    log: bool = False
    smooth: bool = True
    whole: bool = False


STEPS = Axes()


def line_chart(title: str, xs: Sequence[float], series: Mapping[str, Sequence[float]], axes: Axes = STEPS) -> Chart:
    """Lay out `series` over `xs`; points that are not finite (or not positive, on a logarithmic axis) are left out.

    Raises:
        ValueError: no point is left.
    """
    usable = {name: _usable(xs, values, axes.log) for name, values in series.items()}
    everything = np.concatenate([points[:, 1] for points in usable.values()])
    if not len(everything):
        raise ValueError(f"chart {title!r}: no point to draw.")
    x_low, x_high = float(min(xs)), float(max(xs))
    y_low, y_high = _limits(everything, axes)
    box = (x_low, x_high if x_high > x_low else x_low + 1, y_low, y_high)
    lines = tuple(
        Line(
            name,
            _points(points, box, axes.log),
            _points(_smoothed(points) if axes.smooth else points, box, axes.log),
            float(points[-1, 1]) if len(points) else math.nan,
        )
        for name, points in usable.items()
    )
    x_ticks = tuple(Tick(100 * (x - box[0]) / (box[1] - box[0]), f"{x:g}") for x in _nice(box[0], box[1]))
    return Chart(title, axes.note, axes.x_name, lines, x_ticks, _y_ticks(y_low, y_high, axes.log))


def _usable(steps: Sequence[float], values: Sequence[float], log: bool) -> np.ndarray:
    """[n, 2] of (step, value) worth drawing."""
    points = np.array([steps, values], dtype=np.float64).T
    good = np.isfinite(points).all(axis=1) & ((points[:, 1] > 0) | (not log))
    kept: np.ndarray = points[good]
    return kept


def _limits(values: np.ndarray, axes: Axes) -> tuple[float, float]:
    """Axis limits; linear axes begin at 0."""
    top = float(values.max() if axes.whole else np.percentile(values, 99)) * 1.05
    if not axes.log:
        low = min(0.0, float(values.min()))
        return low, top if top > low else low + 1
    low = float(values.min()) * 0.95
    return low, max(top, low * 1.1)


def _points(points: np.ndarray, box: tuple[float, float, float, float], log: bool) -> str:
    x_low, x_high, y_low, y_high = box
    xs = 100 * (points[:, 0] - x_low) / (x_high - x_low)
    ys = np.array([_share(y, y_low, y_high, log) for y in points[:, 1]])
    return " ".join(f"{x:.2f},{100 - 100 * min(max(y, 0), 1):.2f}" for x, y in zip(xs, ys, strict=True))


def _share(y: float, low: float, high: float, log: bool) -> float:
    return math.log(y / low) / math.log(high / low) if log else (y - low) / (high - low)


def _smoothed(points: np.ndarray) -> np.ndarray:
    """Centred mean over 1/25 of the points; the window shrinks at the ends."""
    half = len(points) // SMOOTHING // 2
    if half == 0:
        return points
    means = [points[max(0, i - half) : i + half + 1, 1].mean() for i in range(len(points))]
    return np.column_stack([points[:, 0], means])


def _y_ticks(low: float, high: float, log: bool) -> tuple[Tick, ...]:
    values = _nice_log(low, high) if log else _nice(low, high)
    return tuple(Tick(100 * _share(value, low, high, log), f"{value:g}".replace("e-0", "e-")) for value in values)


def _nice(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=MAX_TICKS - 1, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]


def _nice_log(low: float, high: float) -> list[float]:
    """Powers of ten inside the limits, or 1, 2, 5 times them, thinned to a handful; linear ticks where too few."""
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    whole = [power for power in powers if low <= power <= high]
    digits = [digit * power for power in powers for digit in (1, 2, 5) if low <= digit * power <= high]
    ticks = whole if len(whole) >= MIN_POWERS else digits
    if len(ticks) < 2:
        return _nice(low, high)
    while len(ticks) > MAX_TICKS:
        ticks = ticks[::2]
    assert all(before < after for before, after in pairwise(ticks))
    return [float(f"{tick:.6g}") for tick in ticks]
