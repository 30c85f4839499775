"""Owns the journal of finished images: what an interrupted synthesis may keep, and the removal of everything else.

One JSON object a line, appended after the images of a batch are on disk; a line torn by a kill is an unfinished image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from l2p.files import atomic_path, sha256_file

JOURNAL = "journal.jsonl"
HASH_THREADS = 2

# An image is kept only if it was drawn with the very same values of these.
IDENTITY = ("prompt_id", "seed", "num_steps", "guidance_scale", "height_px", "width_px", "source_digest", "dtype")

Row = dict[str, Any]


def keep_finished(folder: Path, plan: list[Row]) -> dict[str, str]:
    """Delete from `folder` whatever is not a finished image of `plan`; returns file name -> SHA-256 of those that are.

    An image is finished when the journal says that it was drawn as `plan` wants it and its bytes are those written.
    The journal is rewritten to name exactly the kept images.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = read_journal(folder)
    candidates = [row for row in plan if _drawn_as_planned(journal.get(row["file_name"]), row)]
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        whole = pool.map(lambda row: _is_whole(folder, journal[row["file_name"]]), candidates)
        watched = tqdm(whole, total=len(candidates), desc="checking images", unit="image", disable=None)
        kept = {row["file_name"]: journal[row["file_name"]] for row, ok in zip(candidates, watched, strict=True) if ok}
    write_journal(folder, kept.values())
    _delete_all_but(folder, {JOURNAL, *kept})
    return {name: row["sha256"] for name, row in kept.items()}


def read_journal(folder: Path) -> dict[str, Row]:
    """Rows by file name; the last line of an image counts, unreadable lines do not."""
    path = folder / JOURNAL
    rows: dict[str, Row] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            rows[row["file_name"]] = row
        except (json.JSONDecodeError, KeyError, TypeError):
            continue  # torn by a kill: its image counts as unfinished
    return rows


def append_journal(folder: Path, rows: Iterable[Row]) -> None:
    """Add finished images at the end."""
    with (folder / JOURNAL).open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def write_journal(folder: Path, rows: Iterable[Row]) -> None:
    """Replace the journal, atomically, also where the old one is a link into a cache."""
    with atomic_path(folder / JOURNAL) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _drawn_as_planned(found: Row | None, planned: Row) -> bool:
    return found is not None and "sha256" in found and all(found.get(key) == planned[key] for key in IDENTITY)


def _is_whole(folder: Path, row: Row) -> bool:
    path = folder / row["file_name"]
    return path.is_file() and sha256_file(path) == row["sha256"]


def _delete_all_but(folder: Path, names: set[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders that hold them
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(folder).as_posix() not in names:
            path.unlink()
