"""Owns the grammar that turns a subject into a description offline: sentence patterns with slots, drawn by seed."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

from l2p.data.taxonomy.hierarchy import BUILT_IN, GRAMMAR_FILE, Subject, read_object
from l2p.errors import DataError

MAX_TRIES = 200  # draws until one has the wanted length; the built-in words need two on average
_ANY_SHOT = "objects and spaces"  # for main classes that the grammar does not know
_SHARED = {"light": "lights", "palette": "palettes", "composition": "compositions", "mood": "moods"}


def describe(subject: Subject, rng: random.Random, *, length_chars: tuple[int, int]) -> str:
    """Draw a description of `subject` whose length lies in `length_chars`, both ends included.

    Raises:
        DataError: the subclass lacks words, or its words are too short or too long for that length.
    """
    _check_words(subject)
    shortest, longest = length_chars
    for _ in range(MAX_TRIES):
        text = _draw(subject, rng)
        if shortest <= len(text) <= longest:
            return text
    raise DataError(
        f"{subject.path}: no description of {shortest} to {longest} characters in {MAX_TRIES} draws, the last has "
        f"{len(text)}. Change prompts.taxonomy.min_length_chars and max_length_chars, or the words of the subclass."
    )


def hints(rng: random.Random, main_class: str) -> dict[str, str]:
    """Kind of picture, light, composition, palette and mood, drawn by `rng`."""
    grammar = _grammar()
    shots = grammar["shots"].get(main_class) or grammar["shots"][_ANY_SHOT]
    return {"shot": rng.choice(shots)} | {slot: rng.choice(grammar[words]) for slot, words in _SHARED.items()}


def _draw(subject: Subject, rng: random.Random) -> str:
    grammar = _grammar()
    detail, detail2 = rng.sample(subject.words.details, 2)
    slots = hints(rng, subject.main_class) | {
        "finish": rng.choice(grammar["finishes"]),
        "subject": subject.fine_class,
        "action": rng.choice(subject.words.actions),
        "setting": rng.choice(subject.words.settings),
        "detail": detail,
        "detail2": detail2,
    }
    slots |= {name.capitalize(): _capital(words) for name, words in slots.items()}
    rest = [grammar[kind] for kind in ("detail_sentences", "light_sentences", "frame_sentences")]
    patterns = [grammar["openings"], *rng.sample(rest, rng.choice((2, 3, 3)))]
    return " ".join(rng.choice(kind).format_map(slots) for kind in patterns)


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _check_words(subject: Subject) -> None:
    needed = {"actions": 1, "settings": 1, "details": 2}
    lacking = [name for name, least in needed.items() if len(getattr(subject.words, name)) < least]
    if lacking:
        raise DataError(
            f"{subject.main_class} > {subject.subclass}: the grammar needs {needed[lacking[0]]} or more words in "
            f"`{lacking[0]}`. Add them, or set prompts.taxonomy.expand to llm."
        )


@cache
def _grammar() -> dict[str, Any]:
    return read_object(BUILT_IN / GRAMMAR_FILE)
