"""Several training processes: the same model as one process trains, one error in one line, and nobody left behind."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from l2p.config import Layout, load_params
from l2p.errors import DataError
from l2p.files import read_json
from l2p.training.launch import launch
from tests.conftest import ROOT
from tests.training.conftest import with_train

STEPS = {"num_steps": 4, "checkpoint_every": 4, "sample_every": 4, "ema_decay": 0.5}


@pytest.fixture(autouse=True)
def workers_find_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run uninstalled; two processes share the cores."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train_with(stage: int, processes: int) -> dict[str, torch.Tensor]:
    """Train the project's model from its start and return the stored tensors."""
    launch(with_train(**STEPS, num_processes=processes, deepspeed={"zero_optimization": {"stage": stage}}))
    assert read_json(Layout.training / "result.json", written_by="the test")["num_processes"] == processes
    return load_file(Layout.pixel / "delta.safetensors")


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal up to the rounding of sums in another order."""
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("stage", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_processes_train_what_one_trains(project: Path, stage: int, capfd: pytest.CaptureFixture[str]) -> None:
    alone = train_with(stage, 1)
    start = load_file(Layout.init / "delta.safetensors")
    assert any((alone[name] - start[name]).abs().max() > 1e-3 for name in start)
    assert_close(train_with(stage, 2), alone)
    assert "step 4/4" in capfd.readouterr().out  # their output is ours
    files = {path.name for path in (Layout.checkpoints / "step-000004").glob("zero_pp_rank_*")}
    assert len(files) == 2


@pytest.mark.slow
def test_the_mistake_that_stops_a_process_is_raised_here_as_it_was_there(project: Path) -> None:
    path = Layout.corpus / "00000" / "000003.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"^data/corpus/00000/000003\.png: damaged image"):
        launch(with_train(num_processes=2))


@pytest.mark.slow
def test_two_processes_resume_from_their_checkpoint(project: Path) -> None:
    with_train(num_processes=2)
    launch(load_params())
    expected = load_file(Layout.pixel / "delta.safetensors")
    newest = max(Layout.checkpoints.glob("step-*"))
    (newest / "ema.safetensors").unlink()
    launch(load_params())
    found = load_file(Layout.pixel / "delta.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


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
