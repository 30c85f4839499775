"""The patch embedder: one linear map while it is small, a bottleneck called the same way above."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from l2p.errors import ModelError
from l2p.models.embedder import choose_rank, low_rank

VALUES, RANK, DIM = 12, 3, 8
Build = Callable[..., nn.Linear | nn.Conv2d]


def linear(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Linear:
    return nn.Linear(VALUES, DIM, bias=bias, dtype=dtype)


def pointwise(bias: bool = True, dtype: torch.dtype = torch.float32) -> nn.Conv2d:
    return nn.Conv2d(VALUES, DIM, 1, bias=bias, dtype=dtype)


def patches(embedder: nn.Module) -> torch.Tensor:
    return torch.randn(2, VALUES, 5, 4) if isinstance(embedder, nn.Conv2d) else torch.randn(2, 5, VALUES)


def test_an_embedder_gets_a_bottleneck_only_above_the_limit() -> None:
    assert choose_rank(100, 20, max_parameters=2000, rank=4) is None
    assert choose_rank(100, 20, max_parameters=1999, rank=4) == 4


def test_a_rank_that_is_not_needed_is_not_looked_at() -> None:
    assert choose_rank(100, 20, max_parameters=2000, rank=0) is None


@pytest.mark.parametrize("rank", [1, 16])
def test_ranks_below_both_sides_are_bottlenecks(rank: int) -> None:
    assert choose_rank(100, 20, max_parameters=1, rank=rank) == rank
    assert choose_rank(20, 100, max_parameters=1, rank=rank) == rank


@pytest.mark.parametrize("rank", [-1, 0, 20, 512])
def test_ranks_that_are_no_bottleneck_are_refused_with_those_that_are(rank: int) -> None:
    for values, dim in ((100, 20), (20, 100)):
        with pytest.raises(ModelError) as error:
            choose_rank(values, dim, max_parameters=1999, rank=rank)
        assert f"convert.embedder.rank = {rank}: no bottleneck between {values}" in str(error.value)
        assert "Choose 1 to 16, or raise convert.embedder.max_parameters to 2000" in str(error.value)
    assert choose_rank(100, 20, max_parameters=2000, rank=rank) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("build", [linear, pointwise])
def test_a_bottleneck_is_called_like_what_it_replaces(build: Build, bias: bool, dtype: torch.dtype) -> None:
    embedder = build(bias, dtype)
    split, values = low_rank(embedder, RANK), patches(embedder).to(dtype)
    out, expected = split(values), embedder(values)
    assert out.shape == expected.shape
    assert {out.dtype, *(parameter.dtype for parameter in split.parameters())} == {dtype}
    assert split[0].bias is None
    assert (split[1].bias is not None) == bias


@pytest.mark.parametrize("build", [linear, pointwise])
def test_a_bottleneck_is_the_product_of_its_two_maps(build: Build) -> None:
    embedder = build()
    split, values = low_rank(embedder, RANK), patches(embedder)
    with torch.no_grad():
        product = split[1].weight.flatten(1) @ split[0].weight.flatten(1)
        assert torch.linalg.matrix_rank(product) == RANK
        embedder.weight.copy_(product.view_as(embedder.weight))
        embedder.bias.copy_(split[1].bias)
        torch.testing.assert_close(split(values), embedder(values), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("build", [linear, pointwise])
def test_a_bottleneck_has_rank_times_the_sum_of_both_sides_weights(build: Build) -> None:
    split = low_rank(build(), RANK)
    assert sum(parameter.numel() for parameter in split.parameters()) == RANK * (VALUES + DIM) + DIM


@pytest.mark.parametrize("build", [linear, pointwise])
def test_a_bottleneck_stays_on_the_device_of_what_it_replaces(build: Build) -> None:
    split = low_rank(build().to("meta"), RANK)
    assert all(parameter.is_meta for parameter in split.parameters())


@pytest.mark.parametrize(
    "embedder",
    [
        nn.Conv2d(3, DIM, 2, stride=2),
        nn.Conv2d(VALUES, DIM, 1, stride=2),
        nn.Conv2d(VALUES, DIM, 1, padding=1),
        nn.Conv2d(VALUES, DIM, 1, groups=2),
    ],
)
def test_a_convolution_that_is_no_linear_map_per_position_is_refused(embedder: nn.Conv2d) -> None:
    with pytest.raises(ModelError, match=r"convert\.embedder\.rank: .*Conv2d.* 1x1 .*convert\.embedder\.max_param"):
        low_rank(embedder, RANK)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_paddings_by_name_pad_a_1x1_convolution_by_nothing(padding: str) -> None:
    values = torch.randn(1, VALUES, 4, 4)
    assert low_rank(nn.Conv2d(VALUES, DIM, 1, padding=padding), RANK)(values).shape == (1, DIM, 4, 4)
