"""Owns the low-rank patch embedder: a linear one has 3 P^2 D weights (295 M at P = 160, D = 3840), a bottleneck few.

Idea: JiT (arXiv 2511.13720), where patches pass a bottleneck far narrower than themselves and images do not suffer.
"""

# D token width, K values of a patch (3 P^2)

from __future__ import annotations

from torch import nn

from l2p.errors import ModelError


def choose_rank(values: int, dim: int, *, max_parameters: int, rank: int) -> int | None:
    """Rank of the patch embedder, or None where one linear map is small enough.

    Args:
        values: K, values of a patch.
        dim: D, width of the tokens.
        max_parameters: largest number of weights K D of one linear map.
        rank: width of the bottleneck of a larger one.

    Raises:
        ModelError: a bottleneck is needed, and `rank` is none.
    """
    if values * dim <= max_parameters:
        return None
    largest = (values * dim - 1) // (values + dim)  # a wider one would have as many weights as the linear map
    if not 0 < rank <= largest:
        raise ModelError(
            f"convert.embedder.rank = {rank}: no bottleneck between {values} patch values and {dim} token channels. "
            f"Choose 1 to {largest}, or raise convert.embedder.max_parameters to {values * dim} for one linear map."
        )
    return rank


def low_rank(embedder: nn.Linear | nn.Conv2d, rank: int) -> nn.Module:
    """A bottleneck K -> rank -> D in place of `embedder`: called the same way, same dtype and device, new weights.

    Args:
        embedder: linear map K -> D, or the same as a 1x1 convolution.
        rank: width of the bottleneck; its first map has no bias, its second has one if `embedder` has.

    Raises:
        ModelError: a convolution that is more than a linear map per position.
    """
    dtype, device, bias = embedder.weight.dtype, embedder.weight.device, embedder.bias is not None
    if isinstance(embedder, nn.Linear):
        narrow: nn.Module = nn.Linear(embedder.in_features, rank, bias=False, dtype=dtype, device=device)
        return nn.Sequential(narrow, nn.Linear(rank, embedder.out_features, bias=bias, dtype=dtype, device=device))
    pointwise = embedder.weight.shape == (embedder.out_channels, embedder.in_channels, 1, 1)
    if not pointwise or embedder.stride != (1, 1) or embedder.padding not in ((0, 0), "same", "valid"):
        raise ModelError(
            f"convert.embedder.rank: the patch embedder is {embedder}, and only a linear map or a 1x1 convolution can "
            "be split. Raise convert.embedder.max_parameters to keep it whole."
        )
    narrow = nn.Conv2d(embedder.in_channels, rank, 1, bias=False, dtype=dtype, device=device)
    return nn.Sequential(narrow, nn.Conv2d(rank, embedder.out_channels, 1, bias=bias, dtype=dtype, device=device))
