"""Owns the training loop: flow matching in pixel space (decision 0001), one optimizer step after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from l2p.config import Layout, TrainParams
from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate
from l2p.errors import TrainingError
from l2p.files import write_json
from l2p.models.pixel_transformer import PixelTransformer
from l2p.training.checkpoints import Checkpoints
from l2p.training.clock import Clock
from l2p.training.engine import Engine
from l2p.training.preview import Preview
from l2p.training.record import LossSums, Record, loss_figures, memory_mb
from l2p.training.samples import Batch, Samples
from l2p.training.state import Ema, Progress, learning_rate


@dataclass(frozen=True)
class Desk:
    """What only rank 0 has: averaged weights, sample grids, and where everything is told."""

    ema: Ema
    preview: Preview
    record: Record


class Trainer:
    """One process of one training."""

    def __init__(
        self,
        model: PixelTransformer,
        engine: Engine,
        samples: Samples,
        *,
        train: TrainParams,
        checkpoints: Checkpoints,
        desk: Desk | None,
    ) -> None:
        """`desk` is given to rank 0 and nobody else."""
        self._model, self._engine, self._samples, self._train = model, engine, samples, train
        self._checkpoints, self._desk = checkpoints, desk
        self._losses = LossSums(engine.device)

    def run(self, progress: Progress) -> Progress:
        """Train from `progress` to the end; returns where it stands then.

        Raises:
            TrainingError: a loss or a gradient is not finite.
        """
        train, clock = self._train, Clock(progress.seconds)
        batches = self._samples.batches(progress.step, train.num_steps)
        for step, batch in zip(self._steps(progress.step), batches, strict=True):
            rate = learning_rate(step, train)
            self._step(step, batch, rate)
            if self._desk:
                self._desk.ema.update(step)
            done = step + 1
            if self._due(done, train.log_every):
                self._log(done, rate, clock.images_per_s(done * train.batch_size))
            with clock.paused():
                if self._due(done, train.checkpoint_every):
                    self._checkpoints.save(Progress(done, clock.seconds), self._desk.ema if self._desk else None)
                if self._desk and self._due(done, train.sample_every):
                    self._draw(self._desk, done)
        return Progress(train.num_steps, clock.seconds)

    def _step(self, step: int, batch: Batch, rate: float) -> None:
        for start in range(0, len(batch.rows), self._engine.micro_batch_size):
            part = batch.part(start, start + self._engine.micro_batch_size).to(self._engine.device)
            loss = self._loss(part, step)
            self._engine.backward(loss)
            self._engine.step(rate)
        if not math.isfinite(self._engine.grad_norm):
            raise TrainingError(
                f"step {step}: the gradient is not finite although the loss is. Lower train.learning_rate, or set "
                "train.dtype: float32; the last checkpoint is from before."
            )

    def _loss(self, batch: Batch, step: int) -> Tensor:
        x0, noise, sigma = batch.x0_BCHW, batch.noise_BCHW, batch.sigma_B
        noisy = interpolate(x0, noise, sigma)
        prediction = self._engine.predict(noisy, sigma, self._model.adapter.collate(batch.embeddings))
        loss, per_sample = flow_matching_loss(
            prediction,
            x0,
            noise,
            sigma,
            prediction_type=self._model.config.prediction,
            min_sigma=self._train.min_sigma_weight,
        )
        if not torch.isfinite(loss):
            raise self._not_finite(batch, per_sample, step)
        self._losses.add(sigma, per_sample)
        return loss

    def _steps(self, start: int) -> Iterator[int]:
        return self._desk.record.steps(start) if self._desk else iter(range(start, self._train.num_steps))

    def _due(self, done: int, every: int) -> bool:
        return done % every == 0 or done == self._train.num_steps

    def _log(self, done: int, rate: float, images_per_s: float) -> None:
        figures = loss_figures(self._engine.sum_over_processes(self._losses.take()))
        if self._desk:
            figures |= {
                "grad_norm": self._engine.grad_norm,
                "learning_rate": rate,
                "images_per_s": images_per_s,
                "memory_mb": memory_mb(self._engine.device),
            }
            self._desk.record.log(done, figures)

    def _draw(self, desk: Desk, done: int) -> None:
        with desk.ema.swapped_in():
            grid = desk.preview.save(done)
        desk.record.image(grid, done)

    def _not_finite(self, batch: Batch, per_sample: Tensor, step: int) -> TrainingError:
        path = Layout.training / f"not-finite-rank{self._engine.rank}.json"
        names = ("row", "prompt_id", "sigma", "loss")
        values = (batch.rows, batch.prompt_ids, batch.sigma_B.tolist(), [str(loss) for loss in per_sample.tolist()])
        samples = [dict(zip(names, sample, strict=True)) for sample in zip(*values, strict=True)]
        write_json(path, {"step": step, "samples": samples})
        bad = [sample["prompt_id"] for sample in samples if not math.isfinite(float(sample["loss"]))]
        return TrainingError(
            f"step {step}: the loss is not finite for prompts {', '.join(map(repr, bad[:5]))} ({len(bad)} in all, in "
            f"{path}). Lower train.learning_rate, or set train.dtype: float32."
        )
