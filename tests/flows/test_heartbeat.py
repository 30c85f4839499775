"""Flows outside of a worker, which nobody watches: only their heartbeat tells that they live."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.client.schemas.objects import FlowRun

from flows import HEARTBEAT_S, HEARTBEATS_MISSED
from tests.flows.servers import Servers, add_flows, environment, running_ui, wait
from tests.flows.test_process import SLEEPER, is_alive

WINDOW_S = HEARTBEAT_S * HEARTBEATS_MISSED
PROMISED_S = 120


@contextmanager
def flow_without_worker(root: Path, servers: Servers) -> Iterator[subprocess.Popen[bytes]]:
    settings = environment() | {
        "PREFECT_API_URL": f"http://127.0.0.1:{servers.prefect_port}/api",
        "PREFECT_HOME": str(root / ".prefect"),
    }
    with (root / "flow.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.conversion"], cwd=root, env=settings, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(90)


def running_stage(root: Path) -> int:
    """Process of the stage that sleeps."""
    pid_file = root / "pid.txt"
    wait(lambda: pid_file.is_file() and bool(pid_file.read_text().strip()), 120)
    return int(pid_file.read_text())


def only_run(servers: Servers, known: set[str]) -> FlowRun:
    (found,) = [run for run in servers.client.read_flow_runs() if run.name not in known and not run.auto_scheduled]
    return found


@pytest.mark.slow
def test_a_killed_run_shows_as_crashed_within_two_minutes_and_a_live_long_one_never_does(
    make_project: Callable[[str], Path], tmp_path: Path
) -> None:
    first = add_flows(make_project(SLEEPER))
    shutil.copytree(first, tmp_path / "second")
    second = tmp_path / "second"
    with running_ui(first) as servers, flow_without_worker(second, servers):
        living = only_run_when_there(servers, set())
        running_stage(second)
        with flow_without_worker(first, servers) as doomed:
            pid = running_stage(first)
            killed = only_run(servers, {living.name})
            assert servers.state(killed) == "Running"
            doomed.send_signal(signal.SIGKILL)
            died_at = time.monotonic()
            servers.wait_for_state(killed, "Crashed", seconds=PROMISED_S)
            print(f"shown as crashed {time.monotonic() - died_at:.0f} s after it was killed")
            assert not is_alive(pid)
        for _ in range(2 * HEARTBEATS_MISSED):  # twice the window more, a look at each beat
            time.sleep(HEARTBEAT_S)
            assert servers.state(living) == "Running"


def only_run_when_there(servers: Servers, known: set[str]) -> FlowRun:
    wait(lambda: any(not run.auto_scheduled for run in servers.client.read_flow_runs()), 120)
    return only_run(servers, known)
