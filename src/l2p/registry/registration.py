"""Owns registering a pixel model: found again or registered anew, loaded back and drawn from, then its aliases.

The same weights with the same lineage are one version, however often they are registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from l2p.config import Layout, Params
from l2p.files import read_json, sha256_file, sha256_json
from l2p.redact import redact_values
from l2p.registry import card, served
from l2p.registry.evidence import CARD_FILE, log_evidence
from l2p.registry.gate import Decision, Thresholds, decide, scores_of
from l2p.registry.lineage import Lineage
from l2p.registry.logged_model import model_files
from l2p.registry.record import RECORD_FILE, Record
from l2p.registry.references import MB
from l2p.registry.store import Store
from l2p.registry.verify import SAMPLE_FILE, check_version, check_weights
from l2p.registry.versions import (
    CANDIDATE,
    CHAMPION,
    COMMIT_TAG,
    DRAWING_TAG,
    FILES_TAG,
    GATE_TAG,
    ORIGIN_TAG,
    ROOT_TAG,
    SCORES_TAG,
    WEIGHTS_TAG,
    ModelRegistry,
    ModelVersion,
)


@dataclass(frozen=True)
class Registration:
    """Outcome of a registration; `version` carries the aliases it has now."""

    version: ModelVersion
    is_new: bool
    decision: Decision

    def model(self) -> dict[str, Any]:
        """Name, version and aliases, as reports/summary.json has them."""
        return {"name": self.version.name, "version": self.version.version, "aliases": list(self.version.aliases)}


def register(params: Params, *, summary: Mapping[str, Any], lineage: Lineage, drawing: served.Drawing) -> Registration:
    """Register `models/pixel`, or find it registered; either way load it from the store and draw.

    Args:
        params: of the project.
        summary: scores and efficiency, as the report wrote them.
        lineage: of the model, just computed.
        drawing: example and check.

    Raises:
        RegistryError: the model does not load from the store and draw, or the store refuses.
        LineageError: the registered version is not what it says.
    """
    settings = params.register_
    store = Store(settings.tracking_uri, settings.experiment, secrets=secret_names(params))
    registry = ModelRegistry(settings.tracking_uri)
    identity = {WEIGHTS_TAG: sha256_file(Layout.pixel / "delta.safetensors"), ROOT_TAG: lineage.root}
    version = registry.find(settings.name, identity)
    created = version is None
    if version is None:
        with store.run(f"register {settings.name}", {"l2p.kind": "conversion"}) as run_id:
            log_evidence(store, run_id, params=params, summary=summary, lineage=lineage)
            tags = identity | _describing_tags(params, summary, lineage, drawing)
            version = _log_and_create(store, registry, run_id, params=params, tags=tags, drawing=drawing)
        first = registry.find(settings.name, identity)  # another process may have registered the same meanwhile
        if first is not None and first.version < version.version:
            registry.delete(version)
            version, created = first, False
    if not created:
        check_version(store, registry, version, lineage)
    thresholds = Thresholds(settings.min_geneval_retention, settings.min_dpg_retention)
    decision = _move_aliases(registry, version, thresholds)
    return Registration(registry.resolve(str(version)), is_new=created, decision=decision)


def secret_names(params: Params) -> list[str]:
    """Environment variables that params.yaml names as holding secrets."""
    named = params.prompts.llm.api_key_env
    return [named] if named else []


def _log_and_create(
    store: Store, registry: ModelRegistry, run_id: str, *, params: Params, tags: dict[str, str], drawing: served.Drawing
) -> ModelVersion:
    """Log the model, draw from what was logged, and only then make it a version."""
    name, by_reference = params.register_.name, _is_large(params)
    source = served.log_model(store, run_id, Layout.pixel, drawing, by_reference=by_reference)
    folder = registry.download_model_of(source)
    files = model_files(folder)  # before it is loaded: what was written, and nothing that loading adds
    pixels = served.load_and_draw(folder, drawing, source=source)
    check_weights(registry.download_delta_of(source), tags[WEIGHTS_TAG])
    store.log_picture(run_id, pixels, SAMPLE_FILE)
    tags = tags | {FILES_TAG: sha256_json(files)}
    store.log_json(run_id, Record(tags, files, tuple(store.redacted)).to_json(), RECORD_FILE)
    description = card.model_card(tags, name=name)
    store.log_text(run_id, description, CARD_FILE)
    return registry.create(name, source=source, run_id=run_id, tags=tags, description=description)


def _is_large(params: Params) -> bool:
    return (Layout.pixel / "delta.safetensors").stat().st_size > params.register_.max_artifact_mb * MB


def _describing_tags(
    params: Params, summary: Mapping[str, Any], lineage: Lineage, drawing: served.Drawing
) -> dict[str, str]:
    git = lineage.context["git"]
    weights = Layout.pixel / "delta.safetensors"
    origin = {
        "source": params.source.path,
        "revision": params.source.revision,
        "source_digest": lineage.inputs["source"]["digest"],
        "licence": read_json(Layout.source, written_by="l2p source").get("licence"),
        "images": lineage.inputs["corpus"]["images"],
        "corpus_digest": lineage.inputs["corpus"]["digest"],
        "prompts": params.prompts.provider,
        "steps": params.train.num_steps,
        "size_px": [params.synthesize.width_px, params.synthesize.height_px],
        "weights_mb": round(weights.stat().st_size / MB, 2),
        "by_reference": _is_large(params),
    }
    origin = redact_values(origin, also=secret_names(params))
    tags = {
        SCORES_TAG: json.dumps(scores_of(summary)),
        DRAWING_TAG: json.dumps(asdict(drawing)),
        ORIGIN_TAG: json.dumps(origin),
    }
    return tags | ({COMMIT_TAG: git["commit"] + (" (dirty)" if git["dirty"] else "")} if git else {})


def _move_aliases(registry: ModelRegistry, version: ModelVersion, thresholds: Thresholds) -> Decision:
    """Make `version` the candidate, and the champion if the gate opens.

    A version is decided on once for given thresholds: a later run with nothing new must not undo a rollback.
    """
    if CANDIDATE not in version.aliases:
        registry.set_alias(version, CANDIDATE)
    decided = json.loads(version.tags.get(GATE_TAG, "null"))
    if decided is not None and decided["thresholds"] == asdict(thresholds):
        return Decision(decided["passed"], tuple(decided["reasons"]))
    champion = registry.by_alias(version.name, CHAMPION)
    decision = decide(version_scores(version), thresholds, version_scores(champion) if champion else None)
    if decision.passed:
        registry.make_champion(version)
    registry.set_tag(version, GATE_TAG, json.dumps(decision.to_json() | {"thresholds": asdict(thresholds)}))
    return decision


def version_scores(version: ModelVersion) -> dict[str, Any]:
    """Scores that a version was registered with."""
    scores: dict[str, Any] = json.loads(version.tags[SCORES_TAG])
    return scores
