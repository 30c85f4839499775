"""Owns that one flow at a time works in a project: a lock of the operating system on a file in `.dvc/tmp`.

The lock belongs to whoever holds the open file, so it cannot outlive a process that is killed. The processes of a stage
are handed the file as well: a next flow starts when the last of them is gone.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

TEMPORARY = Path(".dvc/tmp")  # DVC's own, ignored by git

_LOOK_EVERY_S = 1.0
_TELL_EVERY_S = 60.0


@contextmanager
def project_lock(root: Path, name: str, *, holder: str, say: Callable[[str], None]) -> Iterator[int]:
    """Hold the lock `name` of the project for the block, waiting for it first; yields its file descriptor.

    Args:
        root: of the project.
        name: what is locked, "conversion".
        holder: whom a waiting flow names, besides process and machine.
        say: is told whom this flow waits for, once a minute.
    """
    path = root / TEMPORARY / f"l2p-{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _wait(descriptor, name, say)
        _sign(descriptor, holder)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptor: int, name: str, say: Callable[[str], None]) -> None:
    told_at = -_TELL_EVERY_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() - told_at >= _TELL_EVERY_S:
                told_at = time.monotonic()
                say(f"waiting: this project has a {name} already, {_read(descriptor)}")
            time.sleep(_LOOK_EVERY_S)


def _sign(descriptor: int, holder: str) -> None:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    record = {"holder": holder, "process": os.getpid(), "machine": socket.gethostname(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _read(descriptor: int) -> str:
    """Who holds the lock; what cannot be read was not written yet."""
    try:
        record: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        return "{holder} (process {process} on {machine}, since {since})".format(**record)
    except (ValueError, KeyError):
        return "another flow"
