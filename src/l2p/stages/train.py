"""Stage `train`: transfers the source to pixels; writes `models/pixel`, curves, sample grids and a summary."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.files import read_json
from l2p.models.delta import load_pixel_model
from l2p.training.launch import launch
from l2p.training.worker import RESULT


def run(params: Params) -> None:
    """Train, or go on where an interrupted training of the same parameters and data was."""
    launch(params)
    load_pixel_model(Layout.pixel)  # what was written must load before anything is built on it
    result = read_json(Layout.training / RESULT, written_by="l2p train")
    print(
        f"trained {result['trainable_parameters']:,} of {result['total_parameters']:,} parameters in {result['steps']} "
        f"steps: loss {result['final_loss']:.4f}, {result['images_per_s']:.1f} images/s, {result['seconds']:.0f} s"
    )
