"""Stage `source`: pins the source model by the digest of its files."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.models.source import pin_source


def run(params: Params) -> None:
    """Write `models/source.json`."""
    pin = pin_source(params.source.path, params.source.revision)
    pin.save(Layout.source)
    print(f"pinned {pin.pipeline_class} {pin.path}: {len(pin.files)} files, digest {pin.digest[:12]}")
