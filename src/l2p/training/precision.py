"""Owns how the frozen weights are held in mixed precision (docs/decisions/0004-training-precision.md)."""

from __future__ import annotations

import torch
from torch import nn

_MATRIX_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # autocast rounds the weights of exactly these


@torch.no_grad()
def hold_frozen_in_bfloat16(model: nn.Module) -> None:
    """Hold frozen matrices in bfloat16: autocast would round them so in every step, and keep both in memory meanwhile.

    Nothing is lost: they are not stored with the trained model, and a layer with a trained parameter is left alone.
    """
    for module in model.modules():
        if isinstance(module, _MATRIX_LAYERS):
            parameters = list(module.parameters(recurse=False))
            if not any(parameter.requires_grad for parameter in parameters):
                module.to(torch.bfloat16)
