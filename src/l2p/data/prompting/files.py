"""Owns reading prompts of one's own: text, CSV, JSON lines, parquet, a folder with its table, a Hugging Face dataset.

Every candidate knows its file and line (or row), so that whatever is wrong with it can be found.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.data.prompting.candidates import UNSTATED_STYLE, Candidate, encodable
from l2p.errors import DataError, MissingFileError

FORMS = "a txt, csv, jsonl or parquet file, a folder with metadata.csv, or a Hugging Face dataset"
TEXT, STYLE, ID = "text", "style", "prompt_id"
# Tables that stand beside images: the official dataset's, and those of the imagefolder convention.
FOLDER_TABLES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SAVED_DATASET = ("dataset_info.json", "dataset_dict.json")  # what `datasets` writes with save_to_disk


@dataclass(frozen=True)
class Table:
    """Rows as they stand in the file, and the word and number by which each is found again."""

    columns: list[str]
    rows: list[dict[str, Any]]
    places: list[str]


def read_candidates(
    path: Path, *, text_column: str | None = None, id_column: str | None = None, split: str = "train"
) -> list[Candidate]:
    """Read every row, blank ones too.

    Args:
        path: one of `FORMS`; a name that is no file is taken for a dataset of the Hugging Face hub.
        text_column: column of the prompts; None: `text`.
        id_column: column of ids; None: `prompt_id` if there is one.
        split: split of a Hugging Face dataset.

    Raises:
        MissingFileError: nothing is there.
        DataError: it cannot be read, or lacks a column.
    """
    table = _read(path, split)
    text = _column(table, text_column or TEXT, path, "prompts.text_column")
    own_id = _column(table, id_column, path, "prompts.id_column") if id_column else ID if ID in table.columns else None
    style = STYLE if STYLE in table.columns else None
    return [
        Candidate(
            _text(row.get(text)).strip(),
            (encodable(_text(row.get(style))).strip() if style else "") or UNSTATED_STYLE,
            f"{path}, {place}",
            _text(row.get(own_id)) if own_id else None,
        )
        for row, place in zip(table.rows, table.places, strict=True)
    ]


def _read(path: Path, split: str) -> Table:
    if path.is_dir():
        return _read_folder(path, split)
    if path.is_file():
        return _guarded(_FILE_READERS.get(path.suffix.lower(), _read_lines), path)
    if path.suffix or path.is_absolute() or len(path.parts) != 2:  # a name on the hub is OWNER/NAME
        raise MissingFileError(f"{path}: not found. prompts.path must name {FORMS}.")
    return _read_hub(path.as_posix(), split)


def _read_folder(folder: Path, split: str) -> Table:
    if any((folder / name).is_file() for name in SAVED_DATASET):
        return _read_saved(folder, split)
    for name in FOLDER_TABLES:
        if (folder / name).is_file():
            return _guarded(_FILE_READERS[Path(name).suffix], folder / name)
    raise DataError(
        f"{folder}: holds none of {', '.join(FOLDER_TABLES)}, and is no dataset that `save_to_disk` wrote. "
        f"prompts.path must name {FORMS}."
    )


def _read_saved(folder: Path, split: str) -> Table:
    from datasets import DatasetDict, load_from_disk

    found: Any = _guarded(lambda path: load_from_disk(str(path)), folder)
    if isinstance(found, DatasetDict):
        if split not in found:
            raise DataError(f"{folder}: no split {split!r}; it has: {', '.join(found)}. Set prompts.split to one.")
        found = found[split]
    return _without_media(found)


def _read_hub(name: str, split: str) -> Table:
    from datasets import load_dataset

    try:
        return _without_media(load_dataset(name, split=split))
    except Exception as error:  # the hub's errors have no common base; each means that the dataset is not to be had
        raise MissingFileError(
            f"prompts.path = {name!r}: no such file, and the Hugging Face hub did not give a dataset of that name "
            f"({_one_line(error)}). prompts.path must name {FORMS}."
        ) from error


def _without_media(dataset: Any) -> Table:
    """The columns that are plain values: images and audio are not decoded."""
    from datasets import Value

    plain = [name for name, feature in dataset.features.items() if isinstance(feature, Value)]
    return _numbered(plain, dataset.select_columns(plain).to_list())


def _numbered(columns: list[str], rows: list[dict[str, Any]]) -> Table:
    return Table(columns, rows, [f"row {number}" for number in range(1, len(rows) + 1)])


def _read_lines(path: Path) -> Table:
    rows = [{TEXT: line} for line in path.read_text(encoding="utf-8-sig").splitlines()]
    return Table([TEXT] if rows else [], rows, [f"line {number}" for number in range(1, len(rows) + 1)])


def _read_csv(path: Path) -> Table:
    """Everything as written: "NA" is a text and 007 an id."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = csv.DictReader(stream, strict=True)
        rows, places = [], []
        for row in table:
            if None in row:
                raise ValueError(f"line {table.line_num} has more fields than the heading; put quotes around commas")
            rows.append(row)
            places.append(f"line {table.line_num}")
        if not table.fieldnames:
            raise ValueError("it is empty")
        return Table(list(table.fieldnames), rows, places)


def _read_json_lines(path: Path) -> Table:
    lines = enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1)
    filled = {number: line for number, line in lines if line.strip()}
    rows = [_json_row(line, number) for number, line in filled.items()]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return Table(columns, rows, [f"line {number}" for number in filled])


def _read_parquet(path: Path) -> Table:
    from pyarrow import parquet

    table = parquet.read_table(path)
    return _numbered(table.column_names, table.to_pylist())


def _json_row(line: str, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is no JSON object: {line[:40]!r}")
    return row


_FILE_READERS: dict[str, Callable[[Path], Table]] = {
    ".csv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}


def _guarded(reader: Callable[[Path], Any], path: Path) -> Any:
    try:
        return reader(path)
    except (OSError, ValueError, KeyError, csv.Error) as error:  # those of pyarrow and datasets derive from them
        raise DataError(f"{path}: cannot be read ({_one_line(error)}). Is it {FORMS}?") from error


def _column(table: Table, name: str, path: Path, setting: str) -> str:
    if not table.columns:
        raise DataError(f"{path}: holds no prompt. Expected one prompt a line, or a table with a column `text`.")
    if name not in table.columns:
        columns = ", ".join(table.columns)
        raise DataError(f"{path}: no column `{name}`; it has: {columns}. Name the right one in {setting}.")
    return name


def _text(value: Any) -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
