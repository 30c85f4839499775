"""The page of one evaluated model: what it shows, that it opens alone, and that nothing in it is taken for HTML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2p.errors import MissingFileError
from l2p.evaluation.judgements import Failure
from l2p.evaluation.run_page import write_run_page
from tests.evaluation.judged_runs import (
    dpg_item,
    geneval_row,
    read_scores,
    write_dpg_run,
    write_geneval_run,
)
from tests.evaluation.page import Page, check_offline

NASTY = '<img src=x onerror="alert(1)"> & <script>'


def page_of(folder: Path) -> str:
    path = folder / "page.html"
    write_run_page(folder, path)
    return path.read_text(encoding="utf-8")


def geneval_page(folder: Path, signs: str, **card: Any) -> str:
    rows = [geneval_row(index, correct=sign == "+") for index, sign in enumerate(signs)]
    return page_of(write_geneval_run(folder, rows, **card))


def dpg_page(folder: Path, answers: list[list[str]], **card: Any) -> str:
    items = [dpg_item(index) for index in range(len(answers))]
    said = {item.item_id: [own] for item, own in zip(items, answers, strict=True)}
    return page_of(write_dpg_run(folder, items, said, **card))


def test_a_page_of_geneval_shows_score_images_and_card(tmp_path: Path) -> None:
    text = geneval_page(tmp_path, "++--", name="theirs/model@v1")
    page, scores = Page(text), read_scores(tmp_path)
    check_offline(text)
    assert [name for name in page.ids if name != "failures"] == ["summary", "scores", "images", "settings"]
    assert "theirs/model@v1" in text
    assert f"{scores['overall']:.3f}" in text
    assert f"95 % interval {scores['interval'][0]:.3f} to {scores['interval'][1]:.3f}" in page.text
    assert page.pictures == 4
    assert {"outcome-right", "outcome-failed"} <= set(page.classes)
    assert page.text.count("circle: 1 expected, none found") == 2
    assert "judge_options.threshold" in page.text


def test_a_page_of_dpg_shows_score_grids_and_questions(tmp_path: Path) -> None:
    text = dpg_page(tmp_path, [["yes", "yes"], ["no", "yes"], ["yes", "no"]])
    page = Page(text)
    check_offline(text)
    assert f"{read_scores(tmp_path)['overall']:.1f}" in page.text
    assert page.pictures == 3
    assert page.text.count("Is there thing 2?") == 3
    assert page.text.count("1 zeroed") == 1


def test_a_known_detection_is_a_rect_at_the_right_percent(tmp_path: Path) -> None:
    row = geneval_row(0, details=json.dumps({"circle": [[50.0, 20.0, 150.0, 70.0, 0.875]]}))
    text = page_of(write_geneval_run(tmp_path, [row]))
    assert Page(text).boxes == [{"x": "25.00%", "y": "20.00%", "width": "50.00%", "height": "50.00%"}]
    assert "<title>circle 0.88</title>" in text


@pytest.mark.parametrize(("signs", "shown"), [("++++", "outcome-right"), ("----", "outcome-failed")])
def test_a_run_of_one_outcome_alone_can_be_shown(tmp_path: Path, signs: str, shown: str) -> None:
    page = Page(geneval_page(tmp_path, signs))
    assert {name for name in page.classes if name in ("outcome-right", "outcome-failed")} == {shown}
    assert page.pictures == 4


@pytest.mark.parametrize("answer", ["yes", "no"])
def test_a_dense_run_of_one_answer_alone_can_be_shown(tmp_path: Path, answer: str) -> None:
    page = Page(dpg_page(tmp_path, [[answer, answer]] * 3))
    assert page.pictures == 3
    assert "all alike" in page.text


def test_failures_are_listed_with_their_reasons(tmp_path: Path) -> None:
    failures = tuple(Failure(f"images/{index:05d}.png", "damaged <file>") for index in range(60))
    text = geneval_page(tmp_path, "+-", failures=failures)
    page = Page(text)
    assert "failures" in page.ids
    assert "images/00049.png" in page.text
    assert "images/00050.png" not in page.text
    assert "and 10 more" in page.text
    assert "damaged <file>" in page.text
    assert "<file>" not in text


def test_a_sample_of_the_prompts_is_said_to_be_one(tmp_path: Path) -> None:
    assert (
        "a stratified sample of 12.5 % of the prompts" in Page(geneval_page(tmp_path / "part", "+-", subset=0.125)).text
    )
    assert "sample of" not in Page(geneval_page(tmp_path / "whole", "+-")).text


def test_a_card_of_an_older_run_can_be_shown(tmp_path: Path) -> None:
    geneval_page(tmp_path, "+-")
    scores = read_scores(tmp_path)
    for name in ("subset", "judge_options"):
        del scores["card"][name]
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    assert "a model" in page_of(tmp_path)


def test_html_in_names_prompts_reasons_and_classes_is_escaped(tmp_path: Path) -> None:
    boxes = json.dumps({NASTY: [[0.0, 0.0, 50.0, 50.0, 0.5]]})
    row = geneval_row(0, correct=False, prompt=NASTY, reason=NASTY, details=boxes, tag=NASTY)
    text = page_of(write_geneval_run(tmp_path, [row], name=NASTY, judge_options={NASTY: NASTY}))
    check_offline(text)
    page = Page(text)
    assert page.pictures == 1
    assert page.text.count(NASTY) >= 5
    assert 'onerror="' not in text


def test_html_in_questions_is_escaped(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path, [dpg_item(0)], {"item00": [["yes", "no"]]})
    answers = (folder / "answers.jsonl").read_text(encoding="utf-8")
    nasty = json.dumps(NASTY)[1:-1]
    (folder / "answers.jsonl").write_text(
        answers.replace("Is there thing 2?", nasty).replace("entity - whole", nasty), encoding="utf-8"
    )
    text = page_of(folder)
    check_offline(text)
    assert Page(text).text.count(NASTY) == 3


def test_every_picture_has_words_for_those_who_do_not_see_it(tmp_path: Path) -> None:
    row = geneval_row(0, details=json.dumps({"circle": [[0, 0, 9, 9, 0.9], [9, 9, 20, 20, 0.8]]}))
    assert Page(page_of(write_geneval_run(tmp_path, [row]))).alts == ["a model: prompt 0. Found: 2 circle"]


def test_a_folder_without_scores_is_told_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"scores\.json: not found. `l2p evaluate` writes it"):
        write_run_page(tmp_path, tmp_path / "page.html")
