"""Owns drawing a part of a benchmark: a stratified sample that is always the same and lies in every larger one."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from l2p.evaluation.benchmark_data import DpgData, DpgItem, GenEvalData

_SEED = 0  # of the order within a stratum; changing it makes another sample
_Item = TypeVar("_Item")


def geneval_subset(data: GenEvalData, share: float) -> GenEvalData:
    """`share` (0..1] of the prompts of each tag, at least one of each; prompts keep their numbers and seeds."""
    return replace(data, prompts=tuple(_sample(data.prompts, share, lambda prompt: prompt.tag)))


def dpg_subset(data: DpgData, share: float) -> DpgData:
    """`share` (0..1] of the items of each origin, at least one of each; items keep their numbers and seeds."""
    return replace(data, items=tuple(_sample(data.items, share, origin)))


def origin(item: DpgItem) -> str:
    """The collection that an item comes from, as its id begins: `partiprompts103` is of `partiprompts`."""
    return item.item_id.rstrip("0123456789_-")


def _sample(items: Sequence[_Item], share: float, stratum_of: Callable[[_Item], str]) -> list[_Item]:
    strata: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        strata.setdefault(stratum_of(item), []).append(place)
    chosen: set[int] = set()
    for name, places in strata.items():
        random.Random(f"{_SEED} {name}").shuffle(places)
        chosen.update(places[: max(1, round(share * len(places)))])
    return [item for place, item in enumerate(items) if place in chosen]
