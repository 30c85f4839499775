"""Owns reading the benchmarks' official files: GenEval's metadata lines, DPG-Bench's question table and prompts.

Every fault is reported with its file and line before anything is drawn: a wrong file must not become a low score.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from l2p.errors import EvaluationError, MissingFileError
from l2p.files import sha256_json

# name -> "module:writer"; a writer takes a folder, writes the official files into it and returns the main one's path.
GENEVAL_DATA = {"shapes": "l2p.shapes.benchmarks:write_geneval"}
DPG_DATA = {"shapes": "l2p.shapes.benchmarks:write_dpg"}

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
DPG_COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")
NO_PARENT = 0


@dataclass(frozen=True)
class Clause:
    """`count` objects of a class; in `color`; standing in a relation to the objects of an earlier clause."""

    label: str
    count: int
    color: str | None = None
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class GenEvalPrompt:
    """One line of GenEval's metadata; `metadata` is the line itself, `index` its number from 0."""

    index: int
    tag: str
    prompt: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    metadata: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class GenEvalData:
    """A GenEval prompt set."""

    name: str
    prompts: tuple[GenEvalPrompt, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the metadata of all prompts: the same for a file and for an image folder made from it."""
        return sha256_json([[prompt.index, prompt.metadata] for prompt in self.prompts])


@dataclass(frozen=True)
class DpgQuestion:
    """One proposition; `parents` are proposition ids of the same item, `row` is its number in the table from 0."""

    number: int
    parents: tuple[int, ...]
    tuple_text: str
    question: str
    row: int

    @property
    def category(self) -> str:
        """Detailed category: the text before "(", for example "attribute - color"."""
        return self.tuple_text.split("(")[0].strip()

    @property
    def broad_category(self) -> str:
        """The part before "-", for example "attribute"."""
        return self.category.split("-")[0].strip()


@dataclass(frozen=True)
class DpgItem:
    """A dense prompt with its questions in the order of the table; `index` is its place among the items, from 0."""

    index: int
    item_id: str
    prompt: str
    questions: tuple[DpgQuestion, ...]


@dataclass(frozen=True)
class DpgData:
    """A DPG prompt set."""

    name: str
    items: tuple[DpgItem, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over all prompts and questions."""
        return sha256_json([asdict(item) for item in self.items])


def load_geneval(data: str, folder: Path) -> GenEvalData:
    """Load a GenEval prompt set.

    Args:
        data: a name in `GENEVAL_DATA`, or the path of a file in the format of `evaluation_metadata.jsonl`.
        folder: where a named prompt set is written.

    Raises:
        MissingFileError: no such name or file.
        EvaluationError: the file breaks the format; the message names the line.
    """
    path = _locate(data, GENEVAL_DATA, folder, "geneval.data")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    filled = [(number, line) for number, line in lines if line.strip()]
    if not filled:
        raise EvaluationError(f"{path}: empty; expected one JSON object a line.")
    prompts = [read_geneval_line(line, index, f"{path}, line {number}") for index, (number, line) in enumerate(filled)]
    return GenEvalData(data, tuple(prompts))


def load_dpg(data: str, folder: Path) -> DpgData:
    """Load a DPG prompt set: a table, and `prompts/<item_id>.txt` beside it.

    Args:
        data: a name in `DPG_DATA`, or the path of a file in the format of `dpg_bench.csv`.
        folder: where a named prompt set is written.

    Raises:
        MissingFileError: no such name, table or prompt file.
        EvaluationError: the table breaks the format; the message names line and column.
    """
    path = _locate(data, DPG_DATA, folder, "dpg.data")
    questions = _dpg_questions(path)
    prompts = {item_id: path.parent / "prompts" / f"{item_id}.txt" for item_id in questions}
    for item_id, prompt in prompts.items():
        if not prompt.is_file():
            raise MissingFileError(
                f"{prompt}: not found, but {path} asks about item {item_id!r}. Restore the prompt file."
            )
    items = tuple(
        DpgItem(index, item_id, prompts[item_id].read_text(encoding="utf-8").strip(), tuple(questions[item_id]))
        for index, item_id in enumerate(questions)
    )
    return DpgData(data, items)


def _locate(data: str, named: dict[str, str], folder: Path, param: str) -> Path:
    if data in named:
        written: Path = resolve_name(named[data])(folder)
        return written
    if not Path(data).is_file():
        raise MissingFileError(
            f"{param} = {data!r}: no such file, and not one of the built-in sets ({', '.join(named)})."
        )
    return Path(data)


def read_geneval_line(line: str, index: int, where: str) -> GenEvalPrompt:
    """One line of metadata; `where` is what an error calls it.

    Raises:
        EvaluationError: the line breaks the format.
    """
    try:
        raw = json.loads(line)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: not valid JSON ({error}).") from error
    _check_keys(raw, {"tag", "include", "prompt"}, {"exclude"}, where)
    if raw["tag"] not in TAGS:
        raise EvaluationError(f"{where}: unknown tag {raw['tag']!r}; expected one of {', '.join(TAGS)}.")
    if not isinstance(raw["prompt"], str) or not raw["prompt"].strip():
        raise EvaluationError(f"{where}: `prompt` is empty.")
    include = _clauses(raw["include"], {"color", "position"}, f"{where}, include")
    exclude = _clauses(raw.get("exclude", []), set(), f"{where}, exclude")
    if not include:
        raise EvaluationError(f"{where}: `include` is empty, so every image would be correct.")
    return GenEvalPrompt(index, raw["tag"], raw["prompt"], include, exclude, raw)


def _clauses(raw: Any, optional: set[str], where: str) -> tuple[Clause, ...]:
    if not isinstance(raw, list):
        raise EvaluationError(f"{where}: expected a list of clauses, found {type(raw).__name__}.")
    return tuple(_clause(clause, optional, number, f"{where}[{number}]") for number, clause in enumerate(raw))


def _clause(raw: Any, optional: set[str], number: int, where: str) -> Clause:
    _check_keys(raw, {"class", "count"}, optional, where)
    if not isinstance(raw["count"], int) or raw["count"] < 1:
        raise EvaluationError(f"{where}: `count` is {raw['count']!r}; expected a whole number from 1.")
    color = raw.get("color")
    if color is not None and color not in COLORS:
        raise EvaluationError(f"{where}: unknown colour {color!r}; expected one of {', '.join(COLORS)}.")
    position = _position(raw["position"], number, where) if "position" in raw else None
    return Clause(str(raw["class"]), raw["count"], color, position)


def _position(raw: Any, number: int, where: str) -> tuple[str, int]:
    if not isinstance(raw, list) or len(raw) != 2 or raw[0] not in RELATIONS or not isinstance(raw[1], int):
        raise EvaluationError(f'{where}: `position` is {raw!r}; expected for example ["left of", 0].')
    if not 0 <= raw[1] < number:
        raise EvaluationError(f"{where}: `position` refers to clause {raw[1]}, which does not come before this one.")
    return raw[0], raw[1]


def _check_keys(raw: Any, required: set[str], optional: set[str], where: str) -> None:
    if not isinstance(raw, dict):
        raise EvaluationError(f"{where}: expected an object, found {type(raw).__name__}.")
    if missing := sorted(required - set(raw)):
        raise EvaluationError(f"{where}: `{missing[0]}` is missing.")
    if unknown := sorted(set(raw) - required - optional):
        raise EvaluationError(
            f"{where}: unknown key `{unknown[0]}`; expected {', '.join(sorted(required | optional))}."
        )


def _dpg_questions(path: Path) -> dict[str, list[DpgQuestion]]:
    """Questions by item id, items and questions in the order of the table."""
    questions: dict[str, list[DpgQuestion]] = {}
    lines: dict[tuple[str, int], int] = {}
    with path.open(encoding="utf-8", newline="") as stream:
        table = csv.DictReader(stream)
        for column in DPG_COLUMNS:
            if column not in (table.fieldnames or ()):
                found = ", ".join(table.fieldnames or ("nothing",))
                raise EvaluationError(f"{path}, line 1: column `{column}` is missing; found {found}.")
        for row_number, row in enumerate(table):
            item_id, question = _dpg_question(row, row_number, f"{path}, line {table.line_num}")
            key = item_id, question.number
            if key in lines:
                raise EvaluationError(
                    f"{path}, line {table.line_num}: proposition_id {question.number} of item {item_id!r} "
                    f"is already on line {lines[key]}."
                )
            lines[key] = table.line_num
            questions.setdefault(item_id, []).append(question)
    if not questions:
        raise EvaluationError(f"{path}: holds no questions.")
    _check_dependencies(path, questions, lines)
    return questions


def _dpg_question(row: dict[str, str | None], number: int, where: str) -> tuple[str, DpgQuestion]:
    for column in DPG_COLUMNS:
        if not (row[column] or "").strip():
            raise EvaluationError(f"{where}: column `{column}` is empty.")
    values = {column: str(row[column]).strip() for column in DPG_COLUMNS}
    own, *more = _numbers(values["proposition_id"], f"{where}, column `proposition_id`")
    if more:
        raise EvaluationError(
            f"{where}, column `proposition_id`: expected one number, found {values['proposition_id']!r}."
        )
    parents = _numbers(values["dependency"], f"{where}, column `dependency`")
    parents = tuple(parent for parent in parents if parent != NO_PARENT)
    return values["item_id"], DpgQuestion(own, parents, values["tuple"], values["question_natural_language"], number)


def _numbers(text: str, where: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise EvaluationError(f"{where}: {text!r} is not a whole number or a comma list of them.") from error


def _check_dependencies(path: Path, questions: dict[str, list[DpgQuestion]], lines: dict[tuple[str, int], int]) -> None:
    for item_id, asked in questions.items():
        numbers = {question.number for question in asked}
        for question in asked:
            if dangling := sorted(set(question.parents) - numbers):
                raise EvaluationError(
                    f"{path}, line {lines[item_id, question.number]}, column `dependency`: item {item_id!r} has no "
                    f"proposition {dangling[0]}; it has {', '.join(map(str, sorted(numbers)))}."
                )
