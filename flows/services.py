"""Owns the servers behind the UI: their commands, their folders and ports, and waiting until they answer.

All of Prefect's state lies in the project's `.prefect`, so that a user's own Prefect is neither used nor changed. Every
server runs under the guard, in a group of its own, and ends with the process that started it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows import ENVIRONMENT
from flows.artifacts import MLFLOW_UI_VARIABLE
from flows.process import guarded, stop
from l2p.config import RegisterParams
from l2p.errors import L2PError

HOME = Path(".prefect")
LOGS = HOME / "logs"
POOL = "l2p"

_LOOK_EVERY_S = 0.5
_ANSWER_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 180.0
_TAIL_LINES = 15
_LOCAL_SCHEME = "sqlite:///"


class ServiceError(L2PError):
    """A server did not start, or ended; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Address of its pages."""
        return f"http://{self.host}:{self.port}"

    def require_free(self, option: str) -> None:
        """Refuse a port that another process listens on.

        Raises:
            ServiceError: it is taken.
        """
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise ServiceError(
                    f"{self.host}:{self.port}: cannot listen there ({error.strerror}). Stop what uses the port, or "
                    f"choose another with {option}."
                ) from error


def prefect_environment(root: Path, prefect: Address, mlflow_url: str | None) -> dict[str, str]:
    """Environment of everything that talks to this project's Prefect; the user's profile is not read."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    programs = os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", os.defpath)])
    return {
        **own,
        **{name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()},
        # Settings that a user gave by name; the address and the folder are this project's.
        **{name: value for name, value in os.environ.items() if name.startswith("PREFECT_SERVER_")},
        "PATH": programs,
        "PWD": str(root),
        "PREFECT_HOME": str(root / HOME),
        "PREFECT_API_URL": f"{prefect.url}/api",
        "PREFECT_SERVER_API_HOST": prefect.host,
        "PREFECT_SERVER_API_PORT": str(prefect.port),
        "PREFECT_SERVER_UI_API_URL": f"{prefect.url}/api",  # or the pages would ask port 4200
        "PREFECT_UI_URL": prefect.url,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for features of language models
        "PYTHONUNBUFFERED": "1",
        **({MLFLOW_UI_VARIABLE: mlflow_url} if mlflow_url else {}),
    }


def mlflow_command(settings: RegisterParams, address: Address, root: Path) -> list[str]:
    """The MLflow server of the project's store, artifacts by reference to the folders where they lie."""
    path = settings.tracking_uri.removeprefix(_LOCAL_SCHEME)
    store = f"{_LOCAL_SCHEME}{(root / path).resolve()}"
    return [
        *[sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store],
        *["--default-artifact-root", str((root / "mlruns").resolve()), "--no-serve-artifacts"],
        *["--host", address.host, "--port", str(address.port), "--workers", "1"],
    ]


def is_local_store(settings: RegisterParams) -> bool:
    """Whether the registry is a file of the project; any other has a server already."""
    return settings.tracking_uri.startswith(_LOCAL_SCHEME)


@dataclass
class Service:
    """A server that runs, and the log that it writes."""

    name: str
    process: subprocess.Popen[str]
    log: Path

    @classmethod
    def start(cls, name: str, command: list[str], *, root: Path, environment: Mapping[str, str]) -> Service:
        """Start it, its output in `.prefect/logs`."""
        log = root / LOGS / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as stream:
            process = subprocess.Popen(
                guarded(command),
                cwd=root,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return cls(name, process, log)

    def wait_until_it_answers(self, url: str) -> None:
        """Wait until `url` answers.

        Raises:
            ServiceError: the server ended, or did not answer in three minutes.
        """
        end = time.monotonic() + _START_TIMEOUT_S
        while not _answers(url):
            self.require_alive()
            if time.monotonic() > end:
                raise ServiceError(f"{self.name}: no answer from {url} in {_START_TIMEOUT_S:.0f} s.{self._tail()}")
            time.sleep(_LOOK_EVERY_S)

    def require_alive(self) -> None:
        """Notice its end.

        Raises:
            ServiceError: it ended by itself.
        """
        if self.process.poll() is not None:
            raise ServiceError(f"{self.name}: ended with {self.process.returncode}.{self._tail()}")

    def stop(self) -> None:
        """End it and all that it started."""
        stop(self.process)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()

    def _tail(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        return "".join([f" Its log, {self.log}, ends with:", *(f"\n  {line}" for line in lines)])


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy knows nothing of loopback
    try:
        with opener.open(url, timeout=_ANSWER_TIMEOUT_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
