"""The report: one page that loads nothing, with every section, and figures that agree with the scores."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from l2p.config import Layout, Params, load_params
from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.bars import geneval_bars
from l2p.evaluation.charts import Axes, line_chart
from l2p.evaluation.comparison import compare
from l2p.evaluation.dense_gallery import dense_groups
from l2p.evaluation.fidelity.measuring import measure
from l2p.evaluation.gallery import geneval_groups
from l2p.evaluation.pages import format_figure, format_signed
from l2p.evaluation.pictures import spread
from l2p.evaluation.report import read_curves, size_figures, write_report
from l2p.evaluation.retention import MODELS, geneval_retention, read_rows
from l2p.files import read_json, write_json
from l2p.stages import report
from tests.conftest import small_params
from tests.evaluation import finished_project
from tests.evaluation.page import Page, check_offline

SECTIONS = ("summary", "scores", "images", "training", "sharpness", "efficiency", "validation", "lineage", "settings")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_delta: Path) -> Iterator[Params]:
    """A project, already the working directory, that has everything but the report."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("reported")
        patch.chdir(folder)
        (folder / "params.yaml").write_text(yaml.safe_dump(small_params(tiny_source)), encoding="utf-8")
        params = load_params()
        finished_project.fill(params, delta=tiny_delta, prompts_per_benchmark=12)
        images = (Layout.geneval / model / "images" for model in MODELS)
        write_json(Layout.fidelity, measure(*images, params.fidelity, device="cpu"))
        report.run(params)
        yield params


@pytest.fixture(scope="module")
def text(project: Params) -> str:
    return Layout.report.read_text(encoding="utf-8")


def test_the_page_loads_nothing_from_elsewhere(text: str) -> None:
    check_offline(text)
    assert Page(text).pictures > 20


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


def test_every_task_shows_samples_of_its_outcomes_with_boxes(project: Params, text: str) -> None:
    groups = geneval_groups(*runs(Layout.geneval, "results.jsonl"))
    assert len(groups) == 6
    assert {outcome.key for group in groups for outcome in group.outcomes} >= {"lost", "right"}
    for group in groups:
        assert group.told in text
        for shot in (each for outcome in group.outcomes for sample in outcome.samples for each in sample.shots):
            assert shot.picture is not None
            assert shot.picture.uri in text
            for box in shot.boxes:
                assert f'x="{box.left:.2f}%" y="{box.top:.2f}%" width="{box.width:.2f}%"' in text


def test_dense_prompts_show_both_grids_and_their_questions(project: Params, text: str) -> None:
    groups = dense_groups(*runs(Layout.dpg, "answers.jsonl"))
    items = [item for group in groups for item in group.items]
    assert len(items) == 6
    for item in items:
        assert item.prompt is not None
        assert item.prompt in text
        assert all(shot.picture is not None and shot.picture.uri in text for shot in item.shots)
        assert all(question.text in text for question in item.questions)


def test_without_a_fidelity_report_the_page_says_nothing_of_sharpness(project: Params, tmp_path: Path) -> None:
    stored = Layout.fidelity.read_bytes()
    Layout.fidelity.unlink()
    write_report(project, compare(), tmp_path / "page.html")
    Layout.fidelity.write_bytes(stored)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "sharpness" not in page.lower()


def test_the_page_is_small(text: str) -> None:
    assert len(text) < 6_000_000


def test_the_lineage_shows_every_input_with_its_digest(text: str) -> None:
    lineage = text[text.index('id="lineage"') :]
    for name in ("pixel model", "manifest", "corpus", "source", "prompts", "embeddings", "init"):
        assert re.search(rf"<b>{name}</b><code>[0-9a-f]{{12}}</code>", lineage), name


def test_the_validation_result_is_on_the_page(text: str) -> None:
    assert "1,996 of 2,000 images were accepted" in text
    assert "blank (3), duplicate (1)" in text
    assert "sha256 is unique" in text


def runs(folder: Path, table: str) -> tuple[dict[str, Path], dict[str, list[dict[str, Any]]]]:
    folders = {model: folder / model for model in MODELS}
    return folders, {model: read_rows(place / table, "") for model, place in folders.items()}


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
    assert overall.scores["pixel"].value == pytest.approx(100 * scores["pixel"]["overall"])
    assert len(tags) == 6
    for score in (score for bar in (overall, *tags) for score in bar.scores.values()):
        assert score.interval is not None
        assert score.interval[0] <= score.value <= score.interval[1]


def test_sizes_come_in_order_with_both_models() -> None:
    sizes = size_figures(finished_project.efficiency())
    assert [size.resolution_px for size in sizes] == [64, 128, 256]
    assert sizes[0].longest_ms == pytest.approx(7.9 + 9.0)


def test_a_chart_stays_inside_its_box_and_drops_what_it_cannot_draw() -> None:
    values = [1.0, float("nan"), 0.0, 0.5, 0.1, 50.0]
    chart = line_chart("loss", range(6), {"loss": values}, Axes(log=True))
    points = [tuple(map(float, point.split(","))) for point in chart.lines[0].raw.split()]
    assert len(points) == 4
    assert all(0 <= x <= 100 and 0 <= y <= 100 for x, y in points)
    assert all(0 <= tick.percent <= 100 for tick in (*chart.x_ticks, *chart.y_ticks))


def test_a_chart_may_be_told_to_cut_nothing() -> None:
    values = [1.0] * 300 + [1000.0]
    cut, whole = (line_chart("loss", range(301), {"loss": values}, Axes(log=True, whole=w)) for w in (False, True))
    heights = [float(chart.lines[0].raw.split()[0].split(",")[1]) for chart in (cut, whole)]
    assert heights[0] < 90 < heights[1]


def test_a_wide_logarithmic_axis_has_powers_of_ten() -> None:
    chart = line_chart("power", range(4), {"a": [2e-5, 1e-3, 0.1, 30.0]}, Axes(log=True, whole=True))
    assert [tick.label for tick in chart.y_ticks] == ["0.0001", "0.01", "1"]


def test_an_axis_of_fractions_ends_where_they_end() -> None:
    chart = line_chart("power", [0.1, 0.5], {"a": [1.0, 2.0]})
    assert [point.split(",")[0] for point in chart.lines[0].raw.split()] == ["0.00", "100.00"]


def test_a_constant_curve_of_one_point_can_be_drawn() -> None:
    chart = line_chart("rate", [10], {"rate": [0.0]})
    assert chart.lines[0].raw == "0.00,100.00"


def test_spreading_keeps_the_ends() -> None:
    assert spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert spread([1, 2], 4) == [1, 2]


def test_a_figure_that_is_not_there_is_a_dash() -> None:
    assert format_figure(None) == "–"
    assert format_figure(1234.5, 1) == "1,234.5"


def test_a_difference_has_a_sign_unless_it_is_nothing() -> None:
    assert [format_signed(value) for value in (12.4, -12.4, 0.2, -0.2)] == ["+12", "−12", "0", "0"]
