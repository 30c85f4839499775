"""Owns what must hold of the images of a corpus: none lost, none twice, each with the bytes that are recorded of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import Layout
from l2p.files import sha256_file


@dataclass(frozen=True)
class Violation:
    """One breach of one invariant."""

    invariant: str
    told: str


def check_images(root: Path, expected: int | None = None) -> Iterator[Violation]:
    """Journal, table and folder of the corpus name the same images once each, with the bytes that they have."""
    folder = root / Layout.corpus
    attempts = drawn_attempts(folder / "journal.jsonl")
    last = {name: digest for (name, _), digest in sorted(attempts)}  # an image that was drawn again has several
    table = pd.read_parquet(root / Layout.corpus_table)
    times = Counter(key for key, _ in attempts)
    yield from (Violation("duplicated image", f"{key} {times[key]} times in the journal") for key in twice(times))
    yield from check_table(table, folder, "table")
    yield from compare_names("journal", set(last), images_in(folder))
    if expected is not None and len(table) != expected:
        yield Violation("lost image", f"{len(table)} images in the table, {expected} without a fault")
    for name, digest in zip(table["file_name"], table["sha256"], strict=True):
        if last.get(name) != digest:
            yield Violation("digest", f"{name}: journal and table differ")
    if (root / Layout.rejected).is_dir():
        yield from check_table(pd.read_parquet(root / Layout.rejected / "metadata.parquet"), root / Layout.rejected)


def check_table(table: pd.DataFrame, folder: Path, name: str = "table of the rejected") -> Iterator[Violation]:
    """A table names the images of its folder once each, with their digests."""
    times, there = Counter(table["file_name"]), images_in(folder)
    yield from (Violation("duplicated image", f"{image} {times[image]} times in the {name}") for image in twice(times))
    yield from compare_names(name, set(times), there)
    for image, digest in zip(table["file_name"], table["sha256"], strict=True):
        if image in there and sha256_file(folder / image) != digest:
            yield Violation("digest", f"{image}: its bytes are not those of the {name}")


def compare_names(place: str, named: set[str], there: set[str]) -> Iterator[Violation]:
    """What is named and not there is lost; what is there and not named is stray."""
    yield from (Violation("lost image", f"{name} is in the {place} only") for name in sorted(named - there))
    yield from (Violation("stray image", f"{name} is not in the {place}") for name in sorted(there - named))


def drawn_attempts(journal: Path) -> list[tuple[tuple[str, int], str]]:
    """((file name, attempt), digest) of every image that a journal names, as often as it does."""
    found = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        batch = json.loads(line)
        attempts = {row["file_name"]: row["attempt"] for row in batch["rows"]}
        found += [((name, attempts[name]), digest) for name, digest in batch["sha256"].items()]
    return found


def images_in(folder: Path) -> set[str]:
    """File names of the images below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def twice(times: Counter[Any]) -> list[Any]:
    """What was counted more than once."""
    return [key for key, count in times.items() if count > 1]
