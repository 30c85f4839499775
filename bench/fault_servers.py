"""Owns the servers that the drill takes away in the middle of a run: MLflow's and Prefect's own, on loopback."""

from __future__ import annotations

import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bench.fault_processes import Command, wait_until
from l2p.errors import L2PError

HOST = "127.0.0.1"

_READY_WITHIN_S = 300.0


class Server:
    """A server that can be killed and started again on the same port with the same data."""

    def __init__(self, command: list[str], *, port: int, health: str, folder: Path, environment: Mapping[str, str]):
        """Nothing is started yet.

        Args:
            command: that runs it in the foreground.
            port: that it listens on.
            health: path that answers when it is ready.
            folder: its working directory and the place of its log.
            environment: of its processes.
        """
        self.address = f"http://{HOST}:{port}"
        self._arguments, self._health, self._folder, self._environment = command, health, folder, environment
        self._command: Command | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "server.log"
        self._command = Command.start(self._arguments, folder=self._folder, environment=self._environment, log=log)
        if not wait_until(self.answers, seconds=_READY_WITHIN_S):
            self.kill()
            raise L2PError(f"{self.address}: the server did not start within {_READY_WITHIN_S:.0f} s; see {log}.")

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with urllib.request.urlopen(self.address + self._health, timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def pids(self) -> set[int]:
        """Its processes."""
        if self._command is None:
            return set()
        with suppress(psutil.NoSuchProcess):
            server = psutil.Process(self._command.process.pid)
            return {server.pid, *(child.pid for child in server.children(recursive=True))}
        return set()

    def kill(self) -> None:
        """SIGKILL to all its processes, also to those that left its session."""
        pids = self.pids()
        if self._command is not None:
            self._command.kill_group()
            self._command = None
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def mlflow_server(folder: Path, environment: Mapping[str, str]) -> Server:
    """A tracking server with its database and its artifacts in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder / 'served.db'}", "--artifacts-destination", f"{folder}/files"]
    return Server([*command, *stores], port=port, health="/health", folder=folder, environment=environment)


def prefect_server(folder: Path, environment: Mapping[str, str]) -> Server:
    """A Prefect server with its database in `folder`."""
    port = free_port()
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port), "--no-ui"]
    home = {"PREFECT_HOME": str(folder)}
    return Server(command, port=port, health="/api/health", folder=folder, environment={**environment, **home})


def free_port() -> int:
    """A port on which nobody listens at this moment."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port
