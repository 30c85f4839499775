"""Owns moving the alias `champion` by hand: forward only through the gate, and back to the champion before."""

from __future__ import annotations

from dataclasses import dataclass

from l2p.config import Params
from l2p.errors import RegistryError
from l2p.registry.gate import Thresholds, decide
from l2p.registry.record import check_tags, read_record
from l2p.registry.registration import version_scores
from l2p.registry.store import Store
from l2p.registry.verify import draw
from l2p.registry.versions import CHAMPION, PREVIOUS, SCORES_TAG, ModelRegistry, ModelVersion


@dataclass(frozen=True)
class Promotion:
    """The champion now, and the sentences that led there."""

    champion: ModelVersion
    reasons: tuple[str, ...]


def promote(params: Params, name: str, version: int) -> Promotion:
    """Make a registered version the champion, if the gate in params.yaml opens for it and it loads and draws.

    Raises:
        RegistryError: no such version, it has no scores, the gate stays shut (the message gives the reasons), or it
            does not draw.
        LineageError: its tags or files are not those that were registered.
    """
    registry = ModelRegistry(params.register_.tracking_uri)
    wanted = registry.resolve(f"{name}/{version}")
    if SCORES_TAG not in wanted.tags:
        raise RegistryError(f"{wanted}: has no scores, so the gate cannot open. Register it with `l2p register`.")
    champion = registry.by_alias(name, CHAMPION)
    thresholds = Thresholds(params.register_.min_geneval_retention, params.register_.min_dpg_retention)
    decision = decide(version_scores(wanted), thresholds, version_scores(champion) if champion else None)
    if not decision.passed:
        raise RegistryError(f"{wanted}: not promoted. {' '.join(decision.reasons)}")
    _require_usable(params, registry, wanted)
    registry.make_champion(wanted)
    return Promotion(registry.resolve(str(wanted)), decision.reasons)


def rollback(params: Params, name: str) -> Promotion:
    """Make the champion before the present one champion again; the present one becomes `previous`.

    Raises:
        RegistryError: there is no such version, or it does not draw.
        LineageError: its tags or files are not those that were registered.
    """
    registry = ModelRegistry(params.register_.tracking_uri)
    registry.resolve(f"{name}@{CHAMPION}")
    before = registry.resolve(f"{name}@{PREVIOUS}")
    _require_usable(params, registry, before)
    registry.make_champion(before)
    return Promotion(registry.resolve(str(before)), ("Rolled back.",))


def _require_usable(params: Params, registry: ModelRegistry, version: ModelVersion) -> None:
    """No alias for a version whose tags were changed, or that does not load and draw."""
    store = Store(params.register_.tracking_uri, params.register_.experiment)
    if (record := read_record(store, version)) is not None:
        check_tags(record, version)
    draw(store, registry, version)
