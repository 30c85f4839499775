"""Owns lineage: which bytes a model came from, computed from those bytes themselves and never from dvc.lock.

`inputs` is a tree of SHA-256 digests, in the order of the pipeline; its root digest is the model's identity. `context`
(git commit, packages, hardware) is recorded beside it and may change without making the model another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from l2p.config import Layout, Params
from l2p.errors import LineageError
from l2p.files import read_json, require_below, sha256_file, sha256_json

if TYPE_CHECKING:
    import pandas as pd

# Sections of params.yaml that touch neither the model nor its scores.
NOT_INPUTS = ("efficiency", "evaluation", "fidelity", "register")
SCORES = "scores.json"
MODELS: tuple[Literal["source", "pixel"], ...] = ("source", "pixel")

_THREADS = 4
_SHORT = 12


@dataclass(frozen=True)
class Lineage:
    """What a model came from."""

    inputs: dict[str, Any]
    context: dict[str, Any]

    @property
    def root(self) -> str:
        """SHA-256 over all inputs."""
        return sha256_json(self.inputs)

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"root": self.root, "inputs": self.inputs, "context": self.context}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Lineage:
        """Read what `to_json` returned.

        Raises:
            LineageError: the root does not fit the inputs: the record was changed.
        """
        lineage = cls(value["inputs"], value["context"])
        if lineage.root != value["root"]:
            raise LineageError(
                f"recorded lineage: its root is {value['root'][:_SHORT]}, but its inputs give {lineage.root[:_SHORT]}. "
                "The record in the registry was changed; register the model again."
            )
        return lineage


def compute_lineage(params: Params, *, source_folder: Path, context: dict[str, Any]) -> Lineage:
    """Compute the lineage of `models/pixel` from the files of the project in the working directory.

    Args:
        params: of the project.
        source_folder: where the pinned source's files lie.
        context: what else to record, see `l2p.registry.context`.

    Raises:
        LineageError: an input is missing, is not what its own record says, or belongs to another model.
    """
    source = source_inputs(source_folder)
    pixel = folder_inputs(Layout.pixel, written_by="train")
    check_origin(source["digest"])
    inputs = {
        "source": source,
        "prompts": file_input(Layout.prompts_table, written_by="prompts"),
        "corpus": corpus_inputs(),
        "manifest": file_input(Layout.manifest, written_by="validate"),
        "embeddings": folder_inputs(Layout.embeddings, written_by="embed"),
        "init": folder_inputs(Layout.init, written_by="convert"),
        "params": params_inputs(params),
        "pixel": pixel,
        "scores": score_inputs(),
    }
    return Lineage(inputs, context)


def source_inputs(folder: Path) -> dict[str, Any]:
    """The pin, and that every pinned file still has its digest."""
    pin = read_json(Layout.source, written_by="l2p source")
    require_below(pin["files"], where=str(Layout.source))
    for name, digest in pin["files"].items():
        path = folder / name
        found = sha256_file(path) if path.is_file() else None
        if found != digest:
            raise LineageError(
                f"{path}: {_found(found)}, but {Layout.source} pins {digest[:_SHORT]}. Restore the source."
            )
    if sha256_json(pin["files"]) != pin["digest"]:
        raise LineageError(f"{Layout.source}: `digest` does not fit `files`. Pin again with `l2p source`.")
    return {"digest": pin["digest"], "files": pin["files"]}


def corpus_inputs() -> dict[str, Any]:
    """Digest over all (file name, sha256) pairs, after hashing every image again."""
    import pandas as pd

    table = file_input(Layout.corpus_table, written_by="synthesize")
    rows = pd.read_parquet(Layout.corpus_table, columns=["file_name", "sha256"]).sort_values("file_name")
    require_below(rows["file_name"], where=str(Layout.corpus_table))
    _check_images(rows)
    pairs = [list(pair) for pair in rows.itertuples(index=False, name=None)]
    return {"digest": sha256_json(pairs), "images": len(pairs), "table": table}


def params_inputs(params: Params) -> dict[str, str]:
    """One digest per section that touches the model or its scores."""
    sections = params.model_dump(mode="json", by_alias=True)
    return {name: sha256_json(section) for name, section in sections.items() if name not in NOT_INPUTS}


def score_inputs() -> dict[str, str]:
    """Digest of each score with its card."""
    return {
        f"{folder.name}/{model}": file_input(folder / model / SCORES, written_by=folder.name)
        for folder in (Layout.geneval, Layout.dpg)
        for model in MODELS
    }


def file_input(path: Path, *, written_by: str) -> str:
    """SHA-256 of one file."""
    if not path.is_file():
        raise LineageError(f"{path}: missing, so lineage cannot be computed. `dvc repro {written_by}` writes it.")
    return sha256_file(path)


def folder_inputs(folder: Path, *, written_by: str) -> dict[str, str]:
    """SHA-256 of every finished file in a folder, by name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".partial")
    if not paths:
        raise LineageError(
            f"{folder}: missing or empty, so lineage cannot be computed. `dvc repro {written_by}` writes it."
        )
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def check_origin(source_digest: str) -> None:
    """The pixel model's own card must name the source that is pinned now, and the weights that lie beside it.

    Raises:
        LineageError: it names others.
    """
    card_file = Layout.pixel / "delta.json"
    card = read_json(card_file, written_by="l2p train")
    if card["source"]["digest"] != source_digest:
        raise LineageError(
            f"{card_file}: converted from source {card['source']['digest'][:_SHORT]}, but {Layout.source} pins "
            f"{source_digest[:_SHORT]}. Run `dvc repro train`."
        )
    weights = Layout.pixel / "delta.safetensors"
    found = file_input(weights, written_by="train")
    if found != card["weights_sha256"]:
        raise LineageError(
            f"{weights}: {_found(found)}, but {card_file} says {card['weights_sha256'][:_SHORT]}. Restore it."
        )


def first_difference(recorded: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first input, in pipeline order, in which two trees differ, as a sentence; None when they agree."""
    for name in [*recorded, *(name for name in found if name not in recorded)]:
        old, new = recorded.get(name), found.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            deeper = first_difference(old, new, f"{prefix}{name} > ")
            if deeper is not None:
                return deeper
        elif old != new:
            return f"{prefix}{name} is {_shown(new)}, registered was {_shown(old)}"
    return None


def verify(recorded: Lineage, found: Lineage) -> None:
    """Compare a recorded lineage with one just computed.

    Raises:
        LineageError: names the first input that differs.
    """
    difference = first_difference(recorded.inputs, found.inputs)
    if difference is not None:
        raise LineageError(
            f"lineage: {difference}. These are not the inputs the model was registered with: restore them "
            "(`git checkout`, `dvc checkout`) or register what is there (`dvc repro`)."
        )


def _check_images(rows: pd.DataFrame) -> None:
    for name, digest, found in _hash_images(rows):
        if found != digest:
            raise LineageError(
                f"{Layout.corpus / name}: {_found(found)}, but {Layout.corpus_table} says {digest[:_SHORT]}. "
                "Restore it, or delete it and run `dvc repro synthesize`."
            )


def _hash_images(rows: pd.DataFrame) -> Iterator[tuple[str, str, str | None]]:
    """(file name, recorded digest, found digest or None) of every image; hashing frees the lock, so threads help."""
    from tqdm import tqdm

    def digest(name: str) -> str | None:
        path = Layout.corpus / name
        return sha256_file(path) if path.is_file() else None

    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(digest, rows["file_name"])
        progress = tqdm(found, total=len(rows), desc="hash corpus", unit="image", disable=None)
        yield from zip(rows["file_name"], rows["sha256"], progress, strict=True)


def _found(digest: str | None) -> str:
    return "missing" if digest is None else f"has sha256 {digest[:_SHORT]}"


def _shown(value: Any) -> str:
    if value is None:
        return "absent"
    return value[:_SHORT] if isinstance(value, str) else str(value)
