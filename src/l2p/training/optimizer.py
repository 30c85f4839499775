"""Owns the optimizer: AdamW whose states include the exponential moving average of the weights.

As a state the average lies wherever ZeRO puts the others: split over the processes, on the CPU when they are offloaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

ADAM_BETAS = (0.9, 0.98)  # a shorter memory of squared gradients than 0.999: runs here are short
AVERAGE = "average"
_AVERAGE_WARM_UP = 10.0


class AveragingAdamW(torch.optim.AdamW):
    """AdamW; the state `average` of a parameter follows it after every step, float32.

    Early steps count more, so that no start value stays: after step t (from 0) the decay is
    min(decay, (1 + t) / (10 + t)).
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, weight_decay: float, average_decay: float
    ) -> None:
        """`average_decay` 0 averages nothing and holds no average: the last weights are what counts."""
        super().__init__(list(parameters), lr=lr, betas=ADAM_BETAS, weight_decay=weight_decay, fused=True)
        self.average_decay = average_decay

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the states that are as large as their parameter."""
        return ("exp_avg", "exp_avg_sq", *((AVERAGE,) if self.average_decay else ()))

    @torch.no_grad()
    def prepare(self, parameters: Iterable[Tensor]) -> None:
        """Make the states of `parameters` now instead of at their first step, so that they can be filled."""
        for parameter in parameters:
            state: dict[str, Any] = self.state[parameter]
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            for name in self.state_names:
                state[name] = torch.zeros_like(parameter)
            if self.average_decay:
                state[AVERAGE].copy_(parameter)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the parameters that have a gradient, then their averages."""
        result = super().step(closure)
        if self.average_decay:
            for group in self.param_groups:
                stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
                for parameter in stepped:
                    state = self.state[parameter]
                    taken = float(state["step"])  # 1 after the first step
                    decay = min(self.average_decay, taken / (_AVERAGE_WARM_UP + taken - 1))
                    state[AVERAGE].lerp_(parameter, 1 - decay)
        return result
