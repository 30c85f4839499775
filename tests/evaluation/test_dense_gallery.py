"""The gallery of DPG-Bench: which prompts it shows, and how the answers to their questions are counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from l2p.evaluation.dense_gallery import Count, dense_groups, pick_ends
from tests.evaluation.judged_runs import dpg_item, read_rows, write_dpg_run, write_image

YES, NO = ["yes", "yes"], ["yes", "no"]


def groups_of(tmp_path: Path, **said: list[list[list[str]]]):
    """Groups of models, from what they were answered: by item, by image, by question."""
    folders = {}
    for model, answers in said.items():
        items = [dpg_item(index) for index in range(len(answers))]
        by_item = {item.item_id: own for item, own in zip(items, answers, strict=True)}
        folders[model] = write_dpg_run(tmp_path / model, items, by_item)
    return dense_groups(folders, {model: read_rows(folder, "answers.jsonl") for model, folder in folders.items()})


def test_prompts_are_ranked_by_what_the_pixel_model_loses_and_gains(tmp_path: Path) -> None:
    shares = [(4, 4), (4, 0), (0, 4), (4, 3), (2, 2), (1, 2), (3, 3)]
    source, pixel = ([[YES] * yes + [NO] * (4 - yes) for yes in of] for of in zip(*shares, strict=True))
    groups = groups_of(tmp_path, source=source, pixel=pixel)
    found = {group.title: [item.item_id for item in group.items] for group in groups}
    assert found == {
        "lost most": ["item01", "item03"],
        "in the middle": ["item00", "item04"],
        "gained most": ["item02", "item05"],
    }
    assert [item.difference for item in groups[0].items] == pytest.approx([-50.0, -12.5])


def test_nothing_is_called_lost_or_gained_that_is_not() -> None:
    worth = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.1}
    assert pick_ends(list("abcd"), worth, (0.0, 0.0)) == ([], ["a", "b", "c"], ["d"])
    assert pick_ends(["a"], {"a": 0.0}, (0.0, 0.0)) == ([], ["a"], [])


def test_at_most_six_are_shown_and_none_twice() -> None:
    ranked = list(range(20))
    low, middle, high = pick_ends(ranked, {item: float(item) for item in ranked}, (19.0, 0.0))
    assert (low, middle, high) == ([0, 1], [9, 10], [19, 18])
    few = [0, 1, 2]
    assert pick_ends(few, {item: float(item) for item in few}, (2.0, 0.0)) == ([0, 1], [], [2])


def test_one_model_alone_is_ranked_by_its_score(tmp_path: Path) -> None:
    groups = groups_of(tmp_path, model=[[YES], [["no", "no"]], [NO]])
    assert [(group.title, [item.item_id for item in group.items]) for group in groups] == [
        ("lowest", ["item01", "item02"]),
        ("highest", ["item00"]),
    ]


def test_a_run_in_which_everything_is_right_has_one_group(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, model=[[YES]] * 9)
    assert group.title == "all alike"
    assert len(group.items) == 6


def test_answers_are_counted_over_the_images_and_zeroed_ones_marked(tmp_path: Path) -> None:
    [group] = groups_of(tmp_path, model=[[["yes", "yes"], ["no", "yes"], ["yes", "no"], ["no", "no"]]])
    first, second = group.items[0].questions
    assert (first.text, first.category) == ("Is there thing 1?", "entity - whole")
    assert first.counts == (Count(yes=2, of=4, zeroed=0),)
    assert second.counts == (Count(yes=2, of=4, zeroed=1),)
    assert group.items[0].shots[0].score == pytest.approx(100 * (1 + 0 + 0.5 + 0) / 4)


def test_answers_without_the_questions_are_shown_by_number(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path, [dpg_item(0, questions=11)], {"item00": [["yes"] * 11]})
    rows = [row | {"questions": {}, "categories": {}} for row in read_rows(folder, "answers.jsonl")]
    without = [{name: row[name] for name in row if name not in ("questions", "categories")} for row in rows]
    for old in (rows, without):
        [group] = dense_groups({"m": folder}, {"m": old})
        asked = [question.text for question in group.items[0].questions]
        assert asked == [f"question {number}" for number in range(1, 12)]


def test_an_image_that_was_not_judged_has_no_answers_but_counts(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path, [dpg_item(0)], {"item00": [YES, YES]})
    rows = read_rows(folder, "answers.jsonl")
    rows[1] |= {"answers": None, "failure": "item00.png: damaged", "score": 0.0}
    [group] = dense_groups({"m": folder}, {"m": rows})
    item = group.items[0]
    assert item.questions[0].counts == (Count(yes=1, of=1, zeroed=0),)
    assert item.shots[0].failures == ("item00.png: damaged",)
    assert item.shots[0].score == 50.0


def test_separate_images_anywhere_are_shown_as_one_grid(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path / "run", [dpg_item(0)], {"item00": [YES] * 3})
    rows = read_rows(folder, "answers.jsonl")
    for number, row in enumerate(rows):
        row["filename"] = str(write_image(tmp_path / f"elsewhere/item00_{number}.png", (40, 30 + number)))
    [group] = dense_groups({"m": folder}, {"m": rows})
    [shot] = group.items[0].shots
    assert shot.picture is not None
    assert shot.picture.full_px == (80, 60)
    assert (shot.count, shot.rows) == (3, 2)


def test_a_missing_grid_has_a_place(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path, [dpg_item(0)], {"item00": [YES]})
    (folder / "images/item00.png").unlink()
    [group] = dense_groups({"m": folder}, {"m": read_rows(folder, "answers.jsonl")})
    assert group.items[0].shots[0].picture is None
    assert group.items[0].prompt is None


def test_a_damaged_image_has_a_place(tmp_path: Path) -> None:
    folder = write_dpg_run(tmp_path, [dpg_item(0)], {"item00": [YES]})
    path = folder / "images/item00.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:300])
    [group] = dense_groups({"m": folder}, {"m": read_rows(folder, "answers.jsonl")})
    assert group.items[0].shots[0].picture is None
