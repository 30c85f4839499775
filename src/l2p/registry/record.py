"""Owns the second copy of what the registry says of a version: kept in its run, so that a changed tag is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from l2p.errors import LineageError, RegistryError
from l2p.files import read_json
from l2p.registry.store import Store
from l2p.registry.versions import GATE_TAG, TAG_PREFIX, ModelVersion

RECORD_FILE = "version.json"

_MOVING = (GATE_TAG,)  # decided after registration, and again when thresholds change


@dataclass(frozen=True)
class Record:
    """What a version was registered with.

    Attributes:
        tags: of the version.
        files: digest of every file of the logged model.
        redacted: artifacts of the run from which a secret was taken out, so that their digests are not the lineage's.
    """

    tags: dict[str, str]
    files: dict[str, str]
    redacted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        return {"tags": self.tags, "files": self.files, "redacted": list(self.redacted)}


def read_record(store: Store, version: ModelVersion) -> Record | None:
    """The record in the version's run; None for a version from before there was one.

    Raises:
        RegistryError: the store cannot be reached.
        LineageError: it is damaged.
    """
    if not store.has_artifact(version.run_id, RECORD_FILE):
        return None
    raw = read_json(store.fetch(version.run_id, RECORD_FILE), written_by="l2p register")
    try:
        return Record(dict(raw["tags"]), dict(raw["files"]), tuple(raw["redacted"]))
    except (KeyError, TypeError, ValueError) as error:
        raise LineageError(f"{version}: its run's {RECORD_FILE} is damaged ({error!r}). Register it again.") from error


def check_tags(record: Record | None, version: ModelVersion) -> None:
    """Every tag of l2p must be the one that the version was registered with.

    Raises:
        LineageError: names the first that is not.
        RegistryError: the version has no record of them.
    """
    if record is None:
        raise RegistryError(
            f"{version}: its run has no {RECORD_FILE} to hold the tags against; it was registered by an earlier l2p."
        )
    difference = first_changed_tag(record.tags, version.tags)
    if difference is not None:
        raise LineageError(
            f"{version}: its tag {difference} differs from its run's {RECORD_FILE}: one was changed. Put it back."
        )


def first_changed_tag(recorded: Mapping[str, str], found: Mapping[str, str]) -> str | None:
    """Name of the first tag of l2p that came, went or changed."""
    names = {name for name in (*recorded, *found) if name.startswith(TAG_PREFIX) and name not in _MOVING}
    return next((name for name in sorted(names) if recorded.get(name) != found.get(name)), None)
