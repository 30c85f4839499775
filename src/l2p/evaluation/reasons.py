"""Owns saying in plain words why GenEval found an image wrong; the official reasons are terse and name no target."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOO_FEW = re.compile(r"expected (?P<label>.+)>=(?P<wanted>\d+), found (?P<found>\d+)")
_TOO_MANY = re.compile(r"expected (?P<label>.+)<(?P<limit>\d+), found (?P<found>\d+)")
_COLOR = re.compile(r"expected (?P<object>.+)>=(?P<wanted>\d+), found (?P<found>\d+) (?P<color>\w+); and (?P<seen>.*)")
_PLACE = re.compile(
    r"expected (?P<label>.+?) (?P<relation>left of|right of|above|below) target, found (?P<seen>.+) target"
)
_NO_TARGET = re.compile(r"no target for (?P<label>.+) to be (?P<relation>left of|right of|above|below)")
_NO_RELATION = "no relation to"


def plain_reasons(reason: str, metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence for each fault.

    Args:
        reason: of a result, one line for each fault; lines of an unknown form are kept as they are.
        metadata: the prompt's line of GenEval, which tells what a position refers to.
    """
    return tuple(_plain(line, metadata) for line in reason.splitlines() if line)


def _plain(line: str, metadata: Mapping[str, Any]) -> str:
    forms: list[tuple[re.Pattern[str], Callable[[dict[str, str]], str]]] = [
        (_COLOR, _say_color),
        (_TOO_FEW, lambda at: f"{at['label']}: {at['wanted']} expected, {_number(at['found'])} found"),
        (_TOO_MANY, lambda at: f"{at['label']}: {int(at['limit']) - 1} expected, {at['found']} found"),
        (_PLACE, lambda at: _say_place(at, _target(at, metadata))),
        (_NO_TARGET, lambda at: f"{at['label']}: no matching {_target(at, metadata)} to be {at['relation']}"),
    ]
    for pattern, say in forms:
        if match := pattern.fullmatch(line):
            return say(match.groupdict())
    return line


def _say_color(at: dict[str, str]) -> str:
    seen = [part for part in at["seen"].split(", ") if not part.endswith(f" {at['color']}")]
    instead = f" ({', '.join(seen)})" if seen else ""
    return f"{at['object']}: {at['wanted']} expected, {_number(at['found'])} found{instead}"


def _say_place(at: dict[str, str], target: str) -> str:
    seen = "stands in no clear direction from it" if at["seen"] == _NO_RELATION else f"is {at['seen']} it"
    return f"{at['label']}: expected {at['relation']} the {target}, {seen}"


def _target(at: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Class of the object that a clause's position refers to."""
    clauses = metadata["include"]
    for clause in clauses:
        if clause["class"] == at["label"] and (clause.get("position") or [None])[0] == at["relation"]:
            return str(clauses[clause["position"][1]]["class"])
    return "other object"


def _number(count: str) -> str:
    return "none" if count == "0" else count
