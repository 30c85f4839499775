"""Owns what a registered version's record says, as a tree: version, run, weights, training, corpus, prompts, source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from l2p.config import Layout
from l2p.errors import L2PError
from l2p.files import read_json
from l2p.registry.evidence import HOURS_FILE, LINEAGE_FILE
from l2p.registry.gate import TITLES
from l2p.registry.lineage import Lineage
from l2p.registry.store import Store
from l2p.registry.versions import DRAWING_TAG, SCORES_TAG, WEIGHTS_TAG, ModelVersion

_SHORT = 12
_UNSET = "None"  # as MLflow keeps a parameter that is null
_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Node:
    """One step back: its title, and what is recorded of it, a line each."""

    title: str
    lines: tuple[str, ...]


def describe(store: Store, version: ModelVersion) -> list[Node]:
    """From the version back to its source.

    Raises:
        RegistryError: the store cannot be read.
        LineageError: the record was changed.
    """
    lineage = Lineage.from_json(read_json(store.fetch(version.run_id, LINEAGE_FILE), written_by="l2p register"))
    run = store.client.get_run(version.run_id)
    inputs, context = lineage.inputs, lineage.context
    weights, kept = version.tags[WEIGHTS_TAG][:_SHORT], _dvc(context, Layout.pixel)
    return [
        Node(f"version {version}", tuple(_version(version))),
        Node(f"run {version.run_id[:_SHORT]}", tuple(_run(run, context))),
        Node(
            "weights (delta)",
            (
                f"sha256 {weights}{kept}, in {len(inputs['pixel'])} files",
                *_training(store, version),
                *_settings(run.data.params, "convert"),
                *_settings(run.data.params, "train"),
            ),
        ),
        Node("corpus", tuple(_corpus(store, version, lineage, run.data.params))),
        Node(
            "prompts",
            (
                f"sha256 {inputs['prompts'][:_SHORT]}{_dvc(context, Layout.prompts)}",
                *_settings(run.data.params, "prompts"),
            ),
        ),
        Node("source", tuple(_source(store, version, inputs, run.data.params))),
    ]


def _version(version: ModelVersion) -> Iterator[str]:
    yield f"aliases: {', '.join(f'@{alias}' for alias in version.aliases) or 'none'}"
    for name, score in json.loads(version.tags[SCORES_TAG]).items():
        interval = score["interval"]
        sure = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
        kept = "not measured" if score["retention"] is None else f"{score['retention']:.3f}{sure}"
        yield f"{TITLES[name]}: source {score['source']:.3f}, pixel {score['pixel']:.3f}, retention {kept}"
    drawing = json.loads(version.tags[DRAWING_TAG])
    yield f"draws {drawing['width_px']}x{drawing['height_px']} px, {drawing['num_steps']} steps"


def _run(run: Any, context: Mapping[str, Any]) -> Iterator[str]:
    began = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    yield f"{run.info.run_name}, {run.info.status.lower()}, {began:%Y-%m-%d %H:%M} UTC"
    git = context["git"]
    state = "with changes" if git and git["dirty"] else "clean"
    yield f"code: commit {git['commit'][:_SHORT]}, {state}" if git else "code: not in git"
    environment, hardware = context["environment"], context["hardware"]
    yield (
        f"environment: l2p {environment['l2p']}, Python {environment['python']}, {environment['packages']} packages "
        f"(sha256 {environment['packages_sha256'][:_SHORT]})"
    )
    yield f"registered on: {', '.join(hardware['gpus']) or 'no GPU'}, {hardware['cpus']} CPUs, {hardware['machine']}"


def _training(store: Store, version: ModelVersion) -> Iterator[str]:
    result = _artifact(store, version, "training/result.json")
    if result is None:
        return
    processes = result.get("num_processes", 1)
    hours = result["seconds"] * processes / _SECONDS_PER_HOUR
    yield (
        f"trained {result['trainable_parameters']:,} of {result['total_parameters']:,} parameters, {result['steps']} "
        f"steps, loss {result['final_loss']:.4f}"
    )
    yield f"{processes} process(es) on {result['device']}, {hours:.2f} device hours"
    spent = _artifact(store, version, f"project/{HOURS_FILE}")
    if spent:
        parts = ", ".join(f"{stage} {value:.3f}" for stage, value in spent.items() if stage != "total")
        yield f"device hours in all: {spent['total']:.3f} ({parts})"


def _corpus(store: Store, version: ModelVersion, lineage: Lineage, params: Mapping[str, str]) -> Iterator[str]:
    corpus, context = lineage.inputs["corpus"], lineage.context
    yield f"{corpus['images']} images, sha256 of all {corpus['digest'][:_SHORT]}{_dvc(context, Layout.corpus)}"
    yield f"manifest sha256 {lineage.inputs['manifest'][:_SHORT]}{_dvc(context, Layout.manifest)}"
    yield from _settings(params, "synthesize")
    validation = _artifact(store, version, "validation/result.json")
    if validation is not None and "accepted" in validation:
        yield f"validation: {validation['accepted']} accepted, {validation['rejected']} in quarantine"


def _source(store: Store, version: ModelVersion, inputs: Mapping[str, Any], params: Mapping[str, str]) -> Iterator[str]:
    source = inputs["source"]
    revision = params.get("source.revision", _UNSET)
    yield params.get("source.path", "unknown") + ("" if revision == _UNSET else f", revision {revision}")
    yield f"{len(source['files'])} files, sha256 of all {source['digest'][:_SHORT]}"
    pin = _artifact(store, version, f"project/{Layout.source.name}") or {}
    yield f"licence {pin.get('licence') or 'not named by the source'}"


def _dvc(context: Mapping[str, Any], path: Path) -> str:
    """The digest by which DVC keeps the file or folder, if it did at registration."""
    digest = context.get("dvc", {}).get(path.as_posix())
    return f", DVC {digest[:_SHORT]}{'.dir' if digest.endswith('.dir') else ''}" if digest else ""


def _settings(params: Mapping[str, str], section: str) -> Iterator[str]:
    found = [
        f"{name.partition('.')[2]} {value}"
        for name, value in params.items()
        if name.startswith(f"{section}.") and value != _UNSET
    ]
    if found:
        yield f"{section}: {', '.join(sorted(found))}"


def _artifact(store: Store, version: ModelVersion, name: str) -> Any:
    """A JSON file of the version's run; None if it has none, as runs of earlier versions."""
    try:
        return read_json(store.fetch(version.run_id, name), written_by="l2p register")
    except L2PError:
        return None
