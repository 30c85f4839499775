from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from flows import progress
from flows.progress import MEASURES, last_step
from l2p.config import Layout, load_params
from l2p.training.record import COLUMNS
from tests.conftest import ROOT


def row(step: int) -> str:
    return ",".join([str(step), "0.5", *[""] * (len(COLUMNS) - 2)]) + "\n"


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("", 0),
        (",".join(COLUMNS) + "\n", 0),
        (",".join(COLUMNS) + "\n" + row(10) + row(20), 20),
        (",".join(COLUMNS) + "\n" + row(10) + "20,0.4", 10),  # torn
        (",".join(COLUMNS) + "\n" + "".join(row(step) for step in range(1000)), 999),
    ],
)
def test_the_last_whole_row_of_the_curves_says_how_far_a_training_is(tmp_path: Path, text: str, step: int) -> None:
    path = tmp_path / Layout.training / "curves.csv"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert last_step(tmp_path) == step


def test_the_measures_know_how_much_there_is_to_do() -> None:
    params = load_params(ROOT / "params.yaml")
    assert MEASURES["synthesize"].total(params) == params.prompts.count * params.synthesize.images_per_prompt
    assert MEASURES["train"].total(params) == params.train.num_steps


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the artifact says, one after the other, in place of a server."""
    told: list[str] = []
    monkeypatch.setattr(progress, "create_progress_artifact", lambda _share, *, key, description: told.append(key))
    monkeypatch.setattr(
        progress,
        "update_progress_artifact",
        lambda _id, share, *, description: told.append(f"{description}, {share:.0f} %"),
    )
    return told


def project_with_curves(root: Path, *steps: int) -> Path:
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    path = root / Layout.training / "curves.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(",".join(COLUMNS) + "\n" + "".join(row(step) for step in steps))
    return root


def test_what_an_earlier_run_left_does_not_count_until_the_stage_writes(tmp_path: Path, shown: list[str]) -> None:
    total = load_params(ROOT / "params.yaml").train.num_steps
    root = project_with_curves(tmp_path, total)
    with progress.shown_progress("train", root, every_s=0.01):
        time.sleep(0.1)
        assert shown == ["progress-training-steps"]
        project_with_curves(root, total // 2)
    assert shown[1:] == [f"{total // 2:,} of {total:,} training steps, 50 %"]


def test_a_stage_without_work_is_shown_as_done(tmp_path: Path, shown: list[str]) -> None:
    total = load_params(ROOT / "params.yaml").train.num_steps
    with progress.shown_progress("train", project_with_curves(tmp_path, total)):
        pass
    assert shown == ["progress-training-steps", f"{total:,} of {total:,} training steps, 100 %"]


def test_a_stage_that_fails_before_it_writes_is_not(tmp_path: Path, shown: list[str]) -> None:
    with pytest.raises(OSError, match="full"), progress.shown_progress("train", project_with_curves(tmp_path, 1400)):
        raise OSError("full")
    assert shown == ["progress-training-steps"]


@pytest.mark.parametrize("stage", ["convert", "geneval@pixel"])
def test_other_stages_have_no_bar(tmp_path: Path, shown: list[str], stage: str) -> None:
    with progress.shown_progress(stage, project_with_curves(tmp_path)):
        pass
    assert shown == []


def test_a_project_without_parameters_has_no_bar(tmp_path: Path, shown: list[str]) -> None:
    with progress.shown_progress("train", tmp_path):
        pass
    assert shown == []
