"""Owns the pixel model of the pipeline's tests: untrained, but one whose images show the prompt.

The detailer head alone hardly hears the tokens at its random start; the linear readout does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from l2p.models.delta import save_delta
from l2p.models.graft import graft
from l2p.models.source import pin_source

VISIBLE = 0.02  # mean difference of two images, on the scale [-1, 1], of which a test may say that it is one


def lively_delta(source: Path, folder: Path) -> Path:
    """Write a delta on `source` into `folder`, to be drawn in two steps without guidance."""
    pin = pin_source(str(source))
    model = graft(pin, seed=0, patch_size=16, head_widths=(4, 8, 8, 16), prediction="x0", linear_readout=True)
    sampler = {"num_steps": 2, "guidance_scale": 0.0, "shift": 3.0}
    save_delta(model, folder, pin=pin, names=model.new_tensors(), sampler=sampler)
    return folder


def seeds(*values: int) -> list[torch.Generator]:
    """One generator per image."""
    return [torch.Generator().manual_seed(value) for value in values]


def differ(first: Tensor, second: Tensor) -> bool:
    """Whether two images, or batches of them, visibly differ."""
    return float((first - second).abs().mean()) > VISIBLE
