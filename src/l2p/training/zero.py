"""Owns where ZeRO puts the trained weights and their optimizer states, and how to read and write them whole.

Stages 1 and 2 split the optimizer states over the processes, stage 3 the weights too. Everything here is collective:
every process calls it, with the same names in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from l2p.training.optimizer import AVERAGE, AveragingAdamW

WEIGHT = "weight"


class Shards:
    """The trained parameters of one model by name, as DeepSpeed's engine holds them."""

    def __init__(self, engine: Any, parameters: Mapping[str, nn.Parameter]) -> None:
        """`engine` is DeepSpeed's; makes the optimizer's states, which it would make at the first step."""
        self._zero, self._parameters = engine.optimizer, dict[str, Any](parameters)
        self.split_weights = engine.zero_optimization_stage() == 3
        self._optimizer: AveragingAdamW = self._zero.optimizer
        self._optimizer.prepare(self._flats())
        if not self.split_weights:
            self._zero._lazy_init_hp_params_optimizer_state()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What there is of every parameter: its weight, and the states of the optimizer."""
        return (WEIGHT, *self._optimizer.state_names)

    @property
    def names(self) -> list[str]:
        """Names of the trained parameters."""
        return list(self._parameters)

    @property
    def steps_taken(self) -> int:
        """Steps of the optimizer so far."""
        return int(next(iter(self._states()))["step"])

    @steps_taken.setter
    def steps_taken(self, steps: int) -> None:
        for state in self._states():
            state["step"].fill_(steps)

    def local_numel(self) -> int:
        """Number of values with optimizer states in this process."""
        return sum(state["exp_avg"].numel() for state in self._states())

    @torch.no_grad()
    def read(self, name: str, kind: str) -> Tensor:
        """A weight or state of the parameter `name`, float32, of its own shape."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self._parameters[name]
        found = (
            safe_get_full_fp32_param(parameter) if kind == WEIGHT else safe_get_full_optimizer_state(parameter, kind)
        )
        assert found is not None
        shape = parameter.ds_shape if self.split_weights else parameter.shape
        whole: Tensor = found.reshape(shape)
        return whole

    @torch.no_grad()
    def write(self, name: str, kind: str, value: Tensor) -> None:
        """Set what `read` reads; the model's own copy of the weights follows with `update_model`."""
        from deepspeed.utils import (
            safe_set_full_fp32_param,
            safe_set_full_optimizer_state,
            safe_set_local_fp32_param,
            safe_set_local_optimizer_state,
        )

        parameter = self._parameters[name]
        if self.split_weights:
            mine = self._mine(parameter, value)
            if kind == WEIGHT:
                safe_set_local_fp32_param(parameter, mine)
            else:
                safe_set_local_optimizer_state(parameter, mine, kind)
        elif kind == WEIGHT:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, kind)

    @torch.no_grad()
    def update_model(self, kind: str = WEIGHT) -> None:
        """Give the model the weights, or the averages, in place of what it has."""
        from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

        if not self.split_weights:
            for name, parameter in self._parameters.items():
                parameter.copy_(self.read(name, kind))
            return
        self._zero.parameter_offload.partition_all_parameters()  # else a weight in use keeps its old values
        for parameter in self._parameters.values():
            local = (
                safe_get_local_fp32_param(parameter)
                if kind == WEIGHT
                else safe_get_local_optimizer_state(parameter, kind)
            )
            parameter.ds_tensor.copy_(local.view_as(parameter.ds_tensor))
        if kept := self._zero.persistent_parameters:  # small weights that stage 3 holds whole
            kept[0].all_gather(kept)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """The model has the averaged weights within the block, and exactly its own again after it."""
        if AVERAGE not in self.kinds:
            yield
            return
        self.update_model(AVERAGE)
        try:
            yield
        finally:
            self.update_model()

    def _flats(self) -> list[Tensor]:
        zero = self._zero
        return list(zero.fp32_partitioned_groups_flat if self.split_weights else zero.single_partition_of_fp32_groups)

    def _states(self) -> Iterator[dict[str, Any]]:
        return (self._optimizer.state[flat] for flat in self._flats())

    def _mine(self, parameter: Any, value: Tensor) -> Tensor:
        """This process's part of a whole tensor, padded as stage 3 pads it."""
        length = parameter.ds_tensor.numel()
        padded = torch.zeros(length * torch.distributed.get_world_size(), dtype=value.dtype)
        padded[: math.prod(value.shape)] = value.flatten().cpu()
        return padded[torch.distributed.get_rank() * length :][:length].to(parameter.ds_tensor.device)


@contextmanager
def whole(parameters: list[Any]) -> Iterator[None]:
    """The parameters are whole within the block, also where stage 3 splits them; only for reading."""
    import deepspeed

    split = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(split, modifier_rank=None, enabled=bool(split)):
        yield
