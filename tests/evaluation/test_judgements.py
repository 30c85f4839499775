"""Stored judgements, and images that cannot be judged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2p.config import EvaluationParams
from l2p.errors import EvaluationError
from l2p.evaluation.benchmark_data import load_geneval
from l2p.evaluation.geneval import check_vocabulary
from l2p.evaluation.geneval_judging import judge_images
from l2p.evaluation.image_folders import geneval_images
from l2p.evaluation.images import geneval_image
from l2p.evaluation.judgements import (
    Failure,
    JudgementStore,
    check_failures,
    judge_or_split,
    judgement_key,
    read_image,
)
from l2p.evaluation.judges import get_object_judge
from l2p.evaluation.judges.base import UnjudgeableImage

MACHINE = EvaluationParams(judge_batch_size=4, engine="local", num_workers=1)


def test_an_answer_is_there_for_a_later_run(tmp_path: Path):
    path, key = tmp_path / "store.jsonl", judgement_key({"judge": "a", "image": "b", "question": "c"})
    store = JudgementStore(path)
    assert key not in store
    store.put(key, "yes")
    assert store[key] == "yes"
    assert JudgementStore(path)[key] == "yes"


@pytest.mark.parametrize("changed", ["judge", "image", "question"])
def test_another_judge_image_or_question_has_another_key(changed: str):
    asked = {"judge": "a", "image": "b", "question": "c"}
    assert judgement_key(asked | {changed: "other"}) != judgement_key(asked)


def test_a_line_that_a_killed_run_left_unfinished_is_dropped(tmp_path: Path):
    path = tmp_path / "store.jsonl"
    store = JudgementStore(path)
    store.put("1", "yes")
    store.put("2", "yes")
    path.write_text(path.read_text(encoding="utf-8")[:-5], encoding="utf-8")
    again = JudgementStore(path)
    assert again["1"] == "yes"
    assert "2" not in again
    again.put("2", "no")
    assert JudgementStore(path)["2"] == "no"


def test_a_damaged_store_is_named(tmp_path: Path):
    path = tmp_path / "store.jsonl"
    path.write_text("garbage\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="line 1"):
        JudgementStore(path)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError("disk"), "OSError: disk"),
        (RuntimeError("out of\nmemory"), "RuntimeError: out of memory"),
        (UnjudgeableImage("x.png: odd"), "x.png: odd"),
    ],
)
def test_what_goes_wrong_with_one_image_leaves_the_others_of_its_batch(error: Exception, said: str):
    def judge(items: Sequence[int]) -> list[int]:
        if 2 in items:
            raise error
        return [10 * item for item in items]

    assert judge_or_split(judge, [1, 2, 3]) == [10, said, 30]


def test_a_fault_of_the_benchmark_stops_the_run():
    def judge(items: Sequence[int]) -> list[int]:
        raise EvaluationError("question")

    with pytest.raises(EvaluationError, match="question"):
        judge_or_split(judge, [1, 2])


def test_too_many_failures_refuse_the_score():
    failures = [Failure(f"{n}.png", "broken") for n in range(3)]
    check_failures(failures, images=150, max_share=0.02, results=Path("results.jsonl"))
    with pytest.raises(EvaluationError, match=r"3 of 149 images.*0\.png: broken"):
        check_failures(failures, images=149, max_share=0.02, results=Path("results.jsonl"))


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_missing_or_damaged_image_is_unjudgeable(tmp_path: Path, content: bytes | None):
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnjudgeableImage, match=r"x\.png"):
        read_image(path)


def test_a_truncated_image_is_unjudgeable(tmp_path: Path):
    path = tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UnjudgeableImage, match="not readable"):
        read_image(path)


def metadata(tmp_path: Path, label: str, color: str) -> Path:
    path = tmp_path / "metadata.jsonl"
    clause = f'{{"class": "{label}", "count": 1, "color": "{color}"}}'
    path.write_text(f'{{"tag": "colors", "include": [{clause}], "prompt": "p"}}\n', encoding="utf-8")
    return path


def test_a_failed_image_has_an_incorrect_row_with_its_reason(tmp_path: Path):
    data = load_geneval(str(metadata(tmp_path, "circle", "red")), tmp_path)
    path = tmp_path / "images" / geneval_image(0, 0)
    path.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64), "white").save(path)
    images = geneval_images(tmp_path / "images", data, 2)
    store, judge = JudgementStore(tmp_path / "store.jsonl"), get_object_judge("shapes")
    rows, failures = judge_images(images, judge, store, MACHINE)
    assert [failure.image for failure in failures] == [f"{tmp_path}/images/00000/samples/0001.png"]
    assert [row["correct"] for row in rows] == [False, False]
    assert rows[0]["reason"] == "expected circle>=1, found 0"
    assert rows[1]["reason"].startswith("could not be judged:")


@pytest.mark.parametrize(("label", "color", "said"), [("dog", "red", "class 'dog'"), ("star", "pink", "colour 'pink'")])
def test_a_benchmark_that_the_judge_does_not_understand_is_refused(tmp_path: Path, label: str, color: str, said: str):
    data = load_geneval(str(metadata(tmp_path, label, color)), tmp_path)
    with pytest.raises(EvaluationError, match=f"knows no {said}"):
        check_vocabulary(data, get_object_judge("shapes"))
