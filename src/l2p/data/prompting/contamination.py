"""Owns contamination: how much of a benchmark prompt a prompt repeats, in runs of n words.

Overlap is the share of one benchmark prompt's n-grams that the prompt holds, so 1 means that it holds all of it; a
benchmark prompt shorter than n words counts as one run.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from l2p.config import ContaminationParams
from l2p.data.prompting.files import read_candidates
from l2p.data.prompting.similarity import ngrams
from l2p.errors import DataError, MissingFileError

# name -> writers of the benchmarks' official files into a folder, each returning the main file's path
BUILT_IN = {"shapes": ("l2p.shapes.benchmarks:write_geneval", "l2p.shapes.benchmarks:write_dpg")}
NUM_EXAMPLES = 5

_PROMPT_COLUMNS = ("prompt", "text")


@dataclass(frozen=True)
class Overlap:
    """The benchmark prompt that is repeated most."""

    share: float
    benchmark: str
    prompt: str


class Benchmarks:
    """The prompts of all benchmarks, indexed by their n-grams; remembers the overlaps that it found."""

    def __init__(self, params: ContaminationParams) -> None:
        self._params = params
        self._prompts: list[tuple[str, str, int]] = []  # benchmark, text, number of n-grams
        self._holders: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self._lengths: set[int] = set()
        self._found: list[tuple[Overlap, str]] = []
        for name in params.benchmarks:
            for text in _benchmark_texts(name):
                self._add(name, text)

    def overlap(self, text: str) -> Overlap | None:
        """The largest overlap of `text`; None where it has no run in common with any benchmark."""
        counts: Counter[int] = Counter()
        for gram in set().union(*(ngrams(text, length) for length in self._lengths)):  # a short text's are the same
            counts.update(self._holders.get(gram, ()))
        if not counts:
            return None
        share, best = max((count / self._prompts[number][2], -number) for number, count in counts.items())
        benchmark, prompt, _ = self._prompts[-best]
        return Overlap(share, benchmark, prompt)

    def record(self, text: str, found: Overlap) -> None:
        """Remember for the report that an accepted text has this overlap."""
        self._found.append((found, text))

    def report(self) -> dict[str, Any]:
        """What was compared, and the overlaps of the accepted prompts, largest first."""
        largest = sorted(self._found, key=lambda item: (-item[0].share, item[1]))
        return {
            "benchmarks": dict(Counter(benchmark for benchmark, _, _ in self._prompts)),
            "ngram_words": self._params.ngram_words,
            "max_overlap": self._params.max_overlap,
            "accepted_with_overlap": len(largest),
            "largest_overlap": largest[0][0].share if largest else 0.0,
            "examples": [
                {"prompt": text, "overlap": found.share, "benchmark": found.benchmark, "benchmark_prompt": found.prompt}
                for found, text in largest[:NUM_EXAMPLES]
            ],
        }

    def _add(self, benchmark: str, text: str) -> None:
        grams = ngrams(text, self._params.ngram_words)
        if not grams:
            return
        for gram in grams:
            self._holders[gram].append(len(self._prompts))
            self._lengths.add(len(gram))
        self._prompts.append((benchmark, text, len(grams)))


def _benchmark_texts(name: str) -> list[str]:
    """The different prompts of a built-in benchmark or of a file."""
    if name not in BUILT_IN:
        return _texts_of(Path(name))
    with tempfile.TemporaryDirectory() as folder:
        files = [resolve_name(writer)(Path(folder) / str(number)) for number, writer in enumerate(BUILT_IN[name])]
        return [text for path in files for text in _texts_of(path)]


def _texts_of(path: Path) -> list[str]:
    """Prompts of GenEval's metadata lines, of a table, of text lines, or of DPG-Bench's `prompts` folder."""
    if not path.exists():
        raise MissingFileError(
            f"prompts.quality.contamination.benchmarks: {path} not found. `l2p benchmarks fetch` brings the official "
            "files; or take it off the list."
        )
    if path.is_dir():
        return _unique(file.read_text(encoding="utf-8") for file in sorted(path.glob("*.txt")))
    if (path.parent / "prompts").is_dir() and path.suffix == ".csv":  # DPG-Bench: a table of questions
        return _texts_of(path.parent / "prompts")
    if path.suffix == ".jsonl":
        return _unique(_prompt_of(line, path) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    return _unique(candidate.text for candidate in read_candidates(path))


def _prompt_of(line: str, path: Path) -> str:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: a line is not valid JSON ({error}). Fetch the file again.") from error
    for column in _PROMPT_COLUMNS:
        if isinstance(row, dict) and isinstance(row.get(column), str):
            return str(row[column])
    raise DataError(f"{path}: a line has neither `prompt` nor `text`: {line[:80]!r}. Is it a benchmark's file?")


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(stripped for text in texts if (stripped := text.strip())))
