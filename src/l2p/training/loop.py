"""Owns the training loop: flow matching in pixel space (decision 0001), one optimizer step after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from l2p.config import Layout, TrainParams
from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate
from l2p.errors import TrainingError
from l2p.files import write_json
from l2p.models.pixel_transformer import PixelTransformer
from l2p.training.checkpoints import Best, Checkpoints
from l2p.training.clock import Clock
from l2p.training.engine import Engine
from l2p.training.preview import Draw, Preview
from l2p.training.record import LossSums, Record, loss_figures, memory_mb
from l2p.training.samples import Batch, Samples
from l2p.training.state import Progress, learning_rate
from l2p.training.validation import Validation

BEST_BY = {
    "best_val_loss": ("val_loss", -1),
    "best_geneval": ("geneval", 1),
}  # metric, and its sign when more is better


class Probe(Protocol):
    """A measurement of the weights that the model has now; every process makes it if ZeRO splits the weights."""

    def __call__(self, draw: Draw) -> dict[str, float]:
        """Figures by their column in curves.csv; `draw` is how the model draws now."""
        ...


@dataclass(frozen=True)
class Gauges:
    """What measures and shows the weights now and then; `record` is where rank 0 tells it, None elsewhere."""

    preview: Preview
    validation: Validation | None
    probe: Probe | None
    record: Record | None


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
        gauges: Gauges,
    ) -> None:
        """`model` is the one that `engine` trains."""
        self._model, self._engine, self._samples, self._train = model, engine, samples, train
        self._checkpoints, self._gauges = checkpoints, gauges
        self._losses = LossSums(engine.device)

    def run(self, progress: Progress) -> Progress:
        """Train from `progress` to the end; returns where it stands then.

        Raises:
            TrainingError: a loss or a gradient is not finite, or a checkpoint cannot be written.
        """
        train, clock = self._train, Clock(progress.seconds)
        batches = self._samples.batches(progress.step, train.num_steps)
        for step, batch in zip(self._steps(progress.step), batches, strict=True):
            rate = learning_rate(step, train)
            self._step(step, batch, rate)
            done = step + 1
            figures: dict[str, float] = {}
            if self._due(done, train.log_every):
                figures |= self._progress(rate, clock.images_per_s(done * train.batch_size))
            seconds = clock.seconds
            with clock.paused():
                # A checkpoint comes last: a run that is killed before it measures and draws again.
                figures |= self._measure(done)
                if figures and self._gauges.record:
                    self._gauges.record.log(done, figures)
                if self._due(done, train.checkpoint_every):
                    self._checkpoints.save(Progress(done, seconds))
        return Progress(train.num_steps, clock.seconds)

    def _step(self, step: int, batch: Batch, rate: float) -> None:
        for start in range(0, len(batch.rows), self._engine.micro_batch_size):
            part = batch.part(start, start + self._engine.micro_batch_size).to(self._engine.device)
            loss = self._loss(part, step)
            self._engine.backward(loss)
            self._engine.step(rate)
        if not math.isfinite(self._engine.grad_norm):
            path = self._write_samples(batch, step, None)
            raise TrainingError(
                f"step {step}: the gradient is not finite although the loss is; its samples are in {path}. Lower "
                "train.learning_rate, or set train.dtype: float32; the last checkpoint is from before."
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
        record = self._gauges.record
        return record.steps(start) if record else iter(range(start, self._train.num_steps))

    def _due(self, done: int, every: int) -> bool:
        return bool(every) and (done % every == 0 or done == self._train.num_steps)

    def _progress(self, rate: float, images_per_s: float) -> dict[str, float]:
        figures = loss_figures(self._engine.sum_over_processes(self._losses.take()))
        return figures | {
            "grad_norm": self._engine.grad_norm,
            "learning_rate": rate,
            "images_per_s": images_per_s,
            "memory_mb": memory_mb(self._engine.device),
        }

    def _measure(self, done: int) -> dict[str, float]:
        """Whatever is due of held-out loss, GenEval and sample grid, by the averaged weights."""
        gauges, train = self._gauges, self._train
        validation = gauges.validation if self._due(done, train.validate_every) else None
        probe = gauges.probe if self._due(done, train.geneval_every) else None
        preview = gauges.preview if self._due(done, train.sample_every) else None
        if not (validation or probe or preview):
            return {}
        figures: dict[str, float] = {}
        draws = self._engine.rank == 0 or self._engine.shards.split_weights
        with self._engine.drawing():
            if validation:
                figures |= validation.measure()
            if probe:
                figures |= self._engine.agree(probe(gauges.preview.draw_prompts) if draws else None)
            if preview and draws:
                grid = preview.draw()
                if gauges.record:
                    gauges.record.image(preview.save(grid, done), done)
        self._keep_best(figures, done)
        return figures

    def _keep_best(self, figures: dict[str, float], done: int) -> None:
        metric, sign = BEST_BY.get(self._train.keep, ("", 0))
        if metric not in figures:
            return
        before = self._checkpoints.best(metric)
        if before is None or sign * (figures[metric] - before.value) > 0:
            self._checkpoints.save_best(Best(metric, figures[metric], done))

    def _not_finite(self, batch: Batch, per_sample: Tensor, step: int) -> TrainingError:
        path = self._write_samples(batch, step, per_sample)
        losses = per_sample.tolist()
        bad = [prompt for prompt, loss in zip(batch.prompt_ids, losses, strict=True) if not math.isfinite(loss)]
        return TrainingError(
            f"step {step}: the loss is not finite for prompts {', '.join(map(repr, bad[:5]))} ({len(bad)} in all, in "
            f"{path}). Lower train.learning_rate, or set train.dtype: float32."
        )

    def _write_samples(self, batch: Batch, step: int, per_sample: Tensor | None) -> Path:
        """What this process trained on in a step, so that it can be looked at again."""
        path = Layout.training / f"not-finite-rank{self._engine.rank}.json"
        names = ("row", "prompt_id", "sigma", "loss")
        losses = ["unknown"] * len(batch.rows) if per_sample is None else [str(loss) for loss in per_sample.tolist()]
        values = (batch.rows, batch.prompt_ids, batch.sigma_B.tolist(), losses)
        samples = [dict(zip(names, sample, strict=True)) for sample in zip(*values, strict=True)]
        write_json(path, {"step": step, "seed": self._train.seed, "samples": samples})
        return path
