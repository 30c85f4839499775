"""Owns running one stage: `dvc repro --single-item STAGE` in a process group of its own, its log as it comes.

Whatever a stage started ends with the task, also when the flow is killed outright: `guard.py` leads the group.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from l2p.errors import L2PError
from l2p.redact import redact

TAIL_LINES = 20
FLOWS_FOLDER = Path(__file__).parent
GUARD = FLOWS_FOLDER / "guard.py"

_GUARD_GRACE_S = 20.0  # it gives its tree ten
_UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping$")
# Advice on git and remotes that DVC ends every stage with.
_ADVICE = re.compile(
    r"^(To track the changes with git|\s*git add |To enable auto staging|\s*dvc config |Use `dvc push`)"
)
_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock|Another DVC process|database is locked")
# l2p exits with 2 when the user made a mistake, which no retry corrects.
_USER_MISTAKE = re.compile(r"failed to run: .*exited with 2$")


class StageFailedError(L2PError):
    """A stage or another command failed; the message ends with the last lines of its log."""

    def __init__(self, name: str, exit_code: int, tail: list[str]) -> None:
        """Judge the failure of `name` ("stage train") by what DVC wrote."""
        log = "\n".join(f"  {line}" for line in tail)
        super().__init__(f"{name} failed (exited with {exit_code}). Its last lines:\n{log}")
        self.stage = name.removeprefix("stage ")
        self.is_busy = any(_BUSY.search(line) for line in tail)
        self.is_user_mistake = any(_USER_MISTAKE.search(line) for line in tail)


class StoppedError(L2PError):
    """The flow is ending, so its stages are stopped; no reason for another try."""


class Processes:
    """The processes that are running, so that they can be stopped from another thread."""

    def __init__(self, lock: int | None = None) -> None:
        """Nothing runs yet; `lock` is a file that every group of processes holds open until its end."""
        self._inherited = () if lock is None else (lock,)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        """Whether `stop_all` was called."""
        return self._stopped

    @contextmanager
    def start(self, command: list[str], *, root: Path) -> Iterator[subprocess.Popen[str]]:
        """Run `command` in a session of its own; whatever of it still runs when the block is left is stopped."""
        with self._lock:
            if self._stopped:
                raise StoppedError("the flow is ending, so no further stage is started.")
            process = subprocess.Popen(
                guarded(command),
                cwd=root,
                env=_environment(),
                pass_fds=self._inherited,
                stdin=subprocess.PIPE,  # its end tells the guard that this process is gone
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            with process:
                try:
                    yield process
                finally:
                    stop(process)
        finally:
            with self._lock:
                self._running.discard(process)

    def stop_all(self) -> None:
        """Stop everything that runs, and let nothing start any more."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            stop(process)


def run_stage(
    stage: str, *, root: Path, force: bool, say: Callable[[str], None], processes: Processes | None = None
) -> bool:
    """Run one stage if DVC finds work for it; returns whether there was work.

    Args:
        stage: as `dvc repro` takes it.
        root: of the project.
        force: run it even if nothing changed.
        say: takes each line of its log, as it comes.
        processes: where it is entered while it runs.

    Raises:
        StageFailedError: it failed.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", *(["--force"] if force else []), stage]
    had_work = True

    def hear(line: str) -> None:
        nonlocal had_work
        had_work = had_work and not _UNCHANGED.match(line)
        if not _ADVICE.match(line):
            say(line)

    run_command(command, name=f"stage {stage}", root=root, say=hear, processes=processes or Processes())
    return had_work


def run_command(command: list[str], *, name: str, root: Path, say: Callable[[str], None], processes: Processes) -> None:
    """Run a command to its end, its lines as they come.

    Args:
        command: program and arguments.
        name: what a message calls it.
        root: its working directory.
        say: takes each line that is not empty.
        processes: where it is entered while it runs.

    Raises:
        StageFailedError: it failed.
        StoppedError: it was stopped because the flow ends.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with processes.start(command, root=root) as process:
        for line in process.stdout or ():
            if text := redact(line.rstrip()):  # it goes to the server's database and to whoever looks at the UI
                tail.append(text)
                say(text)
        exit_code = process.wait()
    if exit_code != 0 and processes.stopped:
        raise StoppedError(f"{name}: stopped, because the flow is ending.")
    if exit_code != 0:
        raise StageFailedError(name, exit_code, [line for line in tail if not _ADVICE.match(line)])


def guarded(command: list[str]) -> list[str]:
    """`command` under the guard; start it in a new session with a pipe as its standard input."""
    return [sys.executable, "-P", str(GUARD), *command]


def stop(process: subprocess.Popen[str]) -> None:
    """End a guarded process and all that it started: asked first, killed after ten seconds."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            process.terminate()  # the guard ends its tree
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GUARD_GRACE_S)
    with suppress(ProcessLookupError):  # if the guard itself was killed
        os.killpg(process.pid, signal.SIGKILL)


def _environment() -> dict[str, str]:
    """This environment, with the programs of this interpreter first and Python's output unbuffered."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
