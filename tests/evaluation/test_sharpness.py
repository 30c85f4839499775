"""The part of the report on sharpness: what it takes from fidelity.json, and where it puts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2p.config import FidelityParams
from l2p.evaluation.fidelity.measuring import measure
from l2p.evaluation.sharpness import Sharpness, lay_out_ratios, read_sharpness
from l2p.files import write_json


def measured(folder: Path, *, noise: float, spectrum: bool = True) -> dict[str, Any]:
    """The real figures of four noise images and the same with `noise` times the contrast."""
    for number in range(4):
        values = np.random.default_rng(number).normal(0, 20, (32, 32, 3))
        for model, scale in (("source", 1.0), ("pixel", noise)):
            path = folder / model / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.clip(128 + scale * values, 0, 255).astype(np.uint8)).save(path)
    settings = FidelityParams(spectrum=spectrum, clip=None, inception=False)
    return measure(folder / "source", folder / "pixel", settings, device="cpu")


def shown(folder: Path, found: dict[str, Any]) -> Sharpness | None:
    write_json(folder / "fidelity.json", found)
    return read_sharpness(folder / "fidelity.json")


def test_a_report_that_is_not_there_is_nothing_to_show(tmp_path: Path) -> None:
    assert read_sharpness(tmp_path / "fidelity.json") is None


def test_a_report_that_was_asked_for_nothing_is_nothing_to_show(tmp_path: Path) -> None:
    assert shown(tmp_path, measured(tmp_path, noise=1.0, spectrum=False)) is None


def test_both_spectra_are_drawn_and_twice_the_contrast_is_four_times_the_power(tmp_path: Path) -> None:
    found = shown(tmp_path, measured(tmp_path, noise=2.0))
    assert found is not None
    assert (found.n_pairs, found.size_px, found.skipped) == (4, (32, 32), 0)
    assert found.chart is not None
    assert [line.name for line in found.chart.lines] == ["source", "pixel"]
    assert [ratio.value for ratio in found.ratios] == pytest.approx([4.0] * 3, rel=0.05)
    for ratio in found.ratios:
        assert 50 < ratio.ends[0] <= ratio.percent <= ratio.ends[1] <= 100


def test_the_mean_of_the_images_is_not_drawn_as_a_frequency(tmp_path: Path) -> None:
    figures = measured(tmp_path, noise=1.0)
    found = shown(tmp_path, figures)
    assert found is not None
    assert found.chart is not None
    assert len(found.chart.lines[0].raw.split()) == len(figures["spectrum"]["frequency"]) - 1


def test_ratios_lie_on_a_logarithmic_axis_with_one_in_the_middle() -> None:
    bands = {
        name: {"ratio": ratio, "interval": (ratio * 0.9, ratio * 1.1), "cycles_per_px": (0.0, 0.1)}
        for name, ratio in (("low", 1.0), ("mid", 0.5), ("high", 2.0))
    }
    ratios, ticks = lay_out_ratios(bands)
    assert [ratio.percent for ratio in ratios] == pytest.approx([50.0, 25.0, 75.0])
    assert [(tick.label, tick.percent) for tick in ticks] == [
        ("0.25", 0.0),
        ("0.5", 25.0),
        ("1", 50.0),
        ("2", 75.0),
        ("4", 100.0),
    ]


def test_a_ratio_beyond_every_axis_stands_at_its_end() -> None:
    band = {"ratio": 0.0, "interval": (0.0, 1e9), "cycles_per_px": (0.25, 0.5)}
    [ratio], ticks = lay_out_ratios({"high": band})
    assert (ratio.percent, *ratio.ends) == pytest.approx((0.0, 0.0, 100.0), abs=1e-9)
    assert ticks[0].label == "0.0001"


def test_distances_become_figures_those_that_were_measured(tmp_path: Path) -> None:
    figures = measured(tmp_path, noise=1.0)
    score = {"reference": {"value": 31.0, "interval": [30.0, 32.0]}, "other": {"value": 29.0, "interval": [28.0, 30.0]}}
    model = {"name": "clip", "digest": "0" * 64}
    clip = {"model": model, "cmmd": 0.25, "cmmd_sigma": 10.0, "frechet": None, "score": score}
    found = shown(tmp_path, figures | {"clip": clip, "inception": {"fid": 12.0, "features": "2048"}})
    assert found is not None
    assert {fact.title: fact.value for fact in found.facts} == {
        "CLIP score, source": "31.00",
        "CLIP score, pixel": "29.00",
        "CMMD": "0.250",
        "FID": "12.00",
    }
    without = shown(tmp_path, figures | {"clip": clip | {"score": None}})
    assert without is not None
    assert [fact.title for fact in without.facts] == ["CMMD"]
