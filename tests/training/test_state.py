"""Learning rate, averages, random numbers and the description of what a checkpoint was made for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import nn

from l2p.config import TrainParams, load_params
from l2p.training.clock import Clock
from l2p.training.state import Draw, Ema, first_difference, learning_rate, random_source
from tests.conftest import ROOT


def schedule(**changes: float) -> TrainParams:
    """A run of 100 steps with rate 1."""
    train = load_params(ROOT / "params.yaml").train
    defaults = {"num_steps": 100, "learning_rate": 1.0, "warmup_steps": 10, "decay_share": 0.5}
    return train.model_copy(update=defaults | changes)


def test_the_rate_warms_up_stays_and_falls_to_almost_nothing() -> None:
    rates = [learning_rate(step, schedule()) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    train = schedule(warmup_steps=0, decay_share=0.0)
    assert {learning_rate(step, train) for step in range(100)} == {1.0}


def test_random_numbers_depend_on_seed_purpose_and_numbers_alone() -> None:
    keys = [(0, Draw.STEP, 1), (1, Draw.STEP, 0), (0, Draw.ORDER, 1), (0, Draw.NOISE, 1, 0), (0, Draw.NOISE, 1, 1)]
    values = [torch.rand(1, generator=random_source(*key)).item() for key in keys]
    assert len(set(values)) == len(keys)
    assert values == [torch.rand(1, generator=random_source(*key)).item() for key in keys]


def test_the_average_follows_and_swapping_it_in_and_out_leaves_every_bit(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.zeros(5))
    average = Ema({"w": parameter}, 0.5)
    values = []
    for step in range(30):
        with torch.no_grad():
            parameter.copy_(torch.randn(5))
        values.append(parameter.detach().clone())
        average.update(step)
    own = parameter.detach().clone()
    with average.swapped_in():
        swapped = parameter.detach().clone()
    expected = values[0]
    for step, value in enumerate(values):
        expected = torch.lerp(expected, value, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(swapped, expected, rtol=1e-3, atol=1e-3)  # the very first value has faded
    assert torch.equal(parameter, own)

    average.save(tmp_path / "ema.safetensors")
    other = Ema({"w": nn.Parameter(torch.ones(5))}, 0.5)
    other.load(tmp_path / "ema.safetensors")
    assert torch.equal(other._averages["w"], swapped)


def test_an_average_with_decay_0_is_the_last_value() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    average = Ema({"w": parameter}, 0.0)
    with torch.no_grad():
        parameter.copy_(torch.tensor([1.0, 0.1, 1e-8]))
    average.update(0)
    with average.swapped_in():
        assert torch.equal(parameter, torch.tensor([1.0, 0.1, 1e-8]))


def test_the_first_difference_is_told_in_words() -> None:
    old = {"train": {"a": 1, "b": 2}, "files": {"x": "0" * 64}}
    assert first_difference(old, old) is None
    assert first_difference(old, {**old, "train": {"a": 1, "b": 3}}) == "train.b was 2 and is 3"
    assert first_difference(old, {**old, "train": {"a": 1}}) == "train.b was 2 and is None"
    assert (
        first_difference(old, {**old, "files": {"x": "1" * 64}}) == "files.x was 000000000000... and is 111111111111..."
    )


def test_the_clock_stands_still_while_paused_and_goes_on_from_before() -> None:
    clock = Clock(100.0)
    with clock.paused():
        time.sleep(0.2)
    assert 100 <= clock.seconds < 100.15
