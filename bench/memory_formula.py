"""Owns the formula of a training's memory before activations: what one process holds of a model at each ZeRO stage.

Taken from what DeepSpeed 0.19 was seen to hold; `python -m bench.memory --check` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.random_models import prepare
from l2p.config import Params
from l2p.models.pixel_transformer import PixelTransformer

FLOAT32 = 4
BUCKET_VALUES = 500_000_000  # DeepSpeed's default `reduce_bucket_size`: gradients that are summed at once, float32


@dataclass(frozen=True)
class Content:
    """What a model holds: trained values, bytes of frozen parameters as held, bytes of buffers."""

    trained: int
    frozen_bytes: int
    buffer_bytes: int


@dataclass(frozen=True)
class Share:
    """How one process of several holds a model in training.

    Of each trained value DeepSpeed holds, in float32: the model's own weight (whole below stage 3), a second copy that
    the optimizer updates (split at every stage), two states of AdamW and, if wanted, the average (split), and a
    gradient (whole until it is summed at stage 1; else split). In the step the gradients are once more copied, into
    one flat tensor. The bucket is where gradients are put before they are summed.
    """

    stage: int
    processes: int
    averages: bool = False
    bucket_values: int = BUCKET_VALUES

    @property
    def bucket_bytes(self) -> int:
        """Bytes of the bucket."""
        return FLOAT32 * self.bucket_values

    def between_steps(self, content: Content) -> float:
        """Bytes that are held all the time."""
        split = FLOAT32 * content.trained / self.processes
        states = (3 + self.averages) * split  # the copy, and AdamW's two
        if self.stage < 3:
            return FLOAT32 * content.trained + content.frozen_bytes + content.buffer_bytes + states
        weights_and_gradients = 2 * split + content.frozen_bytes / self.processes
        return weights_and_gradients + content.buffer_bytes + states + self.bucket_bytes

    def after_backward(self, content: Content) -> float:
        """Bytes at the last gradient of a backward pass, when activations are gone."""
        gradients = {1: 1.0, 2: 1 / self.processes, 3: 0.0}[self.stage] * FLOAT32 * content.trained
        return self.between_steps(content) + gradients + (self.bucket_bytes if self.stage < 3 else 0)

    def in_optimizer(self, content: Content) -> float:
        """Bytes while AdamW updates the weights."""
        return self.between_steps(content) + FLOAT32 * content.trained / self.processes

    def peak(self, content: Content) -> float:
        """Bytes at the worst moment: the last gradient, or just before AdamW, with the gradients twice."""
        flattening = FLOAT32 * content.trained / self.processes if self.stage < 3 else 0
        return max(self.after_backward(content), self.in_optimizer(content) + flattening)

    def offloaded(self, content: Content) -> tuple[float, float]:
        """Bytes on the GPU and in the machine's memory at the worst moment of stage 3 with everything offloaded."""
        assert self.stage == 3
        on_gpu = self.bucket_bytes + content.buffer_bytes
        return on_gpu, self.peak(content) - on_gpu


def content_of(model: PixelTransformer, params: Params) -> Content:
    """Count an empty pixel model as `params.train` holds it; what is trained stays set."""
    prepare(model, params)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    return Content(
        trained=trained,
        frozen_bytes=sum(parameter.numel() * parameter.element_size() for parameter in frozen),
        buffer_bytes=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
    )
