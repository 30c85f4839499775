"""The servers behind the UI, for real: scheduled runs, killed runs, cancelled runs, and nothing left at the end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterDeploymentId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.states import Cancelling

from tests.flows.servers import Servers, add_flows, environment, free_port, running_ui, wait
from tests.flows.test_process import is_alive

# A training that keeps what it did, so that a later run goes on where it was.
PIPELINE = """
stages:
  prompts:
    cmd: echo hello > prompts.txt
    outs: [prompts.txt]
  train:
    cmd: >-
      echo $$ > pid.txt; touch steps.txt; echo going on after $(wc -l < steps.txt) steps;
      until test -f enough; do echo step >> steps.txt; sleep 0.2; done
    deps: [prompts.txt]
    outs: [steps.txt: {persist: true}]
"""


@pytest.fixture
def root(make_project: Callable[[str], Path]) -> Path:
    return add_flows(make_project(PIPELINE))


def steps(root: Path) -> int:
    path = root / "steps.txt"
    return len(path.read_text().splitlines()) if path.is_file() else 0


def trained_pid(root: Path) -> int:
    """Process of the stage `train`, once it has trained a while."""
    wait(lambda: steps(root) > 3, 120)
    return int((root / "pid.txt").read_text())


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_taken_port_is_one_clear_line(root: Path, option: str) -> None:
    ports = {"--prefect-port": free_port(), "--mlflow-port": free_port()}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports[option] = taken.getsockname()[1]
        command = [sys.executable, "-m", "flows.ui", *(str(item) for pair in ports.items() for item in pair)]
        done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: 127.0.0.1:{ports[option]}: cannot listen there (Address already in use). Stop what uses the port, or "
        f"choose another with {option}.\n"
    )
    assert not (root / ".prefect").exists()


@pytest.mark.slow
def test_a_scheduled_run_is_killed_resumed_by_a_later_one_and_nothing_is_left(root: Path) -> None:
    with running_ui(root) as servers:
        everything = servers.processes()
        scheduled = schedule_soon(servers)
        servers.wait_for_state(scheduled, "Running", seconds=180)
        pid, before = trained_pid(root), steps(root)

        kill_flow_process(servers)  # kill -9 of the flow, mid-stage
        wait(lambda: not is_alive(pid), 60)
        assert servers.wait_for_state(scheduled, "Crashed", seconds=150) == "Crashed"

        (root / "enough").touch()
        later = servers.run_of("conversion")
        servers.wait_for_state(later, "Completed", seconds=180)
        assert steps(root) >= before > 0
        assert f"going on after {steps(root)} steps" in servers.worker_log()

        with urllib.request.urlopen(f"http://127.0.0.1:{servers.mlflow_port}/health", timeout=30) as answer:
            assert answer.read() == b"OK"
        everything += servers.processes()
        assert servers.stop(signal.SIGINT).endswith("stopped\n")
        assert [process for process in everything if process.is_running()] == []


@pytest.mark.slow
def test_a_cancelled_run_ends_its_training_and_a_later_one_goes_on(root: Path) -> None:
    with running_ui(root) as servers:
        first = servers.run_of("conversion")
        pid, before = trained_pid(root), steps(root)
        servers.client.set_flow_run_state(first.id, Cancelling())
        servers.wait_for_state(first, "Cancelled", seconds=120)
        assert not is_alive(pid)

        (root / "enough").touch()
        later = servers.run_of("conversion")
        servers.wait_for_state(later, "Completed", seconds=180)
        assert steps(root) >= before
        servers.stop(signal.SIGTERM)


@pytest.mark.slow
def test_after_the_servers_were_killed_outright_everything_ends_and_a_restart_goes_on(root: Path) -> None:
    with running_ui(root) as servers:
        first = servers.run_of("conversion")
        pid, everything = trained_pid(root), servers.processes()
        servers.process.kill()
        servers.process.wait()
        wait(lambda: not any(is_alive(each) for each in (pid, *(process.pid for process in everything))), 90)
    before = steps(root)
    (root / "enough").touch()
    with running_ui(root) as servers:
        assert servers.state(first) == "Crashed"
        later = servers.run_of("conversion")
        servers.wait_for_state(later, "Completed", seconds=300)
        assert steps(root) >= before > 0


@pytest.mark.slow
def test_a_switched_schedule_stays_switched_and_an_added_one_stays(root: Path) -> None:
    with running_ui(root) as servers:
        deployment = servers.client.read_deployment_by_name("conversion/conversion")
        (nightly,) = servers.client.read_deployment_schedules(deployment.id)
        assert not nightly.active
        servers.client.update_deployment_schedule(deployment.id, nightly.id, active=True)
        added = IntervalSchedule(interval=timedelta(days=9))
        servers.client.create_deployment_schedules(deployment.id, [(added, False)])
        servers.stop(signal.SIGTERM)
    with running_ui(root) as servers:
        found = servers.client.read_deployment_schedules(deployment.id)
        assert {(schedule.slug, schedule.active) for schedule in found} == {("nightly", True), (None, False)}
        assert len(servers.client.read_automations_by_name("A flow run without a heartbeat has crashed")) == 1


def schedule_soon(servers: Servers) -> FlowRun:
    """Give the conversion an hourly schedule that is due in seconds; returns the run that the scheduler makes of it."""
    deployment = servers.client.read_deployment_by_name("conversion/conversion")
    hourly = IntervalSchedule(interval=timedelta(hours=1), anchor_date=datetime.now(UTC) + timedelta(seconds=8))
    servers.client.create_deployment_schedules(deployment.id, [(hourly, True)])
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment.id]))
    wait(lambda: bool(servers.client.read_flow_runs(flow_run_filter=wanted)), 90)
    first = min(servers.client.read_flow_runs(flow_run_filter=wanted), key=lambda run: run.expected_start_time)
    assert first.auto_scheduled
    return first


def kill_flow_process(servers: Servers) -> None:
    engines = [
        process
        for process in psutil.Process(servers.process.pid).children(recursive=True)
        if "prefect.engine" in process.cmdline()
    ]
    assert engines
    for engine in engines:
        engine.kill()
