"""Owns registering a pixel model: found again or registered anew, loaded back and drawn from, then its aliases.

The same weights with the same lineage are one version, however often they are registered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from l2p.config import Layout, Params
from l2p.files import sha256_file
from l2p.registry import card, served
from l2p.registry.evidence import log_evidence
from l2p.registry.gate import Decision, Thresholds, decide, scores_of
from l2p.registry.lineage import Lineage
from l2p.registry.store import Store
from l2p.registry.verify import SAMPLE_FILE, check_version, check_weights
from l2p.registry.versions import (
    CANDIDATE,
    CHAMPION,
    COMMIT_TAG,
    DRAWING_TAG,
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
    store = Store(settings.tracking_uri, settings.experiment)
    registry = ModelRegistry(settings.tracking_uri)
    identity = {WEIGHTS_TAG: sha256_file(Layout.pixel / "delta.safetensors"), ROOT_TAG: lineage.root}
    known = registry.find(settings.name, identity)
    if known is None:
        with store.run(f"register {settings.name}", {"l2p.kind": "registration"}) as run_id:
            log_evidence(store, run_id, params=params, summary=summary, lineage=lineage)
            tags = identity | _describing_tags(params, summary, lineage, drawing)
            version = _log_and_create(store, registry, run_id, name=settings.name, tags=tags, drawing=drawing)
    else:
        version = known
        check_version(store, registry, version, lineage)
    thresholds = Thresholds(settings.min_geneval_retention, settings.min_dpg_retention)
    decision = _move_aliases(registry, version, thresholds)
    return Registration(registry.resolve(str(version)), is_new=known is None, decision=decision)


def _log_and_create(
    store: Store, registry: ModelRegistry, run_id: str, *, name: str, tags: dict[str, str], drawing: served.Drawing
) -> ModelVersion:
    """Log the model, draw from what was logged, and only then make it a version."""
    source = served.log_model(store, run_id, Layout.pixel, drawing)
    pixels: np.ndarray = served.load_and_draw(source, drawing, tracking_uri=store.tracking_uri)
    check_weights(registry.download_delta_of(source), tags[WEIGHTS_TAG])
    store.log_picture(run_id, pixels, SAMPLE_FILE)
    return registry.create(name, source=source, run_id=run_id, tags=tags, description=card.model_card(tags, name=name))


def _describing_tags(
    params: Params, summary: Mapping[str, Any], lineage: Lineage, drawing: served.Drawing
) -> dict[str, str]:
    git = lineage.context["git"]
    origin = {
        "source": params.source.path,
        "revision": params.source.revision,
        "source_digest": lineage.inputs["source"]["digest"],
        "images": lineage.inputs["corpus"]["images"],
        "steps": params.train.num_steps,
    }
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
