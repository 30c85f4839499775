"""Owns which file names a corpus may hold, and what lies in its folder.

A name is relative to the folder, has forward slashes, and never leads out of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from l2p.data.corpus import read_table
from l2p.data.journal import JOURNAL
from l2p.errors import DataError, MissingFileError

TABLE = "metadata.parquet"
OWN_FILES = (TABLE, JOURNAL)  # what a corpus folder holds beside its images
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
PARTIAL = ".partial"  # what an interrupted write leaves
_MAX_BYTES = 1024


def check_name(name: object, where: str) -> str:
    """`name` if it is a plain path below a folder.

    Raises:
        DataError: not a text, empty, absolute, with `..`, backslashes or control characters; `where` is named.
    """
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: {name!r} is no file name. Expected a path relative to the folder.")
    parts = name.split("/")
    odd = any(character == "\\" or not character.isprintable() for character in name)
    if odd or any(part in ("", ".", "..") for part in parts) or ":" in parts[0] or len(name.encode()) > _MAX_BYTES:
        raise DataError(
            f"{where}: the file name {name!r} is refused. Expected a path below the folder: not absolute, no `..`, no "
            "backslash, no control character. Correct the name."
        )
    return name


def check_inside(path: Path, folder: Path, where: str) -> None:
    """Refuse a path that leaves `folder` by a link.

    Raises:
        DataError: it does.
    """
    real = path.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise DataError(f"{where}: {path} is a link to {real}, outside {folder}. Copy the files into the folder.")


def check_unique(names: Iterable[str], where: str) -> None:
    """Refuse names that occur twice, also those that differ in case only: some file systems keep one of them.

    Raises:
        DataError: names the first of them.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            same = "twice" if other == name else f"beside {other!r}, which some file systems take for the same"
            raise DataError(f"{where}: {name!r} is named {same}. Every image needs one row and a name of its own.")


def read_corpus(folder: Path) -> pd.DataFrame:
    """Table of the corpus in `folder`, its file names checked.

    Raises:
        MissingFileError: no such folder, or no table in it.
        DataError: the table is damaged, or a file name is refused or there twice.
    """
    if not folder.is_dir():
        raise MissingFileError(
            f"{folder}: no such folder. Expected images and {TABLE}, as `l2p synthesize` writes them."
        )
    table = read_table(folder / TABLE).reset_index(drop=True)
    check_table(table, str(folder / TABLE))
    return table


def check_table(table: pd.DataFrame, where: str) -> None:
    """Refuse file names that lead out of the corpus, are doubled, or are those of its own files.

    Raises:
        DataError: names the row.
    """
    names = [check_name(name, f"{where}, row {row}") for row, name in enumerate(table["file_name"])]
    own = next((name for name in names if name in OWN_FILES), None)
    if own is not None:
        raise DataError(f"{where}: {own!r} is named as an image, but is a file of the corpus itself. Rename the image.")
    check_unique(names, where)


def files_in(folder: Path) -> set[str]:
    """Names of all files below `folder`; folders behind a link are not entered and count as files."""
    found: set[str] = set()
    for place, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found.update((Path(place) / name).relative_to(folder).as_posix() for name in (*files, *links))
    return found
