"""The stages geneval and dpg, on the tiny source and an untrained pixel model, and the retention between the two."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from l2p.config import Layout, Params, load_params
from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.retention import dpg_retention, geneval_retention, read_rows
from l2p.files import read_json
from l2p.models.source import pin_source
from l2p.stages import dpg, geneval

OFFICIAL_COLUMNS = ["filename", "tag", "prompt", "correct", "reason", "metadata", "details"]
TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]


@pytest.fixture
def params(workspace: Path, tiny_source: Path, tiny_delta: Path) -> Params:
    """A small project whose source is pinned and whose pixel model is there; two prompts of each task."""
    pin_source(str(tiny_source)).save(Layout.source)
    shutil.copytree(tiny_delta, Layout.pixel)
    return load_params(workspace / "params.yaml")


def changed(workspace: Path, section: str, **values: object) -> Params:
    path = workspace / "params.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw[section] |= values
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params(path)


def test_geneval_scores_both_models_and_their_retention(params: Params, capsys: pytest.CaptureFixture[str]):
    for model in ("source", "pixel"):
        geneval.run(params, model=model)
        folder = Layout.geneval / model
        rows = read_rows(folder / "results.jsonl", "geneval")
        assert [list(row) for row in rows] == [OFFICIAL_COLUMNS] * 111
        assert all((folder / row["filename"]).is_file() for row in rows)
        assert json.loads((folder / "images/00000/metadata.jsonl").read_text()) == json.loads(rows[0]["metadata"])
        scores = read_json(folder / "scores.json", written_by="geneval")
        assert list(scores["tags"]) == list(scores["tag_intervals"]) == TAGS
        assert 0 <= scores["interval"][0] <= scores["overall"] <= scores["interval"][1] <= 1
        card = scores["card"]
        assert (card["benchmark"], card["protocol"], card["n_prompts"], card["n_images"]) == (
            "geneval",
            "official",
            111,
            111,
        )
        assert (card["n_failures"], card["failures"], card["model"]["name"]) == (0, [], model)
        assert re.fullmatch("[0-9a-f]{64}", card["judge"]["digest"])
    assert "111 images, 111 of them drawn now, 0 failed" in capsys.readouterr().out
    kept = geneval_retention()
    assert kept.n_prompts == 111
    assert (kept.value is None) == (kept.source == 0)


def test_dpg_scores_both_models_and_their_retention(params: Params):
    for model in ("source", "pixel"):
        dpg.run(params, model=model)
        folder = Layout.dpg / model
        rows = read_rows(folder / "answers.jsonl", "dpg")
        assert len(rows) == 40
        assert all((folder / row["filename"]).is_file() for row in rows)
        assert {answer for row in rows for answer in row["answers"].values()} <= {"yes", "no"}
        scores = read_json(folder / "scores.json", written_by="dpg")
        assert sorted(scores["categories"]) == ["attribute", "entity", "global", "other", "relation"]
        assert 0 <= scores["interval"][0] <= scores["overall"] <= scores["interval"][1] <= 100
        assert (scores["card"]["protocol"], scores["card"]["n_images"], scores["card"]["n_dropped"]) == ("fixed", 40, 0)
    kept = dpg_retention()
    scores = read_json(Layout.dpg / "pixel" / "scores.json", written_by="dpg")
    assert kept.pixel == pytest.approx(scores["overall"] / 100)


def test_a_second_run_draws_nothing_and_scores_the_same(params: Params, capsys: pytest.CaptureFixture[str]):
    dpg.run(params, model="pixel")
    first = (Layout.dpg / "pixel" / "scores.json").read_bytes()
    (Layout.dpg / "pixel" / "answers.jsonl").unlink()
    capsys.readouterr()
    dpg.run(params, model="pixel")
    assert "0 of them drawn now" in capsys.readouterr().out
    assert (Layout.dpg / "pixel" / "scores.json").read_bytes() == first


def test_the_official_dpg_protocol_names_the_item_it_loses(params: Params, workspace: Path):
    dpg.run(changed(workspace, "dpg", protocol="official"), model="source")
    card = read_json(Layout.dpg / "source" / "scores.json", written_by="dpg")["card"]
    assert [entry["image"] for entry in card["dropped"]] == ["shapes000"]


def test_scores_with_other_seeds_are_not_compared(params: Params, workspace: Path):
    dpg.run(params, model="source")
    dpg.run(changed(workspace, "dpg", seed=1), model="pixel")
    with pytest.raises(EvaluationError, match="differ in `first_seed`"):
        dpg_retention()


def test_retention_needs_both_models(params: Params):
    with pytest.raises(MissingFileError, match="l2p geneval --model source"):
        geneval_retention()


def test_a_question_file_of_another_world_is_refused_before_anything_is_drawn(params: Params, workspace: Path):
    (workspace / "prompts").mkdir()
    (workspace / "prompts" / "a.txt").write_text("a dog\n", encoding="utf-8")
    table = workspace / "dpg_bench.csv"
    columns = "item_id,proposition_id,dependency,tuple,question_natural_language"
    table.write_text(f"{columns}\na,1,0,entity - whole (dog),Is there a dog?\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="Is there a dog"):
        dpg.run(changed(workspace, "dpg", data=str(table)), model="source")
    assert not (Layout.dpg / "source" / "images").exists()


def test_a_model_that_is_not_there_names_the_stage_that_writes_it(workspace: Path):
    params = load_params(workspace / "params.yaml")
    with pytest.raises(MissingFileError, match="l2p source"):
        geneval.run(params, model="source")
    with pytest.raises(MissingFileError, match="l2p train"):
        dpg.run(params, model="pixel")
