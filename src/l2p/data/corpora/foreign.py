"""Owns reading an image folder of others: which file has which caption, and what else is said of it.

Three layouts: a table beside the images (metadata.csv, .jsonl or .parquet, as Hugging Face's imagefolder has it), the
official release's (a table beside a folder `images`), and images with captions in .txt files of the same name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2p.data.corpora.names import IMAGE_SUFFIXES, check_inside, check_name, check_unique, files_in
from l2p.errors import DataError, MissingFileError

FILE_COLUMNS = ("file_name", "image", "filename", "file", "path")
TEXT_COLUMNS = ("text", "prompt", "caption")
IMAGES = "images"  # folder of the official layout
_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

Record = dict[str, Any]


@dataclass(frozen=True)
class ForeignImage:
    """An image file, its caption, and the other columns of its row."""

    path: Path
    name: str
    text: str
    stated: Record = field(default_factory=dict)


def read_foreign(
    folder: Path,
    *,
    table: Path | None = None,
    file_column: str | None = None,
    text_column: str | None = None,
    follow_links: bool = False,
) -> list[ForeignImage]:
    """All captioned images of `folder`, in the order of its table or of their names.

    Args:
        folder: where the images are.
        table: its table, if it is not one of the usual names.
        file_column: column that names the image; None: one of the usual names.
        text_column: column that holds the caption; None: one of the usual names.
        follow_links: read links that lead out of the folder.

    Raises:
        MissingFileError: no such folder or table.
        DataError: a table without the columns, a name that leaves the folder or is doubled, a missing image or caption.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder. Give a folder of images and their captions.")
    tables = [table] if table is not None else _find_tables(folder)
    if not tables:
        images = list(_with_text_files(folder))
    else:
        images = [image for path in tables for image in _of_table(path, folder, file_column, text_column)]
    check_unique([image.name for image in images], str(folder))
    for image in images:
        if not follow_links:
            check_inside(image.path, folder, f"{folder}/{image.name} (or read such links with --follow-links)")
    return images


def count_without_row(folder: Path, images: list[ForeignImage]) -> int:
    """How many image files of `folder` no row names."""
    named = {image.path.absolute() for image in images}
    return sum((folder / name).absolute() not in named for name in files_in(folder) if _is_image(name))


def _find_tables(folder: Path) -> list[Path]:
    """The table of the folder, else one of every folder in it (splits), else the only CSV file."""
    found = _usual_tables(folder)
    if not found:
        found = [path for split in sorted(folder.iterdir()) if split.is_dir() for path in _usual_tables(split)]
    if not found:
        found = sorted(folder.glob("*.csv"))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{folder}: several CSV files ({names}). Name the table with --table.")
    return found


def _usual_tables(folder: Path) -> list[Path]:
    found = [folder / name for name in _TABLES if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise DataError(f"{folder}: holds {names}. Name the one that counts with --table.")
    return found


def _of_table(path: Path, folder: Path, file_column: str | None, text_column: str | None) -> Iterator[ForeignImage]:
    records = read_records(path)
    columns = list(records[0])
    file_key = _choose(columns, file_column, FILE_COLUMNS, path, "file name")
    text_key = _choose(columns, text_column, TEXT_COLUMNS, path, "caption")
    bases = [base for base in (path.parent, path.parent / IMAGES) if base.is_dir()]
    for number, record in enumerate(records, start=1):
        where = f"{path}, row {number}"
        name = check_name(record.get(file_key), where)
        found = next((base / name for base in bases if (base / name).is_file()), None)
        if found is None:
            places = " and ".join(map(str, bases))
            raise DataError(f"{where}: {name} is not there; looked in {places}. Add the image or delete the row.")
        if not _is_image(name):
            raise DataError(f"{where}: {name} is no image. Expected one of {', '.join(IMAGE_SUFFIXES)}.")
        stated = {key: value for key, value in record.items() if key not in (file_key, text_key)}
        yield ForeignImage(found, _below(found, folder, name), _caption(record.get(text_key), where), stated)


def read_records(path: Path) -> list[Record]:
    """Rows of a CSV, JSON Lines or parquet file; CSV values are texts.

    Raises:
        MissingFileError: no such file.
        DataError: it cannot be read, or has no rows.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. Name the table that holds file names and captions.")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected a table that ends in {', '.join(_READERS)}.")
    try:
        records = reader(path)
    except (OSError, ValueError, csv.Error) as error:  # wrong encoding, broken JSON and pyarrow's errors are among them
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({' '.join(str(error).split())}).") from error
    if not records:
        raise DataError(f"{path}: no rows. Expected one per image, with file name and caption.")
    return records


def _read_csv(path: Path) -> list[Record]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.reader(stream, strict=True)
        names = next(rows, [])
        records = []
        for row in rows:
            if len(row) != len(names) and row:
                raise ValueError(f"line {rows.line_num}: {len(row)} values for {len(names)} columns")
            records += [dict(zip(names, row, strict=True))] if row else []
    return records


def _read_jsonl(path: Path) -> list[Record]:
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"line {number}: expected an object")
            records.append(record)
    return records


def _read_parquet(path: Path) -> list[Record]:
    import pyarrow.parquet as pq

    records: list[Record] = pq.read_table(path).to_pylist()
    return records


_READERS: dict[str, Callable[[Path], list[Record]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}


def _with_text_files(folder: Path) -> Iterator[ForeignImage]:
    names = sorted(name for name in files_in(folder) if _is_image(name))
    if not names:
        raise DataError(f"{folder}: no table ({', '.join(_TABLES)}) and no images ({', '.join(IMAGE_SUFFIXES)}) in it.")
    captions = {name: (folder / name).with_suffix(".txt") for name in names}
    missing = [name for name in names if not captions[name].is_file()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(names)} images have no caption, for example {missing[0]}. Expected a "
            f"text file of the same name ({Path(missing[0]).with_suffix('.txt')}) or a table ({', '.join(_TABLES)})."
        )
    for name in names:
        check_name(name, str(folder))
        try:
            text = captions[name].read_text(encoding="utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{captions[name]}: not UTF-8 ({error}).") from error
        yield ForeignImage(folder / name, name, _caption(text, str(captions[name])))


def _choose(columns: list[str], wanted: str | None, usual: tuple[str, ...], path: Path, what: str) -> str:
    found = [name for name in ((wanted,) if wanted is not None else usual) if name in columns]
    if not found:
        expected = wanted if wanted is not None else " or ".join(usual)
        option = "--file-column" if usual is FILE_COLUMNS else "--text-column"
        raise DataError(
            f"{path}: no column for the {what}: expected {expected}, found {', '.join(map(str, columns))}. "
            f"Name it with {option}."
        )
    return found[0]


def _caption(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where}: no caption (found {value!r}). Every image needs one; add it or remove the image.")
    return value


def _below(path: Path, folder: Path, name: str) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else name


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
