"""Owns how candidates become a set of the wanted size: from a stream until it is full, or as a sample of a file."""

from __future__ import annotations

import importlib
import math
import random
from collections import Counter
from collections.abc import Iterator

from l2p.config import PromptsParams
from l2p.data.prompting.candidates import Candidate, check_own_ids
from l2p.data.prompting.quality import BLANK, CLASS_SHARE, DUPLICATE, Gate
from l2p.data.taxonomy.grammar import describe
from l2p.data.taxonomy.hierarchy import Subject, load_taxonomy
from l2p.errors import DataError

WORLDS = {"shapes": "l2p.shapes.provider:prompts"}  # name -> "module:function" of (count, seed)
MAX_REJECTED_IN_A_ROW = 1000  # a stream that gives nothing else has nothing else to give


def world_stream(name: str, count: int, seed: int) -> Iterator[Candidate]:
    """Prompts of a world, whose draw of a larger count begins with the same prompts."""
    module, function = WORLDS[name].split(":")
    provide = getattr(importlib.import_module(module), function)
    drawn = 0
    while True:
        rows = provide(drawn + count, seed)
        for number, row in enumerate(rows[drawn:], start=drawn):
            yield Candidate(row["text"], row["style"], f"{name}, draw {number}")
        drawn = len(rows)


def grammar_stream(params: PromptsParams) -> Iterator[Candidate]:
    """Endless descriptions of the taxonomy's subjects; the one at a place depends on the seed and its place alone."""
    wanted = params.taxonomy
    for number, subject in enumerate(load_taxonomy(wanted.path).subjects(params.seed)):
        rng = random.Random(f"{params.seed}/text/{number}")
        text = describe(subject, rng, length_chars=(wanted.min_length_chars, wanted.max_length_chars))
        yield candidate_of(subject, text)


def candidate_of(subject: Subject, text: str) -> Candidate:
    """A description of `subject`; its style is the subclass."""
    classes = {"main_class": subject.main_class, "fine_class": subject.fine_class}
    return Candidate(text, subject.subclass, subject.path, classes=classes)


def fill(gate: Gate, stream: Iterator[Candidate], count: int) -> list[Candidate]:
    """The first `count` candidates of `stream` that pass.

    Raises:
        DataError: nothing has passed for a long time.
    """
    accepted: list[Candidate] = []
    in_a_row = 0
    while len(accepted) < count:
        candidate = next(stream)
        in_a_row = 0 if gate.admit(candidate) else in_a_row + 1
        if in_a_row == 0:
            accepted.append(candidate)
        elif in_a_row >= MAX_REJECTED_IN_A_ROW:
            raise too_few(gate, len(accepted), count)
    return accepted


def sample(params: PromptsParams, candidates: list[Candidate], where: str) -> tuple[Gate, list[Candidate], int]:
    """Judge all of a file and draw `count` of those that pass, in the order of the file.

    Returns:
        The gate with all rejections, the drawn candidates, and how many had passed.

    Raises:
        DataError: an id that cannot be used, nothing that passes, or less than `count`.
    """
    check_own_ids(candidates)
    gate = Gate(params.quality.model_copy(update={"max_class_share": None}), params.count)  # the draw sees to shares
    passed = [candidate for candidate in candidates if gate.admit(candidate)]
    if not passed:
        raise DataError(
            f"{where}: holds no prompt{_because(gate)}. Expected one prompt a line, or a table with a column `text`."
        )
    if len(passed) < params.count:
        raise DataError(
            f"{where}: holds {len(passed)} different prompts{_because(gate)}, but prompts.count = {params.count}. "
            "Lower prompts.count, loosen prompts.quality, or add prompts."
        )
    rng = random.Random(params.seed)
    if params.quality.max_class_share is None:
        return gate, [passed[place] for place in sorted(rng.sample(range(len(passed)), params.count))], len(passed)
    return gate, _balanced(params, passed, gate, rng), len(passed)


def _balanced(params: PromptsParams, passed: list[Candidate], gate: Gate, rng: random.Random) -> list[Candidate]:
    limit = math.ceil((params.quality.max_class_share or 1.0) * params.count)
    by_class: Counter[str] = Counter()
    kept: list[int] = []
    for place in rng.sample(range(len(passed)), len(passed)):
        candidate = passed[place]
        if len(kept) == params.count:
            break
        if by_class[candidate.style] == limit:
            gate.reject(candidate, CLASS_SHARE, f"{candidate.style} has its {limit} already")
            continue
        by_class[candidate.style] += 1
        kept.append(place)
    if len(kept) < params.count:
        raise too_few(gate, len(kept), params.count)
    return [passed[place] for place in sorted(kept)]


def too_few(gate: Gate, accepted: int, count: int) -> DataError:
    """The error for a set that cannot be filled."""
    return DataError(
        f"only {accepted} of prompts.count = {count} prompts were accepted{_because(gate)}. "
        "Lower prompts.count or loosen the rules in prompts.quality."
    )


def _because(gate: Gate) -> str:
    """The commonest reasons of rejection, in words."""
    ordinary = (BLANK, DUPLICATE)
    reasons = Counter(rejection.reason for rejection in gate.rejections if rejection.reason not in ordinary)
    if not reasons:
        return ""
    return " (rejected: " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3)) + ")"
