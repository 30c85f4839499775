"""Owns one drawing between its preparation and its image: what decides it, and what a callback sees of each step."""

# B batch, C channels, H W pixels

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from l2p.diffusion.path import x0_from_velocity
from l2p.errors import ModelError
from l2p.models.adapters.base import Guidance, TextInputs
from l2p.models.pipeline_images import Known
from l2p.models.pipeline_schedule import Schedule

Generators = torch.Generator | list[torch.Generator] | None


@dataclass(frozen=True)
class Drawing:
    """All that decides a batch of images, before the first step.

    `text` is of the batch, followed by that of the negative prompts if it is guided; `noise` [B, 3, H, W] is the end of
    the path at sigma 1.
    """

    text: TextInputs
    guidance: Guidance
    noise: Tensor
    schedule: Schedule
    known: Known | None

    def start(self) -> Tensor:
        """Noisy pixels at the first sigma."""
        return self.noise if self.known is None else self.known.at(self.schedule.sigmas[0], self.noise)

    def keep(self, pixels: Tensor, sigma: Tensor) -> Tensor:
        """`pixels` with what is not to be redrawn put back, as it is at `sigma`."""
        return pixels if self.known is None else self.known.kept_in(pixels, sigma, self.noise)


@dataclass(frozen=True)
class Step:
    """One call of the model: noisy pixels before and after it, the sigma before it, and the velocity there."""

    before: Tensor
    after: Tensor
    sigma: Tensor
    velocity: Tensor

    def tensor(self, name: str, drawing: Drawing) -> Tensor:
        """What callbacks call `name`."""
        if name == "latents":
            return self.after
        if name == "velocity":
            return self.velocity
        x0 = x0_from_velocity(self.before, self.velocity, self.sigma.expand(len(self.before)))
        return drawing.keep(x0, torch.zeros_like(self.sigma))


class StepCallback:
    """A user's callback, in the form of diffusers."""

    def __init__(self, function: Callable[..., Any] | None, names: Sequence[str], allowed: Sequence[str]) -> None:
        """A `PipelineCallback` says itself which tensors it wants.

        Raises:
            ModelError: an unknown tensor.
        """
        self._function, self._allowed = function, allowed
        self._names = list(getattr(function, "tensor_inputs", names))
        self._refuse_unknown(self._names, "callback_on_step_end_tensor_inputs")

    def __call__(self, pipeline: Any, place: tuple[int, Tensor], step: Step, drawing: Drawing) -> Tensor:
        """Noisy pixels to go on with: the step's, or what the callback returns as "latents".

        Args:
            pipeline: handed to the callback.
            place: index and timestep of the step.
            step: what happened.
            drawing: what is drawn.

        Raises:
            ModelError: the callback returns an unknown tensor, or one of another shape.
        """
        if self._function is None:
            return step.after
        tensors = {name: step.tensor(name, drawing) for name in self._names}
        returned = self._function(pipeline, *place, tensors) or {}
        self._refuse_unknown(returned, "what callback_on_step_end returned")
        pixels: Tensor = returned.get("latents", step.after)
        if pixels.shape != step.after.shape:
            raise ModelError(
                f"callback_on_step_end returned latents of shape {list(pixels.shape)}, "
                f"expected {list(step.after.shape)}."
            )
        return pixels

    def _refuse_unknown(self, names: Any, where: str) -> None:
        if unknown := [name for name in names if name not in self._allowed]:
            raise ModelError(f"{where}: no tensor {unknown[0]!r}. There are {', '.join(self._allowed)}.")


def starting_noise(
    shape: tuple[int, ...], generator: Generators, latents: Tensor | None, device: torch.device
) -> Tensor:
    """White noise [B, 3, H, W], float32, or the noise that is given.

    Raises:
        ModelError: as many generators as images are needed, or noise of that shape.
    """
    if isinstance(generator, list) and len(generator) != shape[0]:
        raise ModelError(f"generator: {len(generator)} given for {shape[0]} images. Give one, or one per image.")
    if latents is None:
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
    if latents.shape != shape:
        raise ModelError(f"latents: noise of shape {list(latents.shape)} given, expected {list(shape)}.")
    return latents.to(device, torch.float32)


def solver_settings(scheduler: Any, generator: Generators) -> dict[str, Any]:
    """What `scheduler.step` takes besides the usual: the generator, where it draws noise of its own."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": generator} if "generator" in takes else {}
