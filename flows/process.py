"""Owns running one stage: `dvc repro --single-item STAGE` in a process group of its own, its log as it comes."""

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

TAIL_LINES = 20

_TERM_GRACE_S = 10.0
_UNCHANGED = re.compile(r"^Stage '.*' didn't change, skipping$")
# Advice on git and remotes that DVC ends every stage with.
_ADVICE = re.compile(
    r"^(To track the changes with git|\s*git add |To enable auto staging|\s*dvc config |Use `dvc push`)"
)
_BUSY = re.compile(r"is busy, it is being blocked by|Unable to acquire lock|Another DVC process|database is locked")
# l2p exits with 2 when the user made a mistake, which no retry corrects.
_USER_MISTAKE = re.compile(r"failed to run: .*exited with 2$")


class StageFailedError(L2PError):
    """A stage failed; the message ends with the last lines of its log."""

    def __init__(self, stage: str, exit_code: int, tail: list[str]) -> None:
        """Judge the failure by what DVC wrote."""
        log = "\n".join(f"  {line}" for line in tail)
        super().__init__(f"stage {stage} failed (dvc exited with {exit_code}). Its last lines:\n{log}")
        self.stage = stage
        self.is_busy = any(_BUSY.search(line) for line in tail)
        self.is_user_mistake = any(_USER_MISTAKE.search(line) for line in tail)


class Processes:
    """The processes that are running, so that they can be stopped from another thread."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    @contextmanager
    def start(self, command: list[str], *, root: Path) -> Iterator[subprocess.Popen[str]]:
        """Run `command` in a session of its own; whatever of it still runs when the block is left is stopped."""
        with self._lock:
            if self._stopped:
                raise L2PError("the flow is ending, so no further stage is started.")
            process = subprocess.Popen(
                command,
                cwd=root,
                env=_environment(),
                stdin=subprocess.DEVNULL,
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
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    had_work = True
    with (processes or Processes()).start(command, root=root) as process:
        for line in process.stdout or ():
            text = line.rstrip()
            had_work = had_work and not _UNCHANGED.match(text)
            if text and not _ADVICE.match(text):
                tail.append(text)
                say(text)
        exit_code = process.wait()
    if exit_code != 0:
        raise StageFailedError(stage, exit_code, list(tail))
    return had_work


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and all that it started: asked first, killed after ten seconds."""
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TERM_GRACE_S)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _environment() -> dict[str, str]:
    """This environment, with the programs of this interpreter first and Python's output unbuffered."""
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1"}
