"""Owns operations of a training step, counted, and the peak of the device that they are compared with.

Model operations as PaLM's model FLOP utilisation has them (arXiv 2204.02311, appendix B): those of one forward and one
backward pass, a multiplication and an addition being two. What a loop computes twice (checkpointing) counts once, and
the text encoder, the optimizer and elementwise operations do not count. A frozen weight needs no gradient of its own,
so a loop that trains the ends alone has fewer to do, and is measured by those.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from bench.sizes import KnownLengths
from l2p.diffusion.loss import flow_matching_loss
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer

# Operations a second in dense bfloat16 matrix products with float32 sums, from the vendor's data sheets.
GPU_PEAKS = {
    r"H100 80GB HBM3$": 989.4e12,  # SXM; the PCIe and NVL cards are slower
    r"H200$": 989.4e12,
    r"A100\b": 312e12,
    r"L40S$": 362e12,
    r"RTX 4090$": 165e12,
}
MATMUL_SIDES = (512, 1024, 2048, 4096)  # whose best is a CPU's own peak
_MATMUL_S = 0.5  # of each


def training_operations(model: PixelTransformer, embedding: PromptEmbedding, side_px: tuple[int, int]) -> int:
    """Operations of a forward and a backward pass over one image; trained is what requires a gradient.

    Args:
        model: on the meta device, buffers included, without checkpointing. There attention runs as its matrix products.
        embedding: of one prompt; only its shapes matter.
        side_px: height and width of the image.
    """
    height, width = side_px
    pixels, sigma = torch.empty(1, CHANNELS, height, width, device="meta"), torch.empty(1, device="meta")
    text = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), model.adapter.collate([embedding]))
    longest = max(len(tensor) for tensor in embedding.values())

    def step() -> None:
        out = model.predict(pixels, sigma, text)
        loss, _ = flow_matching_loss(out, pixels, pixels, sigma, prediction_type=model.config.prediction, min_sigma=0.1)
        loss.backward()

    with KnownLengths(longest):
        return counted(step)


def counted(run: Callable[[], Any]) -> int:
    """Operations of `run`, as torch's FlopCounterMode sees them; with backward passes, on any device."""
    with FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _backward_of_convolution}
    ) as counter:
        run()
    return int(counter.get_total_flops())


def _backward_of_convolution(grad_shape: Any, in_shape: Any, weight_shape: Any, *settings: Any, **_: Any) -> int:
    """Each gradient costs what the forward pass does; torch's own count forgets the groups."""
    transposed, wanted = settings[4], settings[7]
    places = math.prod((in_shape if transposed else grad_shape)[2:]) * grad_shape[0]
    return 2 * places * math.prod(weight_shape) * sum(wanted[:2])


def on_meta(model: nn.Module) -> nn.Module:
    """The model with nothing on a real device, in place."""
    return nn.Module.to(model, "meta")


def gpu_peak(name: str) -> float | None:
    """Operations a second of the GPU that torch calls `name`, in bfloat16; None for one that is not in the table."""
    return next((peak for pattern, peak in GPU_PEAKS.items() if re.search(pattern, name)), None)


def measured_peak(dtype: torch.dtype) -> float:
    """Operations a second of the best square matrix product on this CPU, with the present number of threads."""
    return max(_matmul_speed(side, dtype) for side in MATMUL_SIDES)


def _matmul_speed(side: int, dtype: torch.dtype) -> float:
    left, right = (torch.randn(side, side).to(dtype) for _ in range(2))
    left @ right
    best, until = float("inf"), time.perf_counter() + _MATMUL_S
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
