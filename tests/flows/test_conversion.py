"""Real flows on real little projects, with a real temporary Prefect server."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image
from prefect.testing.utilities import prefect_test_harness

from flows import conversion as module
from flows.artifacts import score_table
from flows.process import StageFailedError
from l2p.errors import ConfigError
from tests.conftest import ROOT
from tests.flows.test_process import SLEEPER, is_alive, wait_for

SUMMARY = {
    "geneval": {
        "source": 0.9,
        "pixel": 0.85,
        "retention": 0.944,
        "interval": [0.91, 0.98],
        "tags": {"counting": {"source": 0.8, "pixel": 0.7}},
    },
    "dpg": {"source": 92.0, "pixel": 91.0, "retention": None, "interval": None, "categories": {}},
    "efficiency": {"device": "cpu", "threads": 2, "rows": []},
    "model": {"name": "shapes-pixel", "version": 3, "aliases": ["candidate"]},
    "verified": True,
}
REPORTING = """
stages:
  draw:
    cmd: echo drawing; mkdir -p reports; cp -r given/* reports/
    deps: [given]
    outs: [reports/geneval, reports/training]
  register:
    cmd: cp given/summary.json reports/summary.json
    deps: [reports/geneval, reports/training]
    outs: [reports/summary.json]
"""
FLAKY = """
stages:
  train:
    cmd: test -f tried || { touch tried; echo first try fails; exit 1; }; echo done > model.txt
    outs: [model.txt]
"""
FAILING = """
stages:
  prompts:
    cmd: echo fine > prompts.txt
    outs: [prompts.txt]
  train:
    cmd: echo the disk is full; exit 2
    deps: [prompts.txt]
    outs: [model.txt]
  report:
    cmd: cat model.txt > report.txt
    deps: [model.txt]
    outs: [report.txt]
"""


def start_flow(*options: str, root: Path, home: Path, flow: str = "conversion") -> subprocess.Popen[str]:
    """`python -m flows.FLOW` as a user starts it, with no server configured."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    environment |= {"PREFECT_HOME": str(home), "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", f"flows.{flow}", "--root", str(root), *options]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=home.parent,
        # tests that a shell runs in its background ignore Ctrl-C, and what they start inherits that
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_the_command_runs_every_stage_and_shows_scores_and_pictures(
    make_project: Callable[[str], Path], tmp_path: Path
) -> None:
    root = make_project(REPORTING)
    for model in ("source", "pixel"):
        folder = root / f"given/geneval/{model}/images/00000/samples"
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(folder / "0000.png")
    (root / "given/training/samples").mkdir(parents=True)
    Image.new("RGB", (128, 64), "blue").save(root / "given/training/samples/step-000200.png")
    (root / "given/summary.json").write_text(json.dumps(SUMMARY))

    with start_flow(root=root, home=tmp_path / "home") as process:
        log, _ = process.communicate(timeout=300)

    assert process.returncode == 0, log
    assert json.loads((root / "reports/summary.json").read_text()) == SUMMARY
    assert "Task run 'draw' - drawing" in log  # streamed to the logger of the task
    assert "Finished in state Completed" in log
    with sqlite3.connect(tmp_path / "home/prefect.db") as database:
        artifacts = dict(database.execute("select key, data from artifact where key is not null"))
        tasks = dict(database.execute("select name, state_name from task_run"))
    assert {name.partition("-")[0]: state for name, state in tasks.items()} == {"draw": "Done", "register": "Done"}
    assert "**GenEval** | 0.900 | 0.850 | 0.944 | 0.910 to 0.980" in artifacts["conversion"]
    assert artifacts["conversion"].count("data:image/webp;base64,") == 2
    assert "Samples at step 200" in artifacts["conversion"]
    assert "data:image/webp;base64," in artifacts["conversion-picture-1"]


def test_the_score_table_says_what_is_missing() -> None:
    table = score_table(SUMMARY | {"model": None})
    assert "| **DPG-Bench** | 92.0 | 91.0 | not defined | none |" in table
    assert "| counting | 0.800 | 0.700 | | |" in table
    assert table.endswith("Not registered.")


def test_a_mistake_is_told_before_a_server_is_started(project: Path, tmp_path: Path) -> None:
    with start_flow("--target", "nope", root=project, home=tmp_path / "home") as process:
        log, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert log.strip().splitlines() == [
        "error: target 'nope': no such stage; dvc.yaml has prompts, geneval@source, geneval@pixel, report."
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    """A temporary Prefect server that the flows of this module share."""
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without waiting."""
    monkeypatch.setattr(module, "reproduce", module.reproduce.with_options(retry_delay_seconds=0))


@pytest.mark.slow
@pytest.mark.usefixtures("server", "at_once")
def test_a_failing_stage_fails_the_flow_with_its_log_and_nothing_after_it_runs(
    make_project: Callable[[str], Path],
) -> None:
    root = make_project(FAILING)
    with pytest.raises(StageFailedError, match=r"stage train failed(.|\n)*the disk is full"):
        module.conversion(root=str(root))
    assert (root / "prompts.txt").is_file()
    assert not (root / "report.txt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("server", "at_once")
def test_a_resumable_stage_gets_another_try(make_project: Callable[[str], Path]) -> None:
    root = make_project(FLAKY)
    module.conversion(root=str(root))
    assert (root / "model.txt").read_text() == "done\n"


@pytest.mark.slow
@pytest.mark.usefixtures("server", "at_once")
def test_a_stage_that_does_not_resume_gets_no_other_try(make_project: Callable[[str], Path]) -> None:
    root = make_project(FLAKY.replace("train:", "convert:"))
    with pytest.raises(StageFailedError, match="first try fails"):
        module.conversion(root=str(root))


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_independent_stages_may_run_at_the_same_time(make_project: Callable[[str], Path]) -> None:
    meeting = "echo here > ${item.me}.txt && until test -f ${item.other}.txt; do sleep 0.1; done"
    root = make_project(
        f"""
stages:
  meet:
    matrix:
      one: [{{me: a, other: b}}, {{me: b, other: a}}]
    cmd: {meeting.replace("item", "item.one")}
"""
    )
    jobs = module.conversion.with_options(task_runner=module._runner(2), timeout_seconds=120)
    jobs(root=str(root))


@pytest.mark.slow
def test_of_two_flows_started_at_once_the_second_waits_for_the_first(
    make_project: Callable[[str], Path], tmp_path: Path
) -> None:
    root = make_project("stages: {train: {cmd: echo run >> runs.txt && sleep 5, outs: [runs.txt: {persist: true}]}}")
    with (
        start_flow(root=root, home=tmp_path / "first") as first,
        start_flow(root=root, home=tmp_path / "second") as second,
    ):
        logs = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), logs
    assert (root / "runs.txt").read_text() == "run\n"  # the second found no work
    assert sum("waiting: this project has a conversion already, flow run" in log for log in logs) <= 1
    assert sum("Finished in state Unchanged" in log for log in logs) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("server", "at_once")
def test_overrides_are_written_before_the_stages_run_and_stay(make_project: Callable[[str], Path]) -> None:
    root = make_project(
        "stages: {train: {cmd: cp params.yaml seen.yaml, params: [train.num_steps], outs: [seen.yaml]}}"
    )
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    module.conversion(root=str(root), overrides=["train.num_steps=77"])
    assert yaml.safe_load((root / "seen.yaml").read_text())["train"]["num_steps"] == 77
    module.conversion(root=str(root))
    assert yaml.safe_load((root / "params.yaml").read_text())["train"]["num_steps"] == 77


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_wrong_override_runs_and_writes_nothing(make_project: Callable[[str], Path]) -> None:
    root = make_project(FLAKY)
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    with pytest.raises(ConfigError, match=r"unknown key `train\.num_stepz`"):
        module.conversion(root=str(root), overrides=["train.num_steps=77", "train.num_stepz=3"])
    assert (root / "params.yaml").read_text() == (ROOT / "params.yaml").read_text()
    assert not (root / "tried").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_flow_leaves_nothing_running(
    make_project: Callable[[str], Path], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    root = make_project(SLEEPER)
    with start_flow(root=root, home=tmp_path / "home") as process:
        pid_file = root / "pid.txt"
        wait_for(lambda: pid_file.is_file() and bool(pid_file.read_text().strip()), seconds=120)
        pid = int(pid_file.read_text())
        process.send_signal(number)
        started = time.monotonic()
        log, _ = process.communicate(timeout=120)
    assert process.returncode == code, log
    assert time.monotonic() - started < 60
    wait_for(lambda: not is_alive(pid))
