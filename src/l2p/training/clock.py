"""Owns the time of a training: how long it took over all its resumptions, and how fast it goes now."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Counts seconds, those before a resumption included; stands still while paused."""

    def __init__(self, seconds: float) -> None:
        """`seconds` were already spent."""
        self._started_at = time.monotonic() - seconds
        self._mark: tuple[float, int] | None = None

    @property
    def seconds(self) -> float:
        """Seconds spent so far."""
        return time.monotonic() - self._started_at

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The block does not count: writing checkpoints and drawing grids is no training."""
        before = time.monotonic()
        yield
        self._started_at += time.monotonic() - before

    def images_per_s(self, images: int) -> float:
        """Speed since the last call, `images` being how many there are by now; NaN at the first call (compilation)."""
        now = self.seconds
        mark, self._mark = self._mark, (now, images)
        return math.nan if mark is None else (images - mark[1]) / max(now - mark[0], 1e-9)
