"""Size and cost of the detailer heads from 1K to 10K, counted at full size without weights.

    python -m bench.heads                    # Z-Image's tokens, 64 a side; some seconds
    python -m bench.heads --token-dim 1536   # of another source

One forward of the head alone on one image, on the meta device: operations (a multiplication and an addition are two) as
torch's FlopCounterMode sees them, and the largest tensor that any operation writes, in bfloat16. Whole steps are those
of `bench.sizes`. The levels of the official head are published for patch 16 and 64; at the others they follow its rule.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from bench.sizes import MILLION, PATCHES_PX, TERA, UNET_WIDTHS, official_widths
from l2p.models.head import build_head
from l2p.models.pixel_transformer import CHANNELS, parameters_of

TOKENS_A_SIDE = 64
TOKEN_DIM = 3840  # of Z-Image
THOUSAND, GIGA = 1e3, 1e9


@dataclass(frozen=True)
class HeadCount:
    """One forward of a head on one image."""

    head_type: str
    patch_px: int
    widths: tuple[int, ...]
    side_px: int
    parameters: int
    operations: int
    largest_bytes: int

    @property
    def operations_per_pixel(self) -> float:
        """Operations for each of the image's pixels."""
        return self.operations / self.side_px**2


def main() -> None:
    """Count and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--token-dim", type=int, default=TOKEN_DIM, help="width of the source's tokens")
    arguments = parser.parse_args()
    print(f"\n{TOKENS_A_SIDE}x{TOKENS_A_SIDE} tokens of width {arguments.token_dim}, batch 1, bfloat16\n")
    print(
        f"{'head':<10}{'patch':>6}{'size':>7}{'levels':>8}{'outermost':>11}"
        f"{'million parameters':>20}{'TFLOP':>9}{'kFLOP a pixel':>15}{'largest map, GB':>17}"
    )
    for count in count_heads(arguments.token_dim):
        print(
            f"{count.head_type:<10}{count.patch_px:>6}{count.side_px:>7}{len(count.widths):>8}{count.widths[0]:>11}"
            f"{count.parameters / MILLION:>20.2f}{count.operations / TERA:>9.3f}"
            f"{count.operations_per_pixel / THOUSAND:>15.1f}{count.largest_bytes / GIGA:>17.3f}"
        )


def count_heads(token_dim: int) -> Iterator[HeadCount]:
    """Both heads at every patch."""
    for patch in PATCHES_PX:
        yield count_head("official", patch, official_widths(patch), token_dim=token_dim)
    for patch in PATCHES_PX:
        yield count_head("unet", patch, UNET_WIDTHS, token_dim=token_dim)


def count_head(
    head_type: str, patch_px: int, widths: tuple[int, ...], *, token_dim: int, tokens_a_side: int = TOKENS_A_SIDE
) -> HeadCount:
    """One head at one patch.

    Args:
        head_type: one of `l2p.models.head.HEAD_TYPES`.
        patch_px: side of a patch.
        widths: channels per level, outermost first.
        token_dim: width of the tokens.
        tokens_a_side: the image has this many patches a side.

    Raises:
        ModelError: a head that does not fit the patch.
    """
    side = tokens_a_side * patch_px
    with torch.device("meta"):
        head = build_head(head_type, token_dim, patch_size=patch_px, widths=widths).to(torch.bfloat16)
        pixels = torch.empty(1, CHANNELS, side, side, dtype=torch.bfloat16)
        tokens = torch.empty(1, token_dim, tokens_a_side, tokens_a_side, dtype=torch.bfloat16)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, LargestTensor() as largest:
        head(pixels, tokens)
    return HeadCount(
        head_type=head_type,
        patch_px=patch_px,
        widths=widths,
        side_px=side,
        parameters=parameters_of(head),
        operations=int(counter.get_total_flops()),
        largest_bytes=largest.bytes,
    )


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation put out."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, and look at what comes out."""
        out = func(*args, **(kwargs or {}))
        self.bytes = max(self.bytes, *(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor)), 0)
        return out


if __name__ == "__main__":
    main()
