"""A stage ends with the DVC that runs it; without DVC it is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from l2p.commands.dvc_parent import STAGE_OF_DVC
from tests.conftest import ROOT

# Stands for `l2p train`: says that it runs, and would go on for a minute.
STAGE = """
import pathlib, os, time
from l2p.commands.dvc_parent import die_with_dvc
die_with_dvc()
pathlib.Path('pid.txt').write_text(str(os.getpid()))
time.sleep(60)
"""


def start(folder: Path, *command: str) -> subprocess.Popen[bytes]:
    (folder / "stage.py").write_text(STAGE, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "DVC_NO_ANALYTICS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)


def pid_of_stage(folder: Path) -> int:
    end = time.monotonic() + 60
    while not ((path := folder / "pid.txt").is_file() and path.read_text()):
        assert time.monotonic() < end, "the stage did not start"
        time.sleep(0.05)
    return int((folder / "pid.txt").read_text())


def is_gone(pid: int) -> bool:
    end = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_a_stage_ends_when_its_dvc_is_killed_outright(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "dvc.yaml").write_text(f"stages: {{train: {{cmd: {sys.executable} stage.py}}}}", encoding="utf-8")
    with start(tmp_path, sys.executable, "-m", "dvc", "repro", "--quiet") as dvc:
        pid = pid_of_stage(tmp_path)
        dvc.kill()
    assert is_gone(pid)


def test_a_stage_without_dvc_outlives_the_shell_that_started_it(tmp_path: Path) -> None:
    with start(tmp_path, "sh", "-c", f"{sys.executable} stage.py & wait") as shell:
        pid = pid_of_stage(tmp_path)
        shell.kill()
    try:
        time.sleep(1.5)  # three looks
        assert psutil.Process(pid).is_running()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_stage_whose_dvc_is_gone_does_not_start(tmp_path: Path) -> None:
    """What adopts an orphan is init, or a shell here; neither runs DVC."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    (tmp_path / "stage.py").write_text(STAGE, encoding="utf-8")
    done = subprocess.run(
        ["sh", "-c", f"{STAGE_OF_DVC}=train {sys.executable} stage.py; true"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has ended, so the stage does not start" in done.stderr
    assert not (tmp_path / "pid.txt").exists()
