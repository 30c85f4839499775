"""Owns which images belong together: those of the same name in two folders, and the prompt of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.images import read_card
from l2p.files import sha256_json

_GRID = "grid.png"  # GenEval's overview of a prompt's images, not an image


@dataclass(frozen=True)
class ImagePair:
    """An image of the reference and its counterpart; `prompt` is None where neither says it."""

    name: str
    reference: Path
    other: Path
    prompt: str | None

    @property
    def group(self) -> str:
        """Images of one prompt are not independent; without a prompt each image stands for itself."""
        return self.prompt or self.name


@dataclass(frozen=True)
class Pairs:
    """All pairs by name, and the names that only one folder has."""

    pairs: tuple[ImagePair, ...]
    unpaired: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over names and prompts."""
        return sha256_json([[pair.name, pair.prompt] for pair in self.pairs])

    def strata(self) -> list[int]:
        """Number of each pair's prompt."""
        numbers: dict[str, int] = {}
        return [numbers.setdefault(pair.group, len(numbers)) for pair in self.pairs]


def find_pairs(reference: Path, other: Path) -> Pairs:
    """Pair the PNG files below two folders by their relative names.

    Raises:
        MissingFileError: a folder is not there.
        EvaluationError: no name is in both.
    """
    names = [_names(folder) for folder in (reference, other)]
    common = sorted(names[0] & names[1])
    if not common:
        raise EvaluationError(
            f"{reference} and {other}: no PNG file has the same name in both, so nothing is compared."
        )
    pairs = (ImagePair(name, reference / name, other / name, _prompt(reference / name)) for name in common)
    return Pairs(tuple(pairs), tuple(sorted(names[0] ^ names[1])))


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise MissingFileError(f"{folder}: no such folder of images.")
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png") if path.name != _GRID}


def _prompt(path: Path) -> str | None:
    card = read_card(path)
    if isinstance(card, dict) and isinstance(card.get("prompt"), str):
        return str(card["prompt"])
    metadata = path.parent.parent / "metadata.jsonl"
    if path.parent.name == "samples" and metadata.is_file():
        return str(json.loads(metadata.read_text(encoding="utf-8"))["prompt"])
    return None
