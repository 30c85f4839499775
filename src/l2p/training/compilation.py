"""Owns torch.compile for training: each repeated block and the head on its own, one compilation per shape.

Compiling regions instead of the whole model costs one block, not all. Shapes are compiled exactly (never "dynamic
after the second one"), so a resumed run uses the kernels that an uninterrupted one would.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from l2p.models.pixel_transformer import PixelTransformer

# Said of the two views that split Z-Image's complex rotary table; everything behind them is real and compiled.
COMPLEX_VIEWS = "Torchinductor does not support code generation for complex operators"
# Caption lengths are padded to multiples of 32: 16 lengths at most, each for a frozen and a trained block.
MAX_VARIANTS = 64


def compile_regions(model: PixelTransformer) -> None:
    """Let torch.compile take over the repeated blocks and the head at their first use, in place."""
    warnings.filterwarnings("ignore", message=COMPLEX_VIEWS)
    torch._dynamo.config.recompile_limit = MAX_VARIANTS
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it goes on uncompiled without a word
    for module in (*model.repeated_blocks(), model.head):
        _compile(module)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Nothing is compiled within the block: for the few batches of other sizes that sample grids need."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _compile(module: nn.Module) -> None:
    module.compile(dynamic=False)
