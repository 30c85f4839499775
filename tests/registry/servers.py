"""Real MLflow servers on loopback, and that nothing of them stays behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil

START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(command: list[str], *, url: str, log: Path, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server of several processes while the block runs; all of them are gone afterwards."""
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd, env=environment, start_new_session=True
        )
    try:
        _wait(process, url, log)
        yield process
    finally:
        members = [process.pid, *(child.pid for child in _children(process.pid))]
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal(process.pid, members, number)
            _, alive = psutil.wait_procs(_existing(members), timeout=STOP_TIMEOUT_S)
            if not alive:
                break
        process.wait()
        assert _existing(members) == []


@contextmanager
def tracking_server(folder: Path) -> Iterator[str]:
    """An MLflow server with SQLite and an artifact folder of its own; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    command += ["--artifacts-destination", f"{folder}/artifacts"]
    url = f"http://127.0.0.1:{port}"
    with running(command, url=f"{url}/health", log=folder / "server.log", cwd=folder):
        yield url


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(errors="replace")
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not up: {log.read_text(errors='replace')}")


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _existing(pids: list[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _signal(group: int, members: list[int], number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
    for process in _existing(members):
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
