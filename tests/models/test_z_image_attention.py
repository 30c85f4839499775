"""The attention that training uses computes what diffusers' own does, forwards and backwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from l2p.models.adapters import z_image_attention
from l2p.models.delta import load_pixel_model
from l2p.models.pixel_transformer import PixelTransformer


def run(model: PixelTransformer, lengths: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Prediction and gradients for captions of these lengths."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(len(lengths), 3, 64, 64, generator=generator)
    text = {"cap_feats": [torch.randn(length, 32, generator=generator) for length in lengths]}
    out = model.predict(pixels, torch.linspace(0.1, 1, len(lengths)), text)
    model.zero_grad()
    out.square().mean().backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lengths", [(7, 20), (3, 40)], ids=["no mask", "padded to the longest"])
@pytest.mark.parametrize("plain_up_to", [1024, 0], ids=["plain", "fused"])
def test_it_equals_the_attention_of_diffusers(
    tiny_delta: Path, monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], plain_up_to: int
) -> None:
    monkeypatch.setattr(z_image_attention, "MAX_PLAIN_TOKENS", plain_up_to)
    model = load_pixel_model(tiny_delta)
    expected, expected_gradients = run(model, lengths)
    model.adapter.prepare_training(model.dit)
    found, gradients = run(model, lengths)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)
