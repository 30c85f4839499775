"""Learning rate, random numbers and the description of what a checkpoint was made for."""

from __future__ import annotations

import time

import pytest
import torch

from l2p.config import TrainParams, load_params
from l2p.training.clock import Clock
from l2p.training.state import Draw, first_difference, learning_rate, random_source
from tests.conftest import ROOT


def schedule(**changes: float | str) -> TrainParams:
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


def test_a_cosine_fall_is_slow_at_both_ends_and_half_way_in_the_middle() -> None:
    train = schedule(decay="cosine")
    rates = [learning_rate(step, train) for step in range(100)]
    assert rates[9:51] == [1.0] * 42
    assert rates[75] == pytest.approx(0.5)
    assert rates[55] > learning_rate(55, schedule())
    assert rates[95] < learning_rate(95, schedule())


def test_random_numbers_depend_on_seed_purpose_and_numbers_alone() -> None:
    keys = [(0, Draw.STEP, 1), (1, Draw.STEP, 0), (0, Draw.ORDER, 1), (0, Draw.NOISE, 1, 0), (0, Draw.NOISE, 1, 1)]
    values = [torch.rand(1, generator=random_source(*key)).item() for key in keys]
    assert len(set(values)) == len(keys)
    assert values == [torch.rand(1, generator=random_source(*key)).item() for key in keys]


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
