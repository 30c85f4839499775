"""Owns the processes of the failure drill: started in sessions of their own, found again wherever they hide, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK = "L2P_FAULT_DRILL"  # a variable that every process of a drill inherits, whatever session it moves to
ROOT = Path(__file__).parents[1]

_LOOK_EVERY_S = 0.05
_COLLECTED_S = 30.0  # in which init collects what was killed


def environment(mark: str, **more: str) -> dict[str, str]:
    """This environment for commands of the drill: the programs of this interpreter and the code of this repository."""
    programs = str(Path(sys.executable).parent)
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return quiet | {
        "PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",  # the bytes that are promised are those of the same number of threads
        "DVC_NO_ANALYTICS": "1",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        MARK: mark,
        **more,
    }


@dataclass
class Command:
    """A command that runs in a session of its own and writes to a log."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, command: list[str], *, folder: Path, environment: Mapping[str, str], log: Path) -> Command:
        """Start it; its output is added to `log`."""
        with log.open("ab") as stream:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code; None when it takes longer, and is killed."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_group()
            return None

    def kill_group(self) -> None:
        """SIGKILL to all processes of its session at once.

        Returns when none of them is in the table of processes: DVC takes a lock for held until init has collected its
        process, and there are containers where that takes seconds.
        """
        below = self._below()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs(below, timeout=_COLLECTED_S)

    def kill_outermost(self) -> None:
        """SIGKILL to the process that was started, and to none that it started."""
        self.process.kill()
        self.process.wait()

    def kill_innermost(self) -> bool:
        """SIGKILL to the process at the end of the longest line of children; whether there was one."""
        pid = self.process.pid
        with suppress(psutil.NoSuchProcess):
            while children := psutil.Process(pid).children():
                pid = max(children, key=lambda child: len(child.children(recursive=True))).pid
        if pid == self.process.pid:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def _below(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def tail(self, lines: int = 8) -> str:
        """The last lines that it wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])


def running(mark: str, folder: Path) -> list[psutil.Process]:
    """Processes that carry the drill's mark, or work in `folder`, or name it; zombies have ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and _is_of(process, mark, folder)
            ):
                found.append(process)
    return found


def _is_of(process: psutil.Process, mark: str, folder: Path) -> bool:
    with suppress(psutil.AccessDenied):
        if process.environ().get(MARK) == mark:
            return True
        if Path(process.cwd()).is_relative_to(folder):
            return True
    return any(str(folder) in argument for argument in process.cmdline())


def command_line(process: psutil.Process) -> str:
    """Its command, or nothing when it has just ended."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """Whether `condition` came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True
