"""Owns data/rejected: images that a check refused and that were drawn again with a fresh seed, with the reasons.

Its table is also the memory of the redrawing: an image is at the attempt that follows its rejected ones. They hold for
one check; under another all images go back to their first attempt.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.data.journal import IDENTITY, Key, Row
from l2p.data.synthesis.planning import image_name, with_attempt
from l2p.data.synthesis.records import corpus_table
from l2p.errors import DataError
from l2p.files import atomic_path, read_json, sha256_file, sha256_json, write_json

TABLE, CHECK = "metadata.parquet", "check.json"
REASON = "reason"


class Rejections:
    """Rejected attempts by the image's name in the corpus, in order."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        self._folder, self._corpus = folder, corpus
        self._rows: dict[str, list[Row]] = defaultdict(list)

    def resume(self, plan: Sequence[Row], first_seed: int, check: Mapping[str, Any]) -> None:
        """Take over what an earlier run rejected, of these images and by this check; delete the rest.

        Where the check is another one, first attempts return to the corpus.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        digest = sha256_json(dict(check))
        path = self._folder / CHECK
        same = path.is_file() and _read_check(path) == digest
        self._load(plan, first_seed)
        if not same:
            for name, rows in self._rows.items():
                (self._corpus / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._folder / rows[0]["file_name"], self._corpus / name)
            self._rows.clear()
        self._save()
        self._delete_others()
        if not same:
            write_json(path, {"check": digest, "settings": dict(check)})

    def attempt(self, name: str) -> int:
        """Number of the attempt that an image is at."""
        return len(self._rows.get(name, ()))

    def attempts(self) -> list[Key]:
        """Of all rejected attempts, as the journal has them."""
        return [(name, row["attempt"]) for name, rows in self._rows.items() for row in rows]

    def add(self, records: Iterable[Row], reasons: Mapping[str, Sequence[str]]) -> None:
        """Keep the images as they are and note why they are rejected; afterwards they are at their next attempt."""
        for record in records:
            name = record["file_name"]
            kept = rejected_name(record)
            with atomic_path(self._folder / kept) as partial:
                partial.write_bytes((self._corpus / name).read_bytes())
            self._rows[name].append({**record, "file_name": kept, REASON: "; ".join(reasons[name])})
        self._save()

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def _save(self) -> None:
        rows = [row for _, found in sorted(self._rows.items()) for row in found]
        with atomic_path(self._folder / TABLE) as partial:
            corpus_table(rows, REASON).to_parquet(partial, index=False)

    def _load(self, plan: Sequence[Row], first_seed: int) -> None:
        """Attempts 0, 1, ... of each planned image, as far as they are whole and were drawn as planned."""
        planned = {row["file_name"]: row for row in plan}
        for row in _read_table(self._folder / TABLE):
            name = image_name(row["prompt_id"], row["repetition"])
            if name not in planned or len(self._rows.get(name, ())) != row["attempt"]:
                continue
            expected = with_attempt(planned[name], row["attempt"], first_seed)
            path = self._folder / row["file_name"]
            whole = path.is_file() and sha256_file(path) == row["sha256"]
            if whole and row["file_name"] == rejected_name(expected) and _same(row, expected):
                self._rows[name].append(row)

    def _delete_others(self) -> None:
        keep = {TABLE, CHECK, *(row["file_name"] for rows in self._rows.values() for row in rows)}
        delete_all_but(self._folder, keep)


def write_no_rejections(folder: Path) -> None:
    """The table of a corpus of which nothing was drawn again; what else is in `folder` is deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    delete_all_but(folder, set())
    with atomic_path(folder / TABLE) as partial:
        corpus_table([], REASON).to_parquet(partial, index=False)


def rejected_name(row: Row) -> str:
    """File name of an attempt in the folder of the rejected."""
    return f"{image_name(row['prompt_id'], row['repetition']).removesuffix('.png')}.attempt-{row['attempt']}.png"


def delete_all_but(folder: Path, names: set[str]) -> None:
    """Delete every file below `folder` that is not named, and folders that are then empty."""
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that hold them
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names:
            path.unlink()


def _same(found: Row, expected: Row) -> bool:
    return all(found[name] == expected[name] for name in IDENTITY)


def _read_table(path: Path) -> list[Row]:
    if not path.is_file():
        return []
    try:
        table = pd.read_parquet(path).astype(object)
        rows: list[Row] = table.where(table.notna(), None).to_dict("records")  # type: ignore[assignment]
        return sorted(rows, key=lambda row: row["attempt"])
    except (OSError, ValueError, KeyError):
        return []  # damaged: nothing counts as rejected, and is judged again


def _read_check(path: Path) -> str | None:
    try:
        found: dict[str, Any] = read_json(path, written_by="l2p synthesize")
    except DataError:
        return None
    return found.get("check")
