"""Owns reading and writing of small result files: digests, JSON, and writes that are whole or not there at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from l2p.errors import DataError, MissingFileError

_CHUNK_BYTES = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value` (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, a file or a folder; it takes the place of `path` if the block succeeds.

    If it fails, what was written is removed: it may be as large as a model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        if partial.is_dir() and not partial.is_symlink():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
        raise


def require_below(names: Iterable[object], *, where: str) -> None:
    """Refuse names that lead out of the folder they are joined to, whoever wrote the table they come from.

    Raises:
        DataError: absolute, with `..` or a backslash, or no text; names the first of them and `where` it stands.
    """
    for name in names:
        text = name if isinstance(name, str) else ""
        path = PurePosixPath(text)
        if not text or path.is_absolute() or ".." in path.parts or "\\" in text or "\0" in text:
            raise DataError(
                f"{where}: names {name!r}, which is not below its folder. The table was changed; restore it."
            )


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, *, written_by: str) -> Any:
    """Read JSON; `written_by` names the stage or command to run when the file is not there."""
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `{written_by}` writes it; run that first.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}). Delete it and run `{written_by}` again.") from error
