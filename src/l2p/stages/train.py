"""Stage `train`: transfers the source to pixels; writes `models/pixel`, curves, sample grids and a summary.

`python -m l2p.stages.train PARAMS.json` is one of several processes that the stage starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from l2p.config import Layout, Params
from l2p.errors import L2PError
from l2p.files import read_json
from l2p.models.delta import load_pixel_model
from l2p.stages.small_geneval import make_probe
from l2p.training.launch import is_started_machine, launch, launch_share
from l2p.training.worker import RESULT, MakeProbe, serve

MODULE = "l2p.stages.train"


def run(params: Params) -> None:
    """Train, or go on where an interrupted training of the same parameters and data was."""
    if not launch(params, probe(params), module=MODULE):
        print("this machine's share of the training is done; the first machine writes the model")
        return
    load_pixel_model(Layout.pixel)  # what was written must load before anything is built on it
    result = read_json(Layout.training / RESULT, written_by="l2p train")
    weights = result["weights"]
    chosen = f"; kept the weights of step {weights['step']}" if "metric" in weights else ""
    print(
        f"trained {result['trainable_parameters']:,} of {result['total_parameters']:,} parameters in {result['steps']} "
        f"steps: loss {result['final_loss']:.4f}, {result['images_per_s']:.1f} images/s, {result['seconds']:.0f} s"
        f"{chosen}"
    )


def probe(params: Params) -> MakeProbe | None:
    """What measures the weights now and then, if params.yaml wants it."""
    return make_probe if params.train.geneval_every else None


def main(arguments: list[str]) -> int:
    """One of several processes, or of several machines, that a training started; its exit status."""
    if not is_started_machine():
        return serve(arguments, probe)
    try:
        launch_share(Path(arguments[0]), module=MODULE)
    except L2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
