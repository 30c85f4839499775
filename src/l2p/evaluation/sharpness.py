"""Owns how reports/fidelity.json is shown: power spectra, ratios of detail on a logarithmic axis, and distances."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.config import Layout
from l2p.evaluation.charts import Axes, Chart, Tick, line_chart
from l2p.evaluation.fidelity.measuring import read_fidelity

# Ticks of the axis of ratios by its span: it ends at 1 / span and span.
TICKS = {
    1.25: (0.8, 0.9, 1.0, 1.1, 1.25),
    1.5: (0.67, 0.8, 1.0, 1.25, 1.5),
    2.0: (0.5, 0.7, 1.0, 1.4, 2.0),
    4.0: (0.25, 0.5, 1.0, 2.0, 4.0),
    10.0: (0.1, 0.3, 1.0, 3.0, 10.0),
    100.0: (0.01, 0.1, 1.0, 10.0, 100.0),
    1e4: (1e-4, 0.01, 1.0, 100.0, 1e4),
}
_DETAIL = {"low": "coarse", "mid": "middle", "high": "fine"}
_MIDDLE = 50.0  # percent of the axis where the ratio is 1


@dataclass(frozen=True)
class Ratio:
    """Power of the pixel model over the source's in a band; `percent` and `ends` are its place on the axis."""

    label: str
    detail: str
    value: float
    interval: tuple[float, float]
    percent: float
    ends: tuple[float, float]


@dataclass(frozen=True)
class Fact:
    """A figure as text; `detail` is empty where there is nothing to add."""

    title: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Sharpness:
    """What was measured; parts that were not asked for are None or empty."""

    n_pairs: int
    size_px: tuple[int, int]
    skipped: int
    chart: Chart | None
    ratios: tuple[Ratio, ...]
    ticks: tuple[Tick, ...]
    facts: tuple[Fact, ...]


def read_sharpness(path: Path = Layout.fidelity) -> Sharpness | None:
    """What stage `fidelity` found; None where it has not run or was asked for nothing."""
    if not path.is_file():
        return None
    found = read_fidelity(path)
    spectrum, pairs = found["spectrum"], found["pairs"]
    facts = tuple(_facts(found))
    if spectrum is None and not facts:
        return None
    ratios, ticks = ((), ()) if spectrum is None else lay_out_ratios(spectrum["bands"])
    return Sharpness(
        pairs["n"],
        (pairs["width_px"], pairs["height_px"]),
        len(pairs["unpaired"]) + len(pairs["failures"]),
        None if spectrum is None else _chart(spectrum),
        ratios,
        ticks,
        facts,
    )


def lay_out_ratios(bands: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[Ratio, ...], tuple[Tick, ...]]:
    """Ratios on a logarithmic axis with 1 in its middle, and the ticks of the axis.

    Args:
        bands: `ratio`, `interval` and `cycles_per_px` of each band.
    """
    span = _span([value for band in bands.values() for value in (band["ratio"], *band["interval"])])
    ratios = tuple(_ratio(name, band, span) for name, band in bands.items())
    return ratios, tuple(Tick(_place(mark, span), f"{mark:g}") for mark in TICKS[span])


def _ratio(name: str, band: Mapping[str, Any], span: float) -> Ratio:
    (low, high), (start, end) = band["interval"], band["cycles_per_px"]
    return Ratio(
        _DETAIL.get(name, name),
        f"{start:g} to {end:g} cycles/px",
        band["ratio"],
        (low, high),
        _place(band["ratio"], span),
        (_place(low, span), _place(high, span)),
    )


def _span(values: Sequence[float]) -> float:
    """The smallest axis that holds all values, or the largest that there is."""
    return next((span for span in TICKS if all(1 / span <= value <= span for value in values)), max(TICKS))


def _place(value: float, span: float) -> float:
    """Percent of the axis, at its end for what lies beyond."""
    inside = min(max(value, 1 / span), span)
    return _MIDDLE + _MIDDLE * math.log(inside) / math.log(span)


def _chart(spectrum: Mapping[str, Any]) -> Chart:
    """The first bin is left out: it holds the mean of an image, which was taken away."""
    axes = Axes("logarithmic, by cycles per pixel", "cycles per pixel", log=True, smooth=False, whole=True)
    lines = {"source": spectrum["reference"][1:], "pixel": spectrum["other"][1:]}
    return line_chart("Power spectrum", spectrum["frequency"][1:], lines, axes)


def _facts(found: Mapping[str, Any]) -> Iterator[Fact]:
    clip, inception = found["clip"], found["inception"]
    if clip is not None:
        for key, model in (("reference", "source"), ("other", "pixel")) if clip["score"] is not None else ():
            score = clip["score"][key]
            low, high = score["interval"]
            yield Fact(f"CLIP score, {model}", f"{score['value']:.2f}", f"{low:.2f} to {high:.2f}")
        yield Fact("CMMD", f"{clip['cmmd']:.3f}", f"CLIP {clip['model']['name']}")
        if clip["frechet"] is not None:
            yield Fact("Fréchet distance", f"{clip['frechet']:.2f}", "of CLIP features")
    if inception is not None:
        yield Fact("FID", f"{inception['fid']:.2f}", "of Inception features")
