"""Owns who draws: one worker in this process, or several elsewhere between which batches are shared out.

Batches do not depend on the workers, so neither do the images. A worker that dies is told of with the end of its log;
the batches it had not confirmed go to the others, once.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from l2p.data.journal import DrawnBatch
from l2p.data.synthesis.planning import Batch
from l2p.data.synthesis.worker import BatchWorker, Job
from l2p.errors import DataError

_MESSAGE_CHARACTERS = 400


@dataclass(frozen=True)
class Died:
    """A worker that will not answer any more: who, and the end of its log."""

    worker: str
    log_end: str


class Crew(ABC):
    """Those who draw; a context that lets go of them."""

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @abstractmethod
    def draw(self, batches: Sequence[Batch]) -> Iterator[DrawnBatch]:
        """Yield batches as they are on disk, in any order. The crew comes together when it is first needed.

        Raises:
            DataError: no worker is left, or two died of the same batch.
            OSError: a disk is full.
        """

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class LocalCrew(Crew):
    """One worker in this process."""

    def __init__(self, job: Job, device: str) -> None:
        self._job, self._device = job, device
        self._worker: BatchWorker | None = None
        self._threads = torch.get_num_threads()

    def draw(self, batches: Sequence[Batch]) -> Iterator[DrawnBatch]:
        """In the order of `batches`."""
        if batches and self._worker is None:
            self._worker = BatchWorker(self._job, self._device, "0")
        for batch in batches:
            assert self._worker is not None
            yield from self._worker.step(batch)
        if self._worker is not None:
            yield from self._worker.flush()

    def close(self) -> None:
        """Forget the model, and give this process its threads back."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        torch.set_num_threads(self._threads)


class SharedWork(Crew):
    """Several workers elsewhere; a subclass starts them, sends each one request at a time and waits for answers."""

    def __init__(self, num_workers: int) -> None:
        self._wanted = num_workers
        self._alive: list[int] = []
        self._started = False
        self._deaths: list[Died] = []
        self._retried: set[str] = set()

    @abstractmethod
    def start(self, count: int) -> None:
        """Start workers 0 to count - 1."""

    @abstractmethod
    def send(self, worker: int, batch: Batch | None) -> None:
        """Ask an idle worker to draw a batch, or, None, to finish what it writes."""

    @abstractmethod
    def wait(self) -> tuple[int, list[DrawnBatch] | Died]:
        """The answer of any worker that was asked.

        Raises:
            L2PError, OSError: what a worker raised and another would, too.
        """

    def draw(self, batches: Sequence[Batch]) -> Iterator[DrawnBatch]:
        """As they are finished."""
        if not batches:
            return
        if not self._started:
            self._alive, self._started = list(range(min(self._wanted, len(batches)))), True
            self.start(len(self._alive))
        waiting = deque(batches)
        unconfirmed: dict[int, list[Batch]] = {worker: [] for worker in self._alive}
        busy: set[int] = set()
        while True:
            for worker in [worker for worker in self._alive if worker not in busy]:
                if waiting:
                    unconfirmed[worker].append(waiting.popleft())
                    self.send(worker, unconfirmed[worker][-1])
                    busy.add(worker)
                elif unconfirmed[worker]:
                    self.send(worker, None)
                    busy.add(worker)
            if not busy:
                break
            worker, answer = self.wait()
            busy.discard(worker)
            if isinstance(answer, Died):
                waiting.extendleft(reversed(self._bury(worker, answer, unconfirmed.pop(worker))))
                continue
            for drawn in answer:
                unconfirmed[worker] = [batch for batch in unconfirmed[worker] if batch.digest != drawn.batch]
                yield drawn
        if waiting:
            raise DataError(f"no worker is left to draw {len(waiting)} batches. {self._last_words()}")

    def _bury(self, worker: int, died: Died, lost: list[Batch]) -> list[Batch]:
        """Tell of a death; returns the batches that others have to draw."""
        self._alive.remove(worker)
        self._deaths.append(died)
        end = "".join(f"\n  {line}" for line in died.log_end.splitlines())
        tqdm.write(f"{died.worker} died; {len(lost)} batches go to the others. End of its log:{end}", file=sys.stderr)
        again = next((batch for batch in lost if batch.digest in self._retried), None)
        if again is not None:
            raise DataError(
                f"two workers died of the batch that begins with prompt {again.rows[0]['prompt_id']!r}. "
                + self._last_words()
            )
        self._retried |= {batch.digest for batch in lost}
        return lost

    def _last_words(self) -> str:
        died = self._deaths[-1]
        cause = " ".join(died.log_end.split())[-_MESSAGE_CHARACTERS:]
        return f"{died.worker}: {cause} What was drawn is kept; remove the cause and run it again."
