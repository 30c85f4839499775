"""Owns a candidate prompt, a rejection, and the ids of prompts.

A prompt is identified by the first 12 hex digits of the SHA-256 of its text, unless its file brings ids of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from l2p.errors import DataError

COLUMNS = ["prompt_id", "text", "style"]
REJECTED_COLUMNS = ["origin", "text", "style", "reason", "detail"]
UNSTATED_STYLE = "unstated"

_OWN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")  # one plain file name, on every file system


@dataclass(frozen=True)
class Candidate:
    """A text that may become a prompt.

    `style` is its class; `origin` says where it comes from (file and line, or place in the taxonomy); `own_id` is the
    id that its file gives it; `classes` are further columns of its row, the same for all prompts of a set.
    """

    text: str
    style: str = UNSTATED_STYLE
    origin: str = ""
    own_id: str | None = None
    classes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejection:
    """A candidate that was not let in; `reason` is the name of a rule, `detail` what it found."""

    candidate: Candidate
    reason: str
    detail: str


def prompt_id(text: str) -> str:
    """First 12 hex digits of the SHA-256 of the UTF-8 text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def check_own_ids(candidates: Iterable[Candidate]) -> None:
    """Ids from a file must be plain names, each used once.

    Raises:
        DataError: an id that is empty, is no plain name, or is used twice; the message names the line.
    """
    places: dict[str, str] = {}
    for candidate in candidates:
        name = candidate.own_id
        if name is None:
            continue
        if not _OWN_ID.fullmatch(name):
            raise DataError(
                f"{candidate.origin}: id {name!r} is not allowed. Ids become file names: 1 to 64 letters, digits, "
                "dots, dashes and underscores, no dot or dash first."
            )
        folded = name.casefold()  # some file systems do not tell capitals apart
        if folded in places:
            raise DataError(
                f"{candidate.origin}: id {name!r} is already at {places[folded]}. Give each prompt its own."
            )
        places[folded] = candidate.origin


def require_plain_ids(ids: Iterable[object], *, where: str) -> None:
    """Ids become file names, so those of a stored table are checked again.

    Raises:
        DataError: names the first that is no plain name.
    """
    for name in ids:
        if not isinstance(name, str) or not _OWN_ID.fullmatch(name):
            raise DataError(f"{where}: prompt id {name!r} is no plain name. Delete it and run `l2p prompts` again.")


def prompt_table(candidates: list[Candidate]) -> pd.DataFrame:
    """Columns prompt_id, text, style, and the candidates' classes.

    Raises:
        DataError: two prompts share an id.
    """
    rows = [
        {"prompt_id": item.own_id or prompt_id(item.text), "text": item.text, "style": item.style} | item.classes
        for item in candidates
    ]
    table = pd.DataFrame(rows, columns=None if rows else COLUMNS)
    shared = table[table["prompt_id"].duplicated(keep=False)]
    if not shared.empty:
        raise DataError(
            f"two prompts share the id {shared['prompt_id'].iloc[0]}: {shared['text'].tolist()[:2]}. Remove one."
        )
    return table


def rejected_table(rejections: list[Rejection]) -> pd.DataFrame:
    """One row a rejection."""
    rows = [
        [
            encodable(value)
            for value in (item.candidate.origin, item.candidate.text, item.candidate.style, item.reason, item.detail)
        ]
        for item in rejections
    ]
    return pd.DataFrame(rows, columns=REJECTED_COLUMNS, dtype="str")


def encodable(text: str) -> str:
    """Halves of characters, which parquet cannot hold, as question marks."""
    return text.encode("utf-8", "replace").decode()
