"""Owns the proof that a registered version is what it says: its lineage, its weights, and the image that it drew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from l2p.errors import LineageError, RegistryError
from l2p.files import read_json, sha256_file
from l2p.registry import lineage as lineages
from l2p.registry import served
from l2p.registry.evidence import LINEAGE_FILE
from l2p.registry.lineage import Lineage
from l2p.registry.logged_model import check_logged_model
from l2p.registry.record import check_tags, read_record
from l2p.registry.store import Store
from l2p.registry.versions import DRAWING_TAG, FILES_TAG, ROOT_TAG, WEIGHTS_TAG, ModelRegistry, ModelVersion

SAMPLE_FILE = "sample.png"

# Mean absolute difference in 0..255 that another machine's rounding may make; another model differs by tens.
MAX_SAMPLE_DIFFERENCE = 4.0


def check_version(store: Store, registry: ModelRegistry, version: ModelVersion, found: Lineage) -> None:
    """Compare a registered version with the project's files and with what it drew when it was registered.

    Args:
        store: of its run.
        registry: of the version.
        version: to check.
        found: lineage of the files as they are now.

    Raises:
        LineageError: names the first input that differs, or says that a tag, the weights or the drawing do.
        RegistryError: the version does not load and draw, or was not registered by `l2p register`.
    """
    require_tags(version)
    check_lineage(store, version, found)
    if (record := read_record(store, version)) is not None:
        check_tags(record, version)
    check_weights(registry.download_delta_of(version.source), version.tags[WEIGHTS_TAG])
    check_drawing(draw(store, registry, version), store.fetch(version.run_id, SAMPLE_FILE), name=str(version))


def require_tags(version: ModelVersion) -> None:
    """Refuse a version that was made by other means.

    Raises:
        RegistryError: names the tag that it lacks.
    """
    for tag in (WEIGHTS_TAG, ROOT_TAG, DRAWING_TAG):
        if tag not in version.tags:
            raise RegistryError(f"{version}: has no tag {tag}, so it was not registered by `l2p register`.")


def draw(store: Store, registry: ModelRegistry, version: ModelVersion) -> np.ndarray:
    """Load a registered version, after its files were checked, and draw its example, uint8 RGB [H, W, 3].

    Raises:
        LineageError: a file of the logged model is not the registered one; nothing of it was loaded.
        RegistryError: it does not load and draw.
    """
    require_tags(version)
    folder = registry.download_model_of(version.source)
    record = read_record(store, version)
    check_logged_model(folder, recorded=None if record is None else record.files, digest=version.tags.get(FILES_TAG))
    drawing = served.Drawing(**json.loads(version.tags[DRAWING_TAG]))
    return served.load_and_draw(folder, drawing, source=str(version))


def check_lineage(store: Store, version: ModelVersion, found: Lineage) -> None:
    """Compare the lineage recorded in the version's run with `found`."""
    recorded = Lineage.from_json(read_json(store.fetch(version.run_id, LINEAGE_FILE), written_by="l2p register"))
    if recorded.root != version.tags[ROOT_TAG]:
        raise LineageError(
            f"{version}: its tag {ROOT_TAG} and its run's {LINEAGE_FILE} differ. Register the model again."
        )
    lineages.verify(recorded, found)


def check_weights(delta: Path, expected_sha256: str) -> None:
    """The weights in the store must be those that were registered."""
    weights = delta / "delta.safetensors"
    found = sha256_file(weights) if weights.is_file() else "nothing"
    if found != expected_sha256:
        raise LineageError(
            f"{weights}: found {found[:12]}, registered was {expected_sha256[:12]}. Restore the store's files."
        )


def check_drawing(pixels: np.ndarray, recorded: Path, *, name: str) -> None:
    """The model must draw what it drew when it was registered, uint8 RGB [H, W, 3]."""
    from PIL import Image

    expected = np.asarray(Image.open(recorded).convert("RGB"))
    if expected.shape != pixels.shape:
        raise LineageError(f"{name}: drew {pixels.shape}, when registered {expected.shape}.")
    difference = float(np.abs(pixels.astype(np.int16) - expected.astype(np.int16)).mean())
    if difference > MAX_SAMPLE_DIFFERENCE:
        raise LineageError(
            f"{name}: its drawing differs from the one made when it was registered by {difference:.1f} of 255 on "
            f"average, more than {MAX_SAMPLE_DIFFERENCE}. Source or libraries are not the same; compare {recorded}."
        )
