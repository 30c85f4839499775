"""The guard ends whole trees of real processes, however their owner ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.process import GUARD, guarded
from tests.flows.test_process import is_alive, wait_for

# Starts a guarded shell whose grandchildren write their numbers, and waits to be killed.
OWNER = """
import subprocess, sys, time
command = [sys.executable, "-P", sys.argv[1], "sh", "-c", sys.argv[2]]
subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(300)
"""
TREE = {
    "plain": "sleep 300 & echo $! > pid.txt; wait",
    "in a session of its own": "setsid sh -c 'echo $$ > pid.txt; exec sleep 300' & wait",
    "deaf to SIGTERM": "trap '' TERM; sh -c 'echo $$ > pid.txt; exec sleep 300' & wait",
    "an orphan": "sh -c 'sleep 300 & echo $! > pid.txt'; sleep 300",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    pid_file = tmp_path / "pid.txt"
    if pid_file.is_file() and is_alive(int(pid_file.read_text())):
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def read_pid(folder: Path) -> int:
    pid_file = folder / "pid.txt"
    wait_for(lambda: pid_file.is_file() and bool(pid_file.read_text().strip()))
    return int(pid_file.read_text())


@pytest.mark.parametrize("tree", TREE.values(), ids=TREE)
def test_when_the_owner_is_killed_outright_the_whole_tree_ends(folder: Path, tree: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", textwrap.dedent(OWNER), str(GUARD), tree])
    pid = read_pid(folder)
    assert is_alive(pid)
    owner.kill()
    owner.wait()
    wait_for(lambda: not is_alive(pid))


@pytest.mark.parametrize("tree", [TREE["plain"], TREE["in a session of its own"]])
def test_the_guard_hands_sigterm_to_the_whole_tree(folder: Path, tree: str) -> None:
    guard = subprocess.Popen(guarded(["sh", "-c", tree]), stdin=subprocess.PIPE, start_new_session=True)
    pid = read_pid(folder)
    guard.terminate()
    assert guard.wait(30) == 128 + signal.SIGTERM
    assert not is_alive(pid)


def test_what_a_command_leaves_running_ends_with_it(folder: Path) -> None:
    command = "setsid sh -c 'echo $$ > pid.txt; exec sleep 300' & until test -s pid.txt; do sleep 0.1; done"
    guard = subprocess.Popen(guarded(["sh", "-c", command]), stdin=subprocess.PIPE, start_new_session=True)
    assert guard.wait(30) == 0
    assert not is_alive(read_pid(folder))


@pytest.mark.parametrize(("command", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137)])
def test_the_exit_status_is_the_commands(folder: Path, command: str, status: int) -> None:
    guard = subprocess.Popen(guarded(["sh", "-c", command]), stdin=subprocess.PIPE, start_new_session=True)
    assert guard.wait(30) == status
