"""Owns the links of a registered version, one by one: which hold, which are broken, which cannot be reached from here.

A link ties something that the version's record names to the bytes that are there now: registry, weights, inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from l2p.config import Layout, Params
from l2p.errors import DataError, L2PError, LineageError, SourceError
from l2p.files import read_json
from l2p.registry import lineage as lineages
from l2p.registry.evidence import LINEAGE_FILE
from l2p.registry.lineage import MODELS, SCORES, Lineage
from l2p.registry.record import check_tags, read_record
from l2p.registry.references import WEIGHTS
from l2p.registry.run_files import check_run_files
from l2p.registry.store import Store
from l2p.registry.verify import SAMPLE_FILE, check_drawing, check_weights, draw
from l2p.registry.versions import DRAWING_TAG, ROOT_TAG, TAG_PREFIX, WEIGHTS_TAG, ModelRegistry, ModelVersion

_SHORT = 12
_PULL = "`dvc pull` or `dvc repro` brings it"


class State(StrEnum):
    """What is known of a link."""

    HOLDS = "holds"
    BROKEN = "broken"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True)
class Link:
    """One link: its name, its state, and what was found."""

    name: str
    state: State
    told: str


@dataclass(frozen=True)
class _Input:
    """An input of the lineage: where it lies and how its record is computed again."""

    name: str
    places: tuple[Path, ...]
    compute: Callable[[], Any]


def check_links(
    store: Store,
    registry: ModelRegistry,
    version: ModelVersion,
    params: Params,
    find_source: Callable[[], Path],
) -> Iterator[Link]:
    """Check every link of `version` in the project of the working directory; a broken one does not stop the others.

    Args:
        store: of the version's run.
        registry: of the version.
        version: to check.
        params: of the project.
        find_source: gives the folder of the pinned source's files.
    """
    try:
        recorded = _recorded(store, version)
    except (LineageError, DataError) as error:
        yield Link("record", State.BROKEN, str(error))
        return
    except L2PError as error:
        yield Link("record", State.UNREACHABLE, str(error))
        return
    yield Link("record", State.HOLDS, f"lineage root {recorded.root[:_SHORT]} in registry and run")
    yield attempt("tags", lambda: _tags(store, version))
    yield attempt("run's files", lambda: _run_files(store, version, recorded))
    for item in _inputs(params, find_source):
        yield _check_input(item, recorded)
    yield attempt("registered weights", lambda: _weights(registry, version))
    yield attempt("drawing", lambda: _drawing(store, registry, version))


def _recorded(store: Store, version: ModelVersion) -> Lineage:
    missing = [tag for tag in (WEIGHTS_TAG, ROOT_TAG, DRAWING_TAG) if tag not in version.tags]
    if missing:
        raise LineageError(f"{version}: has no tag {missing[0]}, so it was not registered by `l2p register`.")
    recorded = Lineage.from_json(read_json(store.fetch(version.run_id, LINEAGE_FILE), written_by="l2p register"))
    if recorded.root != version.tags[ROOT_TAG]:
        raise LineageError(f"{version}: its tag {ROOT_TAG} and its run's {LINEAGE_FILE} differ: one was changed.")
    return recorded


def _inputs(params: Params, find_source: Callable[[], Path]) -> Iterator[_Input]:
    yield _Input("source", (Layout.source,), lambda: lineages.source_inputs(find_source()))
    files = (("prompts", Layout.prompts_table), ("manifest", Layout.manifest))
    folders = (("embeddings", Layout.embeddings), ("init", Layout.init), ("pixel", Layout.pixel))
    for name, path in files:
        yield _Input(name, (path,), lambda path=path, name=name: lineages.file_input(path, written_by=name))  # type: ignore[misc]
    yield _Input("corpus", (Layout.corpus_table,), lineages.corpus_inputs)
    for name, path in folders:
        yield _Input(name, (path,), lambda path=path, name=name: lineages.folder_inputs(path, written_by=name))  # type: ignore[misc]
    yield _Input("params", (Path("params.yaml"),), lambda: lineages.params_inputs(params))
    scores = tuple(folder / model / SCORES for folder in (Layout.geneval, Layout.dpg) for model in MODELS)
    yield _Input("scores", scores, lineages.score_inputs)


def _check_input(item: _Input, recorded: Lineage) -> Link:
    away = [place for place in item.places if not place.exists()]
    if away:
        return Link(item.name, State.UNREACHABLE, f"{away[0]} is not here; {_PULL}")
    try:
        found = item.compute()
    except SourceError as error:  # the folder or repository that the pin names is away
        return Link(item.name, State.UNREACHABLE, str(error))
    except L2PError as error:
        return Link(item.name, State.BROKEN, str(error))
    difference = lineages.first_difference({item.name: recorded.inputs.get(item.name)}, {item.name: found})
    if difference is not None:
        return Link(item.name, State.BROKEN, difference)
    return Link(item.name, State.HOLDS, f"{item.places[0]} {_digest(found)}")


def _digest(found: Any) -> str:
    if isinstance(found, str):
        return found[:_SHORT]
    if "digest" in found:
        return str(found["digest"])[:_SHORT]
    return f"{len(found)} digests"


def attempt(name: str, check: Callable[[], str]) -> Link:
    """A link that holds if `check` returns what to tell, and is broken or unreachable by what it raises."""
    try:
        return Link(name, State.HOLDS, check())
    except LineageError as error:
        return Link(name, State.BROKEN, str(error))
    except L2PError as error:  # a store, a source or a file that is away
        return Link(name, State.UNREACHABLE, str(error))


def _tags(store: Store, version: ModelVersion) -> str:
    check_tags(read_record(store, version), version)
    return f"{sum(name.startswith(TAG_PREFIX) for name in version.tags)} tags in registry and run"


def _run_files(store: Store, version: ModelVersion, recorded: Lineage) -> str:
    record = read_record(store, version)
    return check_run_files(store, version, recorded, () if record is None else record.redacted)


def _weights(registry: ModelRegistry, version: ModelVersion) -> str:
    delta = registry.download_delta_of(version.source)
    check_weights(delta, version.tags[WEIGHTS_TAG])
    where = f", by reference to {(delta / WEIGHTS).resolve()}" if (delta / WEIGHTS).is_symlink() else ""
    return f"sha256 {version.tags[WEIGHTS_TAG][:_SHORT]}{where}"


def _drawing(store: Store, registry: ModelRegistry, version: ModelVersion) -> str:
    check_drawing(draw(store, registry, version), store.fetch(version.run_id, SAMPLE_FILE), name=str(version))
    return "the registered model draws what it drew when it was registered"
