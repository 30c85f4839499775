"""Several training processes: the same model as one process trains, one error in one line, and nobody left behind."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from l2p.config import Layout, load_params
from l2p.errors import DataError
from l2p.files import read_json
from l2p.stages.train import run
from tests.conftest import ROOT
from tests.training.conftest import with_train

STEPS = {"num_steps": 4, "checkpoint_every": 4, "sample_every": 4, "ema_decay": 0.5}


@pytest.fixture(autouse=True)
def workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run uninstalled; two processes share the cores."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train_with(stage: int, processes: int, **changes: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Train the project's model from its start; returns the stored tensors and the loss after every step."""
    shutil.rmtree(Layout.checkpoints, ignore_errors=True)
    zero = {"stage": stage}
    run(with_train(**STEPS | changes, num_processes=processes, deepspeed={"zero_optimization": zero}))
    result = read_json(Layout.training / "result.json", written_by="the test")
    assert (result["num_processes"], result["zero_stage"]) == (processes, stage)
    with (Layout.training / "curves.csv").open(newline="") as stream:
        losses = [float(row["loss"]) for row in csv.DictReader(stream)]
    return load_file(Layout.pixel / "delta.safetensors"), losses


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal up to the rounding of sums in another order."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.slow), 2, 3])
def test_two_processes_train_what_one_trains(project: Path, stage: int, capfd: pytest.CaptureFixture[str]) -> None:
    alone, expected = train_with(1, 1)
    start = load_file(Layout.init / "delta.safetensors")
    assert any((alone[name] - start[name]).abs().max() > 1e-3 for name in start)
    capfd.readouterr()
    together, losses = train_with(stage, 2)
    assert losses == pytest.approx(expected, rel=1e-4)
    assert_close(together, alone)
    assert "step 4/4" in capfd.readouterr().out  # their output is ours
    files = {path.name[:7] for path in (Layout.checkpoints / "step-000004").glob("rank*")}
    assert files == {"rank000", "rank001"}


@pytest.mark.slow
def test_the_mistake_that_stops_a_process_is_raised_here_as_it_was_there(project: Path) -> None:
    path = Layout.corpus / "00000" / "000003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"^data/corpus/00000/000003\.png: changed since it was accepted"):
        run(with_train(num_processes=2))


@pytest.mark.slow
def test_two_processes_resume_from_their_checkpoint(project: Path) -> None:
    with_train(num_processes=2)
    run(load_params())
    expected = load_file(Layout.pixel / "delta.safetensors")
    newest = max(Layout.checkpoints.glob("step-*"))
    (newest / "rank001-000.safetensors").unlink()
    run(load_params())
    found = load_file(Layout.pixel / "delta.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("zero", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_training_goes_on_with_another_number_of_processes(project: Path, zero: int) -> None:
    alone, _ = train_with(1, 1, num_steps=6, checkpoint_every=3, validate_every=6)
    shutil.rmtree(Layout.checkpoints / "step-000006")
    Layout.pixel.rename("first")
    run(with_train(num_processes=2, deepspeed={"zero_optimization": {"stage": zero}}))
    assert_close(load_file(Layout.pixel / "delta.safetensors"), alone)
    (Layout.checkpoints / "step-000006" / "files.json").unlink()
    run(with_train(num_processes=1, deepspeed={"zero_optimization": {"stage": 1}}))
    assert_close(load_file(Layout.pixel / "delta.safetensors"), alone)


def test_a_process_ends_when_the_one_that_started_it_is_killed() -> None:
    child = "from l2p.training.lifeline import die_with_parent; die_with_parent(); import time; time.sleep(60)"
    parent = (
        f"import subprocess, sys, time; child = subprocess.Popen([sys.executable, '-c', {child!r}]); "
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        time.sleep(1)
        process.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
        assert time.monotonic() < deadline, f"process {pid} outlived its parent"
        time.sleep(0.1)
