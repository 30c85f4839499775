"""The gallery of GenEval: which images it shows, where the judge's boxes lie, and what it says of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from l2p.evaluation.benchmark_data import Clause, GenEvalPrompt
from l2p.evaluation.gallery import PAIRS_PER_OUTCOME, SINGLES_PER_OUTCOME, Box, find_boxes, geneval_groups
from l2p.evaluation.geneval import decide
from l2p.evaluation.judges.base import Detection
from l2p.evaluation.reasons import plain_reasons
from tests.evaluation.judged_runs import SIZE_PX, geneval_row, write_geneval_run, write_image


def groups_of(tmp_path: Path, **verdicts: str):
    """Groups of models whose verdicts are "+" (right) and "-" (wrong), an image each."""
    rows = {
        model: [geneval_row(index, correct=sign == "+") for index, sign in enumerate(signs)]
        for model, signs in verdicts.items()
    }
    folders = {model: write_geneval_run(tmp_path / model, own) for model, own in rows.items()}
    return geneval_groups(folders, rows)


def test_a_detection_is_a_box_at_its_place_in_percent() -> None:
    row = geneval_row(0, details=json.dumps({"circle": [[50.0, 20.0, 150.0, 70.0, 0.875]]}))
    assert find_boxes(row, (200, 100)) == (Box("circle", 0.875, 25.0, 20.0, 50.0, 50.0, asked=True),)


def test_a_box_refers_to_the_file_and_not_to_the_smaller_picture_in_the_page(tmp_path: Path) -> None:
    row = geneval_row(0, details=json.dumps({"star": [[500.0, 0.0, 1000.0, 250.0, 0.5]]}))
    write_image(tmp_path / row["filename"], (1000, 500))
    [shot] = geneval_groups({"m": tmp_path}, {"m": [row]})[0].outcomes[0].samples[0].shots
    assert shot.picture is not None
    assert max(shot.picture.width_px, shot.picture.height_px) < 500
    assert (shot.boxes[0].left, shot.boxes[0].width, shot.boxes[0].height) == (50.0, 50.0, 50.0)


def test_a_box_that_leaves_the_image_is_cut_at_its_edge() -> None:
    row = geneval_row(0, details=json.dumps({"circle": [[-20.0, 50.0, 100.0, 130.0, 0.9]]}))
    [box] = find_boxes(row, (200, 100))
    assert (box.left, box.top, box.width, box.height) == (0.0, 50.0, 50.0, 50.0)


def test_boxes_that_the_prompt_asks_for_lie_over_the_others() -> None:
    corners = [0.0, 0.0, 10.0, 10.0, 0.9]
    row = geneval_row(0, details=json.dumps({"circle": [corners], "square": [corners], "star": [corners]}))
    boxes = find_boxes(row, SIZE_PX)
    assert [(box.label, box.asked) for box in boxes] == [("square", False), ("circle", True), ("star", True)]


def test_every_outcome_of_two_models_shows_up_with_its_count(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, source="++++--+-", pixel="+---+--+")
    assert {outcome.key: outcome.count for outcome in group.outcomes} == {
        "lost": 4,
        "gained": 2,
        "wrong": 1,
        "right": 1,
    }
    assert group.told == "source 5 of 8 correct, pixel 3 of 8; 4 lost, 2 gained"
    for outcome in group.outcomes:
        assert len(outcome.samples) == min(outcome.count, PAIRS_PER_OUTCOME)
        verdicts = {tuple(shot.correct for shot in sample.shots) for sample in outcome.samples}
        assert len(verdicts) == 1


def test_outcomes_that_do_not_occur_are_left_out(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, source="+++", pixel="+++")
    assert [outcome.key for outcome in group.outcomes] == ["right"]
    assert group.told == "source 3 of 3 correct, pixel 3 of 3; 0 lost, 0 gained"


@pytest.mark.parametrize(("signs", "keys"), [("++++", ["right"]), ("----", ["failed"]), ("+-+-", ["failed", "right"])])
def test_one_model_alone_has_right_and_wrong_images(tmp_path: Path, signs: str, keys: list[str]) -> None:
    [group] = groups_of(tmp_path, model=signs)
    assert [outcome.key for outcome in group.outcomes] == keys
    assert group.told == f"{signs.count('+')} of 4 correct"


def test_samples_are_spread_evenly_over_their_outcome(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, model="+" * 11)
    prompts = [sample.prompt for sample in group.outcomes[0].samples]
    assert prompts == [f"prompt {index}" for index in (0, 2, 4, 6, 8, 10)]
    assert len(prompts) == SINGLES_PER_OUTCOME


def test_tasks_have_groups_of_their_own_in_the_order_of_the_results(tmp_path: Path) -> None:
    rows = [geneval_row(index, tag=tag) for index, tag in enumerate(["position", "counting", "position", "a new task"])]
    groups = geneval_groups({"m": write_geneval_run(tmp_path, rows)}, {"m": rows})
    assert [(group.title, group.total) for group in groups] == [("position", 2), ("counting", 1), ("a new task", 1)]


def test_images_of_both_models_are_paired_wherever_they_lie(tmp_path: Path) -> None:
    inside, elsewhere = geneval_row(3), geneval_row(3, correct=False)
    elsewhere["filename"] = str(tmp_path / "downloads" / "00003" / "samples" / "0000.png")
    write_image(Path(elsewhere["filename"]))
    write_geneval_run(tmp_path / "source", [inside])
    [group] = geneval_groups(
        {"source": tmp_path / "source", "pixel": tmp_path / "pixel"}, {"source": [inside], "pixel": [elsewhere]}
    )
    assert [outcome.key for outcome in group.outcomes] == ["lost"]
    assert all(shot.picture is not None for shot in group.outcomes[0].samples[0].shots)


def test_an_image_that_only_one_model_has_is_not_shown(tmp_path: Path) -> None:
    rows = {"source": [geneval_row(0), geneval_row(1)], "pixel": [geneval_row(1)]}
    folders = {model: write_geneval_run(tmp_path / model, own) for model, own in rows.items()}
    [group] = geneval_groups(folders, rows)
    assert group.total == 1


def test_a_missing_image_has_a_place_and_its_reason(tmp_path: Path) -> None:
    row = geneval_row(0, correct=False, reason="could not be judged: x.png: not found")
    [shot] = geneval_groups({"m": tmp_path}, {"m": [row]})[0].outcomes[0].samples[0].shots
    assert shot.picture is None
    assert shot.faults == ("could not be judged: x.png: not found",)


def test_faults_that_both_models_share_are_known_to_be_the_same(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, source="-+", pixel="--")
    alike = {outcome.key: outcome.samples[0].alike for outcome in group.outcomes}
    assert alike == {"lost": False, "wrong": True}


def reasons_of(
    include: list[dict], found: dict[str, list[Detection]], colors: list[str] | None = None, **more
) -> tuple:
    """What is said of a decision of the real rules."""
    metadata = {"include": include, **more}
    clauses = tuple(
        Clause(each["class"], each["count"], each.get("color"), tuple(each["position"]) if "position" in each else None)
        for each in include
    )
    exclude = tuple(Clause(each["class"], each["count"]) for each in more.get("exclude", ()))
    prompt = GenEvalPrompt(0, "any", "any", clauses, exclude, metadata)
    decision = decide(prompt, found, lambda detections: colors or [])
    assert not decision.correct
    return plain_reasons(decision.reason, metadata)


def at(x: float, y: float, label: str) -> Detection:
    return Detection(label, 0.9, (x, y, x + 10, y + 10), None)


def test_a_missing_object_is_said_plainly() -> None:
    assert reasons_of([{"class": "sports ball", "count": 2}], {}) == ("sports ball: 2 expected, none found",)
    one = {"sports ball": [at(0, 0, "sports ball")]}
    assert reasons_of([{"class": "sports ball", "count": 2}], one) == ("sports ball: 2 expected, 1 found",)


def test_an_object_too_many_is_said_plainly() -> None:
    three = {"cat": [at(20 * n, 0, "cat") for n in range(3)]}
    said = reasons_of([{"class": "cat", "count": 2}], three, exclude=[{"class": "cat", "count": 3}])
    assert said == ("cat: 2 expected, 3 found",)


def test_a_wrong_colour_is_said_with_the_colour_that_was_found() -> None:
    include = [{"class": "tv remote", "count": 1, "color": "red"}]
    assert reasons_of(include, {"tv remote": [at(0, 0, "tv remote")]}, ["blue"]) == (
        "red tv remote: 1 expected, none found (1 blue)",
    )


def test_a_wrong_place_names_the_other_object() -> None:
    include = [{"class": "cup", "count": 1}, {"class": "fork", "count": 1, "position": ["left of", 0]}]
    found = {"cup": [at(0, 0, "cup")], "fork": [at(50, 0, "fork")]}
    assert reasons_of(include, found) == ("fork: expected left of the cup, is right of it",)
    near = {"cup": [at(0, 0, "cup")], "fork": [at(1, 0, "fork")]}
    assert reasons_of(include, near) == ("fork: expected left of the cup, stands in no clear direction from it",)
    assert reasons_of(include, {"fork": [at(50, 0, "fork")]}) == (
        "cup: 1 expected, none found",
        "fork: no matching cup to be left of",
    )


def test_a_reason_of_an_unknown_form_stays_as_it_is() -> None:
    assert plain_reasons("blurred beyond recognition", {"include": []}) == ("blurred beyond recognition",)
    assert plain_reasons("", {"include": []}) == ()
