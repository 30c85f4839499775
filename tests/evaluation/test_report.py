"""The report: one page that loads nothing, with every section, and figures that agree with the scores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from l2p.config import Layout, Params, load_params
from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.charts import line_chart
from l2p.evaluation.comparison import compare
from l2p.evaluation.pictures import geneval_pairs, spread
from l2p.evaluation.report import format_figure, geneval_bars, read_curves, size_figures
from l2p.evaluation.retention import geneval_retention
from l2p.files import read_json, write_json
from l2p.stages import report
from tests.conftest import small_params
from tests.evaluation import finished_project

SECTIONS = ("summary", "images", "scores", "training", "efficiency", "validation", "lineage", "settings")


class Page(HTMLParser):
    """Ids, and everything that a browser would load, of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.pictures = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.pictures += tag == "img"
        self.loads += [
            values[name] or "" for name in ("src", "srcset", "data", "poster", "xlink:href") if name in values
        ]
        if tag in ("link", "use", "image"):
            self.loads.append(values.get("href") or "")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_delta: Path) -> Iterator[Params]:
    """A project, already the working directory, that has everything but the report."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("reported")
        patch.chdir(folder)
        (folder / "params.yaml").write_text(yaml.safe_dump(small_params(tiny_source)), encoding="utf-8")
        params = load_params()
        finished_project.fill(params, delta=tiny_delta, prompts_per_benchmark=12)
        report.run(params)
        yield params


@pytest.fixture(scope="module")
def text(project: Params) -> str:
    return Layout.report.read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    page = Page(text)
    assert page.pictures > 20
    assert all(load.startswith("data:") for load in page.loads), [load[:80] for load in page.loads]
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)
    assert not re.search(r"(src|href)=['\"](https?:)?//", text)


def test_all_sections_are_there_once_and_all_links_lead_to_one(text: str) -> None:
    page = Page(text)
    assert [name for name in page.ids if name in SECTIONS] == list(SECTIONS)
    assert set(re.findall(r'href="#([^"]+)"', text)) == set(SECTIONS)


def test_the_page_knows_phones_and_dark_mode(text: str) -> None:
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "max-width: 560px" in text


def test_the_headline_is_the_retention_of_the_scores(project: Params, text: str) -> None:
    kept = geneval_retention()
    assert kept.value is not None
    comparison = read_json(Layout.comparison, written_by="l2p report")
    assert comparison["geneval"]["retention"] == kept.value
    assert comparison["geneval"]["interval"] == list(kept.interval or ())
    assert f"{100 * kept.value:.1f}<small> %" in text


def test_the_comparison_leaves_the_model_to_registration(project: Params) -> None:
    comparison = read_json(Layout.comparison, written_by="l2p report")
    assert comparison["model"] is None
    assert comparison["verified"] is False
    assert set(comparison["geneval"]) == {"source", "pixel", "retention", "interval", "tags"}
    assert set(comparison["dpg"]) == {"source", "pixel", "retention", "interval", "categories"}
    assert len(comparison["geneval"]["tags"]) == 6


def test_both_models_are_shown_with_the_same_prompts_and_a_verdict(project: Params, text: str) -> None:
    pairs = geneval_pairs()
    assert len(pairs) == 6
    for pair in (pair for found in pairs.values() for pair in found):
        assert pair.prompt in text
        assert pair.source.uri in text
        assert pair.pixel.uri in text
        assert isinstance(pair.pixel.good, bool)


def test_the_lineage_shows_every_input_with_its_digest(text: str) -> None:
    lineage = text[text.index('id="lineage"') :]
    for name in ("pixel model", "manifest", "corpus", "source", "prompts", "embeddings", "init"):
        assert re.search(rf"<b>{name}</b><code>[0-9a-f]{{12}}</code>", lineage), name


def test_the_validation_result_is_on_the_page(text: str) -> None:
    assert "1,996 of 2,000 images were accepted" in text
    assert "blank (3), duplicate (1)" in text
    assert "sha256 is unique" in text


def test_writing_the_page_again_changes_nothing(project: Params) -> None:
    before = finished_project.digest_of_page()
    report.run(project)
    assert finished_project.digest_of_page() == before


def test_scores_of_different_prompts_are_not_compared(project: Params) -> None:
    path = Layout.geneval / "pixel" / "scores.json"
    original = read_json(path, written_by="")
    write_json(path, original | {"card": original["card"] | {"prompts_sha256": "0" * 64}})
    with pytest.raises(EvaluationError, match="prompts_sha256"):
        compare()
    write_json(path, original)


def test_a_missing_report_names_the_stage_that_writes_it(project: Params, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"curves\.csv: not found\. `dvc repro train` writes it"):
        read_curves(tmp_path / "curves.csv")


def test_bars_carry_the_intervals_of_their_task(project: Params) -> None:
    scores: dict[str, Any] = {
        model: read_json(Layout.geneval / model / "scores.json", written_by="") for model in ("source", "pixel")
    }
    overall, *tags = geneval_bars(scores)
    assert overall.pixel == pytest.approx(100 * scores["pixel"]["overall"])
    assert len(tags) == 6
    for bar in (overall, *tags):
        assert bar.source_interval is not None
        assert bar.source_interval[0] <= bar.source <= bar.source_interval[1]


def test_sizes_come_in_order_with_both_models() -> None:
    sizes = size_figures(finished_project.efficiency())
    assert [size.resolution_px for size in sizes] == [64, 128, 256]
    assert sizes[0].longest_ms == pytest.approx(7.9 + 9.0)


def test_a_chart_stays_inside_its_box_and_drops_what_it_cannot_draw() -> None:
    values = [1.0, float("nan"), 0.0, 0.5, 0.1, 50.0]
    chart = line_chart("loss", range(6), {"loss": values}, log=True)
    points = [tuple(map(float, point.split(","))) for point in chart.lines[0].raw.split()]
    assert len(points) == 4
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in points)
    assert all(0 <= tick.percent <= 100 for tick in (*chart.x_ticks, *chart.y_ticks))


def test_a_constant_curve_of_one_point_can_be_drawn() -> None:
    chart = line_chart("rate", [10], {"rate": [0.0]})
    assert chart.lines[0].raw == "0.00,100.00"


def test_spreading_keeps_the_ends() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]


def test_a_figure_that_is_not_there_is_a_dash() -> None:
    assert format_figure(None) == "–"
    assert format_figure(1234.5, 1) == "1,234.5"
