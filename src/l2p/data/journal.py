"""Owns the journal of drawn batches: with what each image was drawn, and what an interrupted synthesis may keep.

One JSON object a line and batch, appended after the batch's images are on disk; a line torn by a kill is a batch that
was not drawn. Each worker appends to a part of its own; the next start, or the end, joins them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from l2p.files import atomic_path

JOURNAL = "journal.jsonl"
_PARTS = "journal.*.jsonl"

# An image is kept only if it was drawn with the very same values of these.
IDENTITY = (
    "prompt_id",
    "text",
    "repetition",
    "attempt",
    "seed",
    "height_px",
    "width_px",
    "num_steps",
    "guidance_scale",
    "shift",
    "dtype",
    "source_digest",
)

Row = dict[str, Any]
Key = tuple[str, int]  # file name in the corpus, attempt


@dataclass(frozen=True)
class DrawnBatch:
    """A batch as it was drawn.

    Attributes:
        batch: its name.
        rows: all images that were drawn together, in order.
        environment: device, threads and library versions.
        embeddings: digest of the prompt embeddings that it was drawn from.
        sha256: file name -> digest, of the images that were written.
        faults: file name -> why its values are no picture; it was written in black.
    """

    batch: str
    rows: tuple[Row, ...]
    environment: dict[str, Any]
    embeddings: str
    sha256: dict[str, str]
    faults: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """The row of one of its images."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Row]:
        return {row["file_name"]: row for row in self.rows}


Journal = dict[Key, DrawnBatch]


def key_of(row: Row) -> Key:
    """Under which an image stands in a journal."""
    return row["file_name"], row["attempt"]


def read_journal(folder: Path) -> Journal:
    """The batch in which each attempt at each image was drawn last; unreadable lines do not count."""
    found: Journal = {}
    for path in _files(folder):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                raw = json.loads(line)
                add_to_journal(found, DrawnBatch(**{**raw, "rows": tuple(raw["rows"])}))
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # torn by a kill, or of an older version: its images count as not drawn
    return found


def add_to_journal(journal: Journal, drawn: DrawnBatch) -> None:
    """Note the images that were written."""
    for name in drawn.sha256:
        journal[name, drawn.row(name)["attempt"]] = drawn


def append_journal(path: Path, drawn: DrawnBatch) -> None:
    """Add a batch at the end of a journal or a part of one; a line that does not fit on the disk is taken back."""
    line = json.dumps(asdict(drawn)) + "\n"
    with path.open("ab") as stream:
        start = stream.tell()
        try:
            stream.write(line.encode())
            stream.flush()
        except OSError:
            os.ftruncate(stream.fileno(), start)
            raise


def write_journal(folder: Path, journal: Mapping[Key, DrawnBatch], keep: Iterable[Key]) -> None:
    """Replace journal and parts by one that speaks of `keep` alone, the same however often the run was interrupted."""
    together: dict[str, dict[str, DrawnBatch]] = {}
    for key in keep:
        drawn = journal[key]
        same = json.dumps([*_order(drawn), drawn.batch, drawn.environment, drawn.embeddings])
        together.setdefault(same, {})[key[0]] = drawn
    joined = sorted((_join(found) for found in together.values()), key=_order)
    with atomic_path(folder / JOURNAL) as partial:
        partial.write_text("".join(json.dumps(asdict(drawn)) + "\n" for drawn in joined), encoding="utf-8")
    for part in folder.glob(_PARTS):
        part.unlink()


def _join(found: dict[str, DrawnBatch]) -> DrawnBatch:
    """One batch that speaks of the images `found`, in the order of its rows."""
    first = next(iter(found.values()))
    names = [row["file_name"] for row in first.rows if row["file_name"] in found]
    sha256 = {name: found[name].sha256[name] for name in names}
    faults = {name: found[name].faults[name] for name in names if name in found[name].faults}
    return replace(first, sha256=sha256, faults=faults)


def _order(drawn: DrawnBatch) -> tuple[Any, ...]:
    row = drawn.rows[0]
    return row["attempt"], row["height_px"], row["width_px"], len(row["text"].split()), row["file_name"], drawn.batch


def part_of_journal(folder: Path, worker: str) -> Path:
    """Where a worker writes."""
    return folder / f"journal.{worker}.jsonl"


def _files(folder: Path) -> list[Path]:
    main = folder / JOURNAL
    return [*([main] if main.is_file() else []), *sorted(folder.glob(_PARTS))]
