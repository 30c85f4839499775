"""`python -m flows.ui` on free ports in a small project, as a user starts it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from prefect.client.orchestration import SyncPrefectClient

from tests.conftest import ROOT

START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """Without Prefect settings of a user; the scheduler looks often, so that a test need not wait a minute for it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return own | {"PYTHONPATH": str(ROOT / "src"), "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}


def add_flows(root: Path) -> Path:
    """What a clone has beside its dvc.yaml: flows, deployments and parameters."""
    shutil.copytree(ROOT / "flows", root / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    return root


@dataclass
class Servers:
    """The servers of a project, and a client of its Prefect."""

    process: subprocess.Popen[str]
    log: Path
    client: SyncPrefectClient
    prefect_port: int
    mlflow_port: int

    def run_of(self, deployment: str, **parameters: Any) -> Any:
        """Start a run by hand."""
        found = self.client.read_deployment_by_name(f"{deployment}/{deployment}")
        return self.client.create_flow_run_from_deployment(found.id, parameters=parameters)

    def state(self, run: Any) -> str:
        """State of a run, as the UI shows it."""
        found = self.client.read_flow_run(run.id).state
        return "" if found is None else found.name

    def wait_for_state(self, run: Any, *states: str, seconds: float) -> str:
        """Wait until a run is in one of these states."""
        end = time.monotonic() + seconds
        while (state := self.state(run)) not in states:
            assert time.monotonic() < end, f"{run.name} is {state}, not {states}; {self.worker_log()}"
            time.sleep(0.5)
        return state

    def worker_log(self) -> str:
        """What the worker and its flow runs wrote."""
        return (self.log.parent / ".prefect/logs/prefect-worker.log").read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """Everything that runs for it."""
        return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]

    def stop(self, number: signal.Signals) -> str:
        """Stop it by a signal; returns what it wrote."""
        self.process.send_signal(number)
        self.process.wait(STOP_TIMEOUT_S)
        return self.log.read_text()


@contextmanager
def running_ui(root: Path) -> Iterator[Servers]:
    """The servers of the project at `root`."""
    prefect_port, mlflow_port = free_port(), free_port()
    log = root / "ui.log"
    command = [sys.executable, "-m", "flows.ui", "--prefect-port", str(prefect_port), "--mlflow-port", str(mlflow_port)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=root, env=environment(), stdout=stream, stderr=subprocess.STDOUT, text=True
        )
    try:
        wait(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), START_TIMEOUT_S)
        assert process.poll() is None, log.read_text()
        with SyncPrefectClient(f"http://127.0.0.1:{prefect_port}/api") as client:
            yield Servers(process, log, client, prefect_port, mlflow_port)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def wait(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
