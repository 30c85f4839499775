"""Owns putting images into a folder: never over files of others, whole or not at all, and resumed where it stopped."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from l2p.data.corpora.names import PARTIAL, check_inside, files_in
from l2p.errors import DataError
from l2p.files import atomic_path, sha256_file

THREADS = 2
_AT_ONCE = 2048  # files given to the threads at a time: memory does not grow with the corpus


def digests(paths: Sequence[Path]) -> Iterator[str | None]:
    """SHA-256 of every file in order; None for one that is not there."""
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(_digest, paths[start : start + _AT_ONCE])


def find_whole(folder: Path, planned: Mapping[str, str]) -> set[str]:
    """Of the files {name: SHA-256} that are planned, those that are in `folder` already."""
    there = [name for name in sorted(files_in(folder)) if name in planned]
    found = digests([folder / name for name in there])
    return {name for name, digest in zip(there, found, strict=True) if digest == planned[name]}


def require_own(folder: Path, planned: Mapping[str, str], whole: set[str], *, advice: str) -> None:
    """Refuse a folder that holds anything else than planned files and what an interrupted write left.

    Raises:
        DataError: names the first such file; `advice` is the next step.
    """
    others = sorted(name for name in files_in(folder) - whole if not name.endswith(PARTIAL))
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        state = "has other bytes than planned" if others[0] in planned else "does not belong to it"
        raise DataError(f"{folder}: not free: {others[0]} {state}{more}. {advice}")


def put_bytes(folder: Path, name: str, content: bytes, *, sha256: str, origin: str) -> None:
    """Write a file that must have the given digest, atomically.

    Raises:
        DataError: `content` is not what was promised, or a link in `folder` leads out of it.
    """
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(
            f"{origin}: its bytes changed or are damaged: the sha256 is not {sha256[:12]}. Nothing was kept."
        )
    path = folder / name
    check_inside(path.parent, folder, name)
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, atomically."""
    with atomic_path(target) as partial:
        shutil.copyfile(source, partial)


def delete_others(folder: Path, keep: set[str]) -> int:
    """Delete every file that is not named in `keep`, and folders that are then empty; returns how many files."""
    gone = files_in(folder) - keep
    for name in gone:
        (folder / name).unlink()
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    return len(gone)


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None
