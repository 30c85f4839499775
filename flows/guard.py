"""Owns that a tree of processes does not outlive the process that wanted it: `python -P guard.py COMMAND...`.

Its standard input is a pipe that the owner holds open. When the owner ends, however it ends, the pipe ends too: the
whole tree is asked to stop, and what still runs after ten seconds is killed. SIGTERM does the same. On Linux orphans of
the tree become children of the guard, so that those which left its session are found too. It is run as a script from
any folder, so it imports nothing of this project.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil

GRACE_S = 10.0

_LEFTOVER_GRACE_S = 1.0  # what still runs when the command has ended
_KILL_FOR_S = 5.0
_LOOK_EVERY_S = 0.05
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(command: list[str]) -> int:
    """Run `command` to its end, and end what it leaves; its exit status, 128 + number for a signal."""
    stopping = threading.Event()

    def stop(*_: object) -> None:
        if not stopping.is_set():
            stopping.set()
            threading.Thread(target=end_everybody, args=(GRACE_S,), daemon=True).start()

    def watch_owner() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        stop()

    _adopt_orphans()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # a handler is not inherited, an ignored signal is
        signal.signal(number, stop)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=watch_owner, daemon=True).start()
    status = _wait_and_reap(child.pid)
    end_everybody(_LEFTOVER_GRACE_S)
    return status if status >= 0 else 128 - status


def end_everybody(grace_s: float) -> None:
    """Ask all descendants to end, and kill those that still run after `grace_s`."""
    for process in _descendants():
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    end = time.monotonic() + grace_s
    while _descendants() and time.monotonic() < end:
        time.sleep(_LOOK_EVERY_S)
    end = time.monotonic() + _KILL_FOR_S
    while (running := _descendants()) and time.monotonic() < end:
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_LOOK_EVERY_S)


def _descendants() -> list[psutil.Process]:
    """Those that run; a zombie does not."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _wait_and_reap(child: int) -> int:
    """Wait for one child, and meanwhile for the orphans that were adopted; its exit status, minus the signal."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _adopt_orphans() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
