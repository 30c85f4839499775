"""Owns the hierarchy of subjects: main class -> subclass -> fine class, read from JSON files, one a main class.

A folder of one's own has the same form; `actions`, `settings` and `details` are needed by the grammar only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from l2p.config import Section, validate_section
from l2p.errors import DataError, MissingFileError

BUILT_IN = Path(__file__).parent
GRAMMAR_FILE = "grammar.json"

_Words = tuple[str, ...]


class Subclass(Section):
    """A group of fine classes with what its subjects do, where they are and what is seen of them."""

    classes: _Words = Field(min_length=1, description="Fine classes, each a noun phrase with its article.")
    actions: _Words = Field(default=(), description="What a subject may be doing: participles.")
    settings: _Words = Field(default=(), description="Where it may be: phrases with a preposition.")
    details: _Words = Field(default=(), description="What may be seen of it: noun phrases.")


class MainClass(Section):
    """One file of a taxonomy."""

    main_class: str = Field(min_length=1, description="Name of the main class.")
    subclasses: dict[str, Subclass] = Field(min_length=1, description="Subclasses by name.")


@dataclass(frozen=True)
class Subject:
    """One fine class in its place in the hierarchy."""

    main_class: str
    subclass: str
    fine_class: str
    words: Subclass

    @property
    def path(self) -> str:
        """The three names, outermost first."""
        return f"{self.main_class} > {self.subclass} > {self.fine_class}"


@dataclass(frozen=True)
class Taxonomy:
    """All main classes, in the order of their files' names."""

    main_classes: tuple[MainClass, ...]

    def by_subclass(self) -> list[list[Subject]]:
        """The subjects of every subclass."""
        return [
            [Subject(main.main_class, name, fine_class, words) for fine_class in words.classes]
            for main in self.main_classes
            for name, words in main.subclasses.items()
        ]

    def subjects(self, seed: int) -> Iterator[Subject]:
        """Endless subjects: subclasses take turns, and none repeats a fine class before it has shown all."""
        rng = random.Random(f"{seed}/subjects")
        turns = [_endless(group, random.Random(f"{seed}/{number}")) for number, group in enumerate(self.by_subclass())]
        while True:
            for turn in rng.sample(turns, len(turns)):
                yield next(turn)


def load_taxonomy(folder: str | None) -> Taxonomy:
    """Read the taxonomy in `folder`, or the built-in one.

    Raises:
        MissingFileError: no such folder, or no JSON file in it.
        ConfigError: a file breaks the form; the message names the field.
        DataError: a file is not JSON, or a fine class is named twice.
    """
    root = BUILT_IN if folder is None else Path(folder)
    paths = [path for path in sorted(root.glob("*.json")) if path.name != GRAMMAR_FILE]
    if not paths:
        raise MissingFileError(f"{root}: holds no JSON file. prompts.taxonomy.path must name a folder of main classes.")
    taxonomy = Taxonomy(tuple(validate_section(MainClass, read_object(path), str(path)) for path in paths))
    _refuse_repetitions(taxonomy, root)
    return taxonomy


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`.

    Raises:
        DataError: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}). Mend it; docs/prompts.md shows the form.") from error
    if not isinstance(found, dict):
        raise DataError(
            f"{path}: expected a JSON object, found {type(found).__name__}. docs/prompts.md shows the form."
        )
    return found


def _endless(group: list[Subject], rng: random.Random) -> Iterator[Subject]:
    while True:
        yield from rng.sample(group, len(group))


def _refuse_repetitions(taxonomy: Taxonomy, root: Path) -> None:
    places: dict[str, str] = {}
    for subject in (subject for group in taxonomy.by_subclass() for subject in group):
        if subject.fine_class in places:
            first = places[subject.fine_class]
            raise DataError(f"{root}: {subject.path!r} is already at {first!r}. Remove one of the two.")
        places[subject.fine_class] = subject.path
