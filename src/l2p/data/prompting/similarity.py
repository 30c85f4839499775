"""Owns near duplicates: word triples, MinHash to find candidates, and their exact Jaccard similarity to decide.

The hash functions are fixed, so the same texts in the same order give the same answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SHINGLE_WORDS = 3
NUM_HASHES = 64
# Looks for pairs well below the threshold: a hit is then measured, so a false one costs time and a missed one a hole.
_SEARCH_WEIGHTS = (0.1, 0.9)  # of false positives, of false negatives

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Match:
    """An earlier text and its similarity, from 0 to 1."""

    text: str
    similarity: float


def words(text: str) -> list[str]:
    """The words of `text`, without capitals and punctuation."""
    return _WORD.findall(text.casefold())


def ngrams(text: str, length: int) -> set[tuple[str, ...]]:
    """Runs of `length` words; of a shorter text, the whole."""
    found = words(text)
    length = min(length, len(found))
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)} if length else set()


class NearDuplicates:
    """Texts seen so far, and a search for one that is similar."""

    def __init__(self, max_similarity: float) -> None:
        from datasketch import MinHashLSH

        self._limit = max_similarity
        self._texts: list[tuple[str, set[tuple[str, ...]]]] = []
        self._index = MinHashLSH(threshold=max_similarity, num_perm=NUM_HASHES, weights=_SEARCH_WEIGHTS)

    def find(self, text: str) -> Match | None:
        """The most similar earlier text above the limit."""
        shingles = ngrams(text, SHINGLE_WORDS)
        found = [self._texts[number] for number in self._index.query(_min_hash(shingles))]
        matches = [Match(earlier, _jaccard(shingles, theirs)) for earlier, theirs in found]
        above = [match for match in matches if match.similarity > self._limit]
        return max(above, key=lambda match: (match.similarity, match.text), default=None)

    def add(self, text: str) -> None:
        """Remember `text`."""
        shingles = ngrams(text, SHINGLE_WORDS)
        self._index.insert(len(self._texts), _min_hash(shingles))
        self._texts.append((text, shingles))


def _min_hash(shingles: set[tuple[str, ...]]):  # type: ignore[no-untyped-def]  # MinHash is imported where it is used
    from datasketch import MinHash

    signature = MinHash(num_perm=NUM_HASHES, seed=1)
    signature.update_batch([" ".join(shingle).encode() for shingle in shingles])
    return signature


def _jaccard(one: set[tuple[str, ...]], other: set[tuple[str, ...]]) -> float:
    return len(one & other) / len(one | other) if one or other else 1.0
