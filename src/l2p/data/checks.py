"""Owns the check of freshly drawn images: which of them are bad in a way that drawing again can mend, and why.

It applies the expectations of the stage `validate` that send single images to quarantine for what their pixels show, so
that an image which passes here goes to quarantine there only for faults of its row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import ValidateParams
from l2p.data.checking.examining import allowed_names, complete
from l2p.data.checking.judges import PixelJudge, load_judges
from l2p.data.corpus import measure_rows
from l2p.data.expectations import REASONS, expect_of_pixels, judge


def image_faults(rows: pd.DataFrame, folder: Path, limits: ValidateParams) -> dict[str, list[str]]:
    """Images to draw again: file name -> reasons.

    Args:
        rows: of the corpus table, all of it, since an image may be too much like any other.
        folder: where the files are.
        limits: what images must look like; rules of severity `error` or `warn` are left to the stage `validate`.

    Raises:
        DataError: a judge cannot be loaded, or does not understand a prompt.
    """
    return ImageCheck(limits)(rows, folder)


class ImageCheck:
    """`image_faults` with a memory: a file that has not changed since the last call is not read again."""

    def __init__(self, limits: ValidateParams) -> None:
        self._limits = limits
        self._judges: dict[str, PixelJudge] | None = None
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}

    def __call__(self, rows: pd.DataFrame, folder: Path) -> dict[str, list[str]]:
        """See `image_faults`."""
        table = rows.reset_index(drop=True)
        if table.empty:
            return {}
        frame = complete(table, self._measure(table, folder), self._limits)
        broken = judge(frame, expect_of_pixels(self._limits)).broken
        return {table["file_name"][place]: [REASONS[rule] for rule in broken[place]] for place in sorted(broken)}

    def _measure(self, table: pd.DataFrame, folder: Path) -> list[dict[str, Any]]:
        if self._judges is None:
            self._judges = load_judges(self._limits)
        named = table.assign(file_name=table["file_name"].where(allowed_names(table)))
        keys = [(*row, *_state(folder, row[0])) for row in zip(named["file_name"], named["text"], strict=True)]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        measured = measure_rows(named.iloc[new], folder, judges=self._judges, batch_size=self._limits.judge_batch_size)
        known = dict(zip((keys[place] for place in new), measured, strict=True))
        self._known = {key: known.get(key) or self._known[key] for key in keys}
        return [self._known[key] for key in keys]


def _state(folder: Path, name: object) -> tuple[int, ...]:
    """What changes with a file's content; nothing of a file that is not there."""
    if not isinstance(name, str):
        return ()
    try:
        found = (folder / name).stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
