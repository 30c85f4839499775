"""`l2p compare`: the table agrees with the scores, real differences are marked, wrong pairs are refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import load_params
from l2p.errors import ConfigError, DataError, EvaluationError, L2PError, MissingFileError
from l2p.evaluation.pairing import holm, pair
from l2p.evaluation.scores import BOOTSTRAP_SEED, RESAMPLES, resample
from l2p.files import read_json, write_json
from tests.evaluation import finished_project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_source: Path, tiny_delta: Path) -> Path:
    """Both benchmarks of a source and of a pixel model that is wrong more often."""
    import yaml

    from tests.conftest import small_params

    folder = tmp_path_factory.mktemp("project")
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(tiny_source)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        finished_project.fill(load_params(), delta=tiny_delta)
    return folder / "reports"


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)], env={"COLUMNS": "160"})
    if isinstance(done.exception, L2PError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def models(project: Path, benchmark: str) -> tuple[Path, Path]:
    return project / benchmark / "source", project / benchmark / "pixel"


def test_geneval_has_overall_and_all_tags_as_scored(project: Path):
    a, b = models(project, "geneval")
    found = pair(a, b)
    scores = read_json(b / "scores.json", written_by="x")
    assert {part.name: part.b for part in found.parts} == pytest.approx(
        {"overall": scores["overall"], **scores["tags"]}
    )
    assert found.n_prompts == 111


def test_dpg_has_overall_and_all_categories_as_scored(project: Path):
    a, b = models(project, "dpg")
    found = pair(a, b)
    scores = read_json(b / "scores.json", written_by="x")
    expected = {"overall": scores["overall"], **scores["categories"], **scores["categories_detailed"]}
    assert {part.name: part.b for part in found.parts} == pytest.approx(expected)
    assert all(part.b_interval[0] <= part.b <= part.b_interval[1] for part in found.parts)


def test_a_model_is_never_better_than_itself(project: Path):
    a, _ = models(project, "geneval")
    for part in pair(a, a).parts:
        assert (part.difference, part.difference_interval, part.p_value, part.verdict) == (0, (0, 0), 1, "")


def test_a_model_that_is_wrong_more_often_is_marked(project: Path):
    a, b = models(project, "dpg")
    overall = pair(a, b).parts[0]
    assert overall.difference < 0
    assert overall.verdict == "worse"
    assert pair(b, a).parts[0].verdict == "better"


def test_the_interval_of_a_difference_is_that_of_a_slow_paired_bootstrap(project: Path):
    a, b = models(project, "dpg")
    values = []
    for folder in (a, b):
        rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        items = dict.fromkeys(row["item_id"] for row in rows)
        values.append(np.array([np.mean([r["score"] for r in rows if r["item_id"] == item]) for item in items]))
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(values[0]), (RESAMPLES, len(values[0])))
    slow = [100 * np.mean(values[1][draw] - values[0][draw]) for draw in draws]
    assert pair(a, b).parts[0].difference_interval == pytest.approx(tuple(np.percentile(slow, [2.5, 97.5])))


def test_weights_resample_within_strata_only():
    weights = resample([0, 0, 0, 1, 1])
    assert weights.shape == (RESAMPLES, 5)
    assert (weights[:, :3].sum(1) == 3).all()
    assert (weights[:, 3:].sum(1) == 2).all()


def test_holm_steps_down_and_stops_at_the_first_that_holds():
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.03, 0.001]) == [True, True]
    assert holm([0.03, 0.04]) == [False, False]
    assert holm([]) == []


def test_both_benchmarks_are_printed_and_written(project: Path, tmp_path: Path):
    for model in ("source", "pixel"):
        for benchmark in ("geneval", "dpg"):
            shutil.copytree(project / benchmark / model, tmp_path / model / benchmark)
    files = [tmp_path / name for name in ("t.csv", "t.json", "t.png", "t.svg")]
    told = run(tmp_path / "source", tmp_path / "pixel", "--csv", files[0], "--json", files[1], "--figure", files[2])
    run(tmp_path / "source", tmp_path / "pixel", "--figure", files[3])
    assert "GenEval, 111 prompts" in told
    assert "DPG-Bench, 40 prompts" in told
    assert "single_object" in told
    assert "worse" in told
    with files[0].open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    assert {row["benchmark"] for row in table} == {"geneval", "dpg"}
    assert len(json.loads(files[1].read_text(encoding="utf-8"))) == 2
    with Image.open(files[2]) as image:
        assert image.width > 1000
    assert "http" not in files[3].read_text(encoding="utf-8").split("<g", 1)[1].replace("http://www.w3.org", "")


def test_scores_that_were_measured_otherwise_are_refused(project: Path, tmp_path: Path):
    a, b = models(project, "geneval")
    shutil.copytree(b, tmp_path / "b")
    scores = read_json(b / "scores.json", written_by="x")
    write_json(tmp_path / "b" / "scores.json", scores | {"card": scores["card"] | {"height_px": 128}})
    with pytest.raises(EvaluationError, match="`height_px`"):
        run(a, tmp_path / "b")
    unknown = scores["card"] | {"first_seed": None, "seed_formula": None}
    write_json(tmp_path / "b" / "scores.json", scores | {"card": unknown})
    assert "GenEval" in run(a, tmp_path / "b")


def test_wrong_input_is_told(project: Path, tmp_path: Path):
    a, b = models(project, "geneval")
    with pytest.raises(MissingFileError, match=r"l2p evaluate"):
        run(a, tmp_path)
    with pytest.raises(EvaluationError, match="`benchmark`"):
        run(a, project / "dpg" / "pixel")
    with pytest.raises(ConfigError, match=r"--figure x\.gif"):
        run(a, b, "--figure", "x.gif")


def test_answers_without_categories_still_have_an_overall_score(project: Path, tmp_path: Path):
    """As versions before categories were stored wrote them."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, old in zip(folders, models(project, "dpg"), strict=True):
        shutil.copytree(old, folder)
        rows = [json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        lines = [json.dumps({name: value for name, value in row.items() if name != "categories"}) for row in rows]
        (folder / "answers.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found = pair(*folders)
    assert [part.name for part in found.parts] == ["overall"]
    assert replace(found.parts[0], significant=True).verdict == "worse"


def test_results_that_are_missing_damaged_or_of_other_prompts_are_told(project: Path, tmp_path: Path):
    a, b = models(project, "dpg")
    shutil.copytree(b, tmp_path / "b")
    answers = tmp_path / "b" / "answers.jsonl"
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    answers.write_text("".join(json.dumps(row | {"item_id": f"other-{row['item_id']}"}) + "\n" for row in rows))
    with pytest.raises(EvaluationError, match="no prompt in common"):
        run(a, tmp_path / "b")
    answers.write_text(json.dumps(rows[0]) + "\n" + json.dumps(rows[1])[:20])
    with pytest.raises(DataError, match=r"answers\.jsonl: not valid JSON lines.*run"):
        run(a, tmp_path / "b")
    answers.unlink()
    with pytest.raises(MissingFileError, match=r"answers\.jsonl: not found"):
        run(a, tmp_path / "b")


def test_the_official_protocol_reads_categories_from_the_last_image(project: Path, tmp_path: Path):
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, old in zip(folders, models(project, "dpg"), strict=True):
        shutil.copytree(old, folder)
        scores = read_json(folder / "scores.json", written_by="x")
        write_json(folder / "scores.json", scores | {"card": scores["card"] | {"protocol": "official"}})
    every, last = pair(*models(project, "dpg")), pair(*folders)
    assert every.parts[0] == last.parts[0]
    rows = [json.loads(line) for line in (folders[1] / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    of_last = {row["item_id"]: row for row in rows}.values()
    name = last.parts[1].name
    answers = [
        row["answers"][number]
        for row in of_last
        for number, category in row["categories"].items()
        if category.split("-")[0].strip() == name
    ]
    assert last.parts[1].b == pytest.approx(100 * answers.count("yes") / len(answers))
