"""Owns the quality rules: each candidate is let in or rejected with the name of one rule and what it found.

Rules are asked in the order of `RULES`, so a prompt has one reason; cheap rules come first.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2p.config import QualityParams
from l2p.data.prompting.candidates import Candidate, Rejection
from l2p.data.prompting.contamination import Benchmarks, Overlap
from l2p.data.prompting.language import other_language
from l2p.data.prompting.similarity import NearDuplicates
from l2p.errors import DataError, MissingFileError

BLANK, DUPLICATE, CLASS_SHARE = "blank", "duplicate", "class_share"
RULES = (
    BLANK,
    "control_characters",
    "too_short",
    "too_long",
    DUPLICATE,
    "blocklist",
    "language",
    CLASS_SHARE,
    "contamination",
    "near_duplicate",
)
UNUSABLE_ANSWER = "unusable_answer"  # of a language model: there is no text to ask the rules about


class Gate:
    """Judges candidates one after another; what it lets in counts for those that come later."""

    def __init__(self, params: QualityParams, count: int) -> None:
        self.rejections: list[Rejection] = []
        self._params = params
        self._blocked = _blocked_phrases(params)
        self._seen: dict[str, str] = {}
        self._by_class: Counter[str] = Counter()
        self._class_limit = math.ceil(params.max_class_share * count) if params.max_class_share is not None else None
        self._similar = NearDuplicates(params.max_similarity) if params.max_similarity is not None else None
        self._benchmarks = Benchmarks(params.contamination) if params.contamination.benchmarks else None
        self._rules: dict[str, Callable[[Candidate], str | None]] = {rule: getattr(self, f"_{rule}") for rule in RULES}

    def admit(self, candidate: Candidate) -> bool:
        """Whether `candidate` may stay; if not, its rejection is kept."""
        for reason, rule in self._rules.items():
            detail = rule(candidate)
            if detail is not None:
                self.reject(candidate, reason, detail)
                return False
        self._remember(candidate)
        return True

    def reject(self, candidate: Candidate, reason: str, detail: str) -> None:
        """Keep a rejection that no rule here makes."""
        self.rejections.append(Rejection(candidate, reason, detail))

    def has_room_for(self, style: str) -> bool:
        """Whether the class `style` may have more prompts."""
        return self._class_limit is None or self._by_class[style] < self._class_limit

    def contamination(self) -> dict[str, Any] | None:
        """The report on benchmarks; None where none is compared."""
        return self._benchmarks.report() if self._benchmarks else None

    def _remember(self, candidate: Candidate) -> None:
        self._seen[_normal(candidate.text)] = candidate.origin
        self._by_class[candidate.style] += 1
        if self._similar:
            self._similar.add(candidate.text)
        if overlap := self._overlap(candidate):
            self._benchmarks.record(candidate.text, overlap)  # type: ignore[union-attr]  # without it, no overlap

    def _overlap(self, candidate: Candidate) -> Overlap | None:
        return self._benchmarks.overlap(candidate.text) if self._benchmarks else None

    # One method a rule, in the order of RULES: what it found, or None.

    def _blank(self, candidate: Candidate) -> str | None:
        return None if candidate.text.strip() else "no text"

    def _control_characters(self, candidate: Candidate) -> str | None:
        bad = [sign for sign in candidate.text if unicodedata.category(sign) in ("Cc", "Cs") and not sign.isspace()]
        return f"holds {bad[0]!r}" if bad else None

    def _too_short(self, candidate: Candidate) -> str | None:
        length, least = len(candidate.text), self._params.min_length_chars
        return f"{length} characters, at least {least} wanted" if length < least else None

    def _too_long(self, candidate: Candidate) -> str | None:
        length, most = len(candidate.text), self._params.max_length_chars
        return f"{length} characters, at most {most} wanted" if most is not None and length > most else None

    def _duplicate(self, candidate: Candidate) -> str | None:
        earlier = self._seen.get(_normal(candidate.text))
        return None if earlier is None else f"the same as {earlier or 'an earlier one'}"

    def _blocklist(self, candidate: Candidate) -> str | None:
        found = self._blocked.search(candidate.text) if self._blocked else None
        return f"holds {found.group(0)!r}" if found else None

    def _language(self, candidate: Candidate) -> str | None:
        wanted = self._params.language
        other = other_language(candidate.text, wanted) if wanted is not None else None
        return f"{other}, not {wanted}" if other else None

    def _class_share(self, candidate: Candidate) -> str | None:
        return None if self.has_room_for(candidate.style) else f"{candidate.style} has its {self._class_limit} already"

    def _contamination(self, candidate: Candidate) -> str | None:
        limit = self._params.contamination.max_overlap
        overlap = self._overlap(candidate) if limit is not None else None
        if limit is None or overlap is None or overlap.share <= limit:
            return None
        return f"{overlap.share:.2f} of {overlap.prompt!r} ({overlap.benchmark})"

    def _near_duplicate(self, candidate: Candidate) -> str | None:
        match = self._similar.find(candidate.text) if self._similar else None
        return f"{match.similarity:.2f} like {match.text!r}" if match else None


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def _blocked_phrases(params: QualityParams) -> re.Pattern[str] | None:
    """One expression for all phrases, whole words, without regard to capitals and kinds of space."""
    phrases = [*params.blocklist, *(_phrases_of(Path(params.blocklist_path)) if params.blocklist_path else [])]
    spelled = [r"\s+".join(re.escape(word) for word in phrase.split()) for phrase in phrases if phrase.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelled)})(?!\w)", re.IGNORECASE) if spelled else None


def _phrases_of(path: Path) -> list[str]:
    if not path.is_file():
        raise MissingFileError(f"prompts.quality.blocklist_path: {path} not found. Expected one phrase a line.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError as error:
        raise DataError(f"{path}: not a UTF-8 text ({error}). Expected one phrase a line.") from error
    return [phrase for line in lines if (phrase := line.split("#")[0].strip())]
