import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.process import Processes, StageFailedError, StoppedError, run_stage
from l2p.errors import L2PError

SLEEPER = """
stages:
  sleeper:
    cmd: echo asleep && sleep 300 & echo $! > pid.txt; wait
    outs: [never.txt]
"""
FAILING = """
stages:
  broken:
    cmd: echo about to fail && exit 3
  mistaken:
    cmd: echo "error - no such file" && exit 2
"""


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that waits for its parent to notice its end does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_stage_runs_and_its_lines_come_as_they_are_written(project: Path) -> None:
    lines: list[str] = []
    assert run_stage("prompts", root=project, force=False, say=lines.append)
    assert (project / "prompts.txt").read_text() == "hello\n"
    assert "making prompts" in lines
    assert not any("git add" in line for line in lines)


def test_a_stage_without_work_is_told_apart_and_force_runs_it(project: Path) -> None:
    run_stage("prompts", root=project, force=False, say=lambda line: None)
    assert not run_stage("prompts", root=project, force=False, say=lambda line: None)
    lines: list[str] = []
    assert run_stage("prompts", root=project, force=True, say=lines.append)
    assert "making prompts" in lines


def test_only_the_stage_itself_runs(project: Path) -> None:
    (project / "prompts.txt").write_text("by hand\n")
    run_stage("geneval@pixel", root=project, force=False, say=lambda line: None)
    assert (project / "pixel.txt").read_text() == "by hand\n"


def test_a_failure_carries_the_end_of_its_log(make_project: Callable[[str], Path]) -> None:
    root = make_project(FAILING)
    with pytest.raises(StageFailedError, match="about to fail") as caught:
        run_stage("broken", root=root, force=False, say=lambda line: None)
    assert not caught.value.is_user_mistake
    with pytest.raises(StageFailedError, match="no such file") as caught:
        run_stage("mistaken", root=root, force=False, say=lambda line: None)
    assert caught.value.is_user_mistake
    assert not caught.value.is_busy


def test_the_programs_of_this_interpreter_are_found(
    make_project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_project("stages: {which: {cmd: command -v dvc}}")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    lines: list[str] = []
    run_stage("which", root=root, force=False, say=lines.append)
    assert any(line.endswith("/dvc") for line in lines)


def test_a_running_stage_is_busy_for_others_and_dies_with_its_group(make_project: Callable[[str], Path]) -> None:
    root = make_project(SLEEPER)
    processes, failures = Processes(), []

    def run() -> None:
        try:
            run_stage("sleeper", root=root, force=False, say=lambda line: None, processes=processes)
        except StoppedError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    pid_file = root / "pid.txt"
    wait_for(lambda: pid_file.is_file() and bool(pid_file.read_text().strip()))
    pid = int(pid_file.read_text())
    with pytest.raises(StageFailedError) as caught:
        run_stage("sleeper", root=root, force=False, say=lambda line: None)
    assert caught.value.is_busy
    assert is_alive(pid)
    processes.stop_all()
    thread.join(30)
    assert len(failures) == 1
    wait_for(lambda: not is_alive(pid))
    with pytest.raises(L2PError, match="no further stage is started"):
        run_stage("sleeper", root=root, force=False, say=lambda line: None, processes=processes)
