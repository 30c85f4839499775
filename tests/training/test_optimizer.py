"""AdamW with an average among its states."""

from __future__ import annotations

import torch
from torch import nn

from l2p.training.optimizer import ADAM_BETAS, AVERAGE, AveragingAdamW


def steps(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, count: int) -> list[torch.Tensor]:
    """Random gradients, the same at every call; the parameter after each step."""
    generator, values = torch.Generator().manual_seed(0), []
    for _ in range(count):
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        values.append(parameter.detach().clone())
    return values


def test_it_steps_as_adamw_does_and_its_average_follows() -> None:
    plain, ours = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    adamw = torch.optim.AdamW([plain], lr=0.1, betas=ADAM_BETAS, weight_decay=0.01, fused=True)
    averaging = AveragingAdamW([ours], lr=0.1, weight_decay=0.01, average_decay=0.5)
    averaging.prepare([ours])
    expected, values = steps(adamw, plain, 20), steps(averaging, ours, 20)
    assert all(torch.equal(a, b) for a, b in zip(expected, values, strict=True))

    average = torch.ones(5)
    for step, value in enumerate(values):
        average = torch.lerp(average, value, 1 - min(0.5, (1 + step) / (10 + step)))
    torch.testing.assert_close(averaging.state[ours][AVERAGE], average)


def test_without_decay_it_holds_no_average() -> None:
    parameter = nn.Parameter(torch.ones(5))
    optimizer = AveragingAdamW([parameter], lr=0.1, weight_decay=0.01, average_decay=0.0)
    optimizer.prepare([parameter])
    steps(optimizer, parameter, 2)
    assert optimizer.state_names == ("exp_avg", "exp_avg_sq")
    assert set(optimizer.state[parameter]) == {"step", "exp_avg", "exp_avg_sq"}
