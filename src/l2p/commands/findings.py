"""Owns the form in which a check reports what it found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BROKEN: Literal["broken"] = "broken"


@dataclass(frozen=True)
class Finding:
    """One line of `l2p doctor`. `broken` means that something required does not work; `note` that it may matter."""

    what: str
    found: str
    state: Literal["ok", "note", "broken"] = "ok"
    next_step: str = ""
