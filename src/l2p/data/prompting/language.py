"""Owns the language of a text: py3langid, which brings its model of 140 languages and needs no network.

A short text is often uncertain; it is rejected only where another language is probable.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from l2p.errors import ConfigError

MIN_PROBABILITY = 0.8  # of the other language


def other_language(text: str, wanted: str) -> str | None:
    """Code of the language that `text` is in, where it is surely not `wanted`; otherwise None.

    The code `zxx` means no language at all: codes, keyboard noise.

    Raises:
        ConfigError: `wanted` is not a language that can be told.
    """
    identifier = _identifier()
    if wanted not in identifier.labels:
        known = ", ".join(sorted(identifier.labels))
        raise ConfigError(f"prompts.quality.language = {wanted!r}: not known. Choose one of {known}, or null.")
    found, probability = identifier.classify(text)
    return str(found) if found != wanted and probability >= MIN_PROBABILITY else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
