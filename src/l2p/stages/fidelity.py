"""Stage `fidelity`: the images of GenEval drawn by both models -> reports/fidelity.json."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.evaluation.fidelity.measuring import measure
from l2p.evaluation.geneval import IMAGES
from l2p.evaluation.subject import default_device
from l2p.files import write_json


def run(params: Params) -> None:
    """Compare; every figure that is not asked for is null."""
    source, pixel = (Layout.geneval / model / IMAGES for model in ("source", "pixel"))
    found = measure(source, pixel, params.fidelity, device=default_device())
    write_json(Layout.fidelity, found)
    print(f"compared {found['pairs']['n']} pairs of images")
    if found["spectrum"]:
        kept = ", ".join(f"{name} {band['ratio']:.3f}" for name, band in found["spectrum"]["bands"].items())
        print(f"power of the pixel model over the source's: {kept}")
