"""Owns the progress bars of the two long stages in the Prefect UI, read from the files that they write as they go on.

A bar starts when the stage first writes its file, so that what an earlier run left does not count.
"""

from __future__ import annotations

import contextvars
import csv
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException

from l2p.config import PARAMS_FILE, Layout, Params, load_params
from l2p.data.journal import read_journal
from l2p.errors import L2PError

LOOK_EVERY_S = 5.0

_MAX_SHARE = 0.05  # of the time that may be spent on looking
_ROW_TAIL_BYTES = 4096
_CURVES = Layout.training / "curves.csv"


@dataclass(frozen=True)
class Measure:
    """How far a stage is: `done(project)` units of `total(params)`, while it writes files that match `pattern`."""

    pattern: str
    what: str
    total: Callable[[Params], int]
    done: Callable[[Path], int]


def drawn_images(root: Path) -> int:
    """Images of the corpus that are drawn; one that was redrawn counts once."""
    return len({name for name, _attempt in read_journal(root / Layout.corpus)})


def last_step(root: Path) -> int:
    """Step of the last whole row of the training curves; 0 without one."""
    path = root / _CURVES
    with path.open("rb") as stream:
        columns = next(csv.reader([stream.readline().decode("utf-8", "replace")]), [])
        stream.seek(max(stream.tell(), path.stat().st_size - _ROW_TAIL_BYTES))
        rows = stream.read().decode("utf-8", "replace").splitlines(keepends=True)
    whole = [row.rstrip("\r\n") for row in rows if row.endswith("\n")]
    for row in csv.reader(reversed(whole)):
        if len(row) == len(columns) and row[0].isdigit():
            return int(row[0])
    return 0


MEASURES = {
    "synthesize": Measure(
        pattern=f"{Layout.corpus}/journal*.jsonl",  # each worker has a part of its own
        what="images drawn",
        total=lambda params: params.prompts.count * params.synthesize.images_per_prompt,
        done=drawn_images,
    ),
    "train": Measure(
        pattern=_CURVES.as_posix(),
        what="training steps",
        total=lambda params: params.train.num_steps,
        done=last_step,
    ),
}


@contextmanager
def shown_progress(stage: str, root: Path, *, every_s: float = LOOK_EVERY_S) -> Iterator[None]:
    """Keep a progress artifact of the present task run up to date during the block, if the stage has a measure."""
    measure = MEASURES.get(stage)
    total = None if measure is None else _total(measure, root)
    if measure is None or total is None:
        yield
        return
    over = threading.Event()
    bar = _Bar(measure, root, total)
    context = contextvars.copy_context()  # tells Prefect which task run the artifact belongs to
    thread = threading.Thread(target=context.run, args=(bar.watch, over, every_s), daemon=True)
    thread.start()
    try:
        yield
        bar.trust_files()
    finally:
        over.set()
        thread.join()


class _Bar:
    """One progress artifact and the files that it follows."""

    def __init__(self, measure: Measure, root: Path, total: int) -> None:
        self._measure, self._root, self._total = measure, root, total
        self._seen = self._stamps()
        self._shown = 0
        told, key = f"0 of {total:,} {measure.what}", f"progress-{measure.what.replace(' ', '-')}"
        self._artifact = cast(UUID, create_progress_artifact(0.0, key=key, description=told))

    def watch(self, over: threading.Event, every_s: float) -> None:
        """Look now and then until it is over, and a last time then; seldom where looking takes long."""
        pause = every_s
        while not over.wait(pause):
            began = time.monotonic()
            self._try_to_look()
            pause = max(every_s, (time.monotonic() - began) / _MAX_SHARE)
        self._try_to_look()

    def trust_files(self) -> None:
        """The stage is done or had no work, so that what is there is what it wrote, whenever that was."""
        self._seen = []

    def _try_to_look(self) -> None:
        """A file that is replaced at this moment or a server that is away must not end the bar."""
        try:
            self.look()
        except (OSError, httpx.HTTPError, PrefectException) as error:
            get_run_logger().warning("progress of %s not shown: %s", self._measure.what, error)

    def look(self) -> None:
        """Show what the files say, if they were written since the last look."""
        stamps = self._stamps()
        if not stamps or stamps == self._seen:
            return
        self._seen = stamps
        done = min(self._measure.done(self._root), self._total)
        if done != self._shown:
            self._shown = done
            told = f"{done:,} of {self._total:,} {self._measure.what}"
            update_progress_artifact(self._artifact, 100.0 * done / self._total, description=told)

    def _stamps(self) -> list[tuple[str, int, int]]:
        """Changes whenever one of the files is written."""
        found = []
        for path in sorted(self._root.glob(self._measure.pattern)):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((path.name, status.st_mtime_ns, status.st_size))
        return found


def _total(measure: Measure, root: Path) -> int | None:
    """None where there is no params.yaml to say so; the stage itself tells what is wrong with it."""
    try:
        return measure.total(load_params(root / PARAMS_FILE)) or None
    except L2PError:
        return None
