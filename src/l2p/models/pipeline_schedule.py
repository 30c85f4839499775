"""Owns the steps of a drawing: which diffusers schedulers can serve, and the sigma of each of the model's calls.

A scheduler's sigmas are ours (decision 0001), 1 = noise; its timesteps are only handed back to it, because their unit
and rounding are its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from l2p.errors import ModelError, SourceError
from l2p.models.source import SourcePin, load_source_config

_FLOW_NAMES = "FlowMatch"  # how the names of diffusers' schedulers begin that know nothing but flow
_FLOW_SETTINGS = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}  # what the others need


@dataclass(frozen=True)
class Schedule:
    """The model's calls in one drawing: `timesteps` [n] for `scheduler.step`, `sigmas` [n + 1], the last after it."""

    timesteps: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        """Number of calls; a Heun step takes two."""
        return len(self.timesteps)


def is_flow(scheduler: Any) -> bool:
    """Whether the scheduler solves the straight path of flow matching, from a velocity eps - x0."""
    config = scheduler.config
    if type(scheduler).__name__.startswith(_FLOW_NAMES):
        return not config.get("invert_sigmas")
    return all(config.get(key) == value for key, value in _FLOW_SETTINGS.items())


def make_schedule(
    scheduler: Any,
    *,
    num_steps: int,
    sigmas: list[float] | None,
    dynamic_shift: Callable[..., float],
    strength: float,
    device: torch.device,
) -> Schedule:
    """Set the scheduler up for one drawing.

    Args:
        scheduler: any of diffusers' flow schedulers.
        num_steps: of the solver; not read if there are `sigmas`.
        sigmas: noise levels before the time shift, from 1 downwards; None = evenly spaced.
        dynamic_shift: the adapter's, for the tokens of one image; called if the scheduler's shift depends on them.
        strength: share of the steps that is taken, the last ones, in (0, 1].
        device: of what the solver computes with.

    Raises:
        ModelError: no flow scheduler, or one that cannot do what is asked.
    """
    check_flow(scheduler)
    num_steps = num_steps if sigmas is None else len(sigmas)
    fewest = 2 if scheduler.config.get("shift_terminal") else 1  # a terminal sigma cannot be that of the start too
    if num_steps < fewest:
        raise ModelError(f"num_inference_steps = {num_steps}: expected at least {fewest} with this scheduler.")
    takes = inspect.signature(scheduler.set_timesteps).parameters
    if sigmas is not None and "sigmas" not in takes:
        raise ModelError(f"sigmas: {type(scheduler).__name__} spaces its own. Give num_inference_steps instead.")
    spaced = np.linspace(1.0, 1 / num_steps, num_steps) if sigmas is None else _falling(sigmas)
    settings: dict[str, Any] = {"sigmas": spaced} if "sigmas" in takes else {"num_inference_steps": num_steps}
    if scheduler.config.get("use_dynamic_shifting"):
        settings["mu"] = dynamic_shift(scheduler.config, num_steps=num_steps)
    scheduler.set_timesteps(device=device, **settings)
    begin = scheduler.order * (num_steps - max(1, round(num_steps * strength)))
    scheduler.set_begin_index(begin)  # else it looks a timestep up, and rounded ones can be equal
    schedule = Schedule(scheduler.timesteps[begin:], scheduler.sigmas[begin:].to(device, torch.float32))
    if not 0 <= float(schedule.sigmas.min()) <= float(schedule.sigmas.max()) <= 1:
        raise ModelError(
            f"{type(scheduler).__name__}: its sigmas go from {float(schedule.sigmas.max()):.3g} to "
            f"{float(schedule.sigmas.min()):.3g}, expected 1 to 0. Build it without use_karras_sigmas and the like."
        )
    return schedule


def _falling(sigmas: list[float]) -> np.ndarray:
    spaced = np.asarray(sigmas, dtype=np.float64)
    if not (spaced[-1] > 0 and spaced[0] <= 1 and (np.diff(spaced) < 0).all()):
        raise ModelError(f"sigmas = {spaced.tolist()}: expected falling noise levels, at most 1 and above 0.")
    return spaced


def check_flow(scheduler: Any) -> None:
    """Refuse a scheduler that solves another process.

    Raises:
        ModelError: says how to build it for flow matching.
    """
    if not is_flow(scheduler):
        raise ModelError(
            f"scheduler {type(scheduler).__name__} does not solve flow matching. Use FlowMatchEulerDiscreteScheduler, "
            "FlowMatchHeunDiscreteScheduler, or DPMSolverMultistepScheduler and UniPCMultistepScheduler with "
            f"{', '.join(f'{key}={value!r}' for key, value in _FLOW_SETTINGS.items())}."
        )


def build_scheduler(pin: SourcePin, shift: float | None) -> Any:
    """The source's own scheduler, with its own or the given time shift.

    Raises:
        SourceError: the source's scheduler is none for flow matching, and no shift is given for one that is.
    """
    config = load_source_config(pin, "scheduler")
    own: Any = getattr(diffusers, str(config["_class_name"]))
    scheduler = own.from_config(config)
    if not is_flow(scheduler):
        if shift is None:
            raise SourceError(
                f"{pin.path}/scheduler: {own.__name__} does not solve flow matching, so it has no time shift to take "
                "over. Set sampling.pixel.shift."
            )
        return FlowMatchEulerDiscreteScheduler(shift=shift)
    if shift is None:
        return scheduler
    name = "shift" if "shift" in inspect.signature(own.__init__).parameters else "flow_shift"
    changes = {name: shift, "use_dynamic_shifting": False}
    return own.from_config({**config, **{key: value for key, value in changes.items() if key in scheduler.config}})
