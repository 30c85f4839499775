"""Owns what a training tells while it goes on: curves.csv, the progress line, and the tracker (an MLflow run).

Only rank 0 tells; the others only add up their losses.
"""

from __future__ import annotations

import csv
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from l2p.files import atomic_path

BAND_EDGES = (1 / 3, 2 / 3)  # of sigma
BANDS = ("low", "mid", "high")
COLUMNS = (
    "step",
    "loss",
    *(f"loss_{band}" for band in BANDS),
    "grad_norm",
    "learning_rate",
    "images_per_s",
    "memory_mb",
    "val_loss",
    *(f"val_loss_{band}" for band in BANDS),
    "geneval",
)
_MB_PER_GB = 1024
_LINE_EVERY_S = 30.0  # where there is no terminal for a progress bar


class Tracker(Protocol):
    """Where live numbers and sample grids go."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record the metrics of one step."""

    def log_image(self, image: Any, *, key: str, step: int) -> None:
        """Record a grid, uint8 RGB."""


class LossSums:
    """Sums and counts of per-sample losses, for all noise levels and by band of sigma."""

    def __init__(self, device: torch.device) -> None:
        """Start at nothing."""
        self._edges = torch.tensor(BAND_EDGES, device=device)
        self._sums = torch.zeros(2, len(BANDS), dtype=torch.float64, device=device)

    def add(self, sigma: Tensor, per_sample: Tensor) -> None:
        """Take in losses [B] at noise levels sigma [B]."""
        bands = torch.bucketize(sigma, self._edges)
        values = torch.stack([per_sample.detach(), torch.ones_like(per_sample)]).double()
        self._sums.index_add_(1, bands, values)

    def take(self) -> Tensor:
        """[2, bands] sums and counts since the last call."""
        taken = self._sums.clone()
        self._sums.zero_()
        return taken


class Record:
    """curves.csv, the console and the tracker of rank 0."""

    def __init__(self, folder: Path, tracker: Tracker, *, num_steps: int, batch_size: int) -> None:
        """`folder` gets curves.csv; `num_steps` of `batch_size` images are the whole training."""
        self._path, self._tracker, self._num_steps = folder / "curves.csv", tracker, num_steps
        self._batch_size = batch_size
        self._bar: Any = None
        self._line_at = time.monotonic()
        self._loss = math.nan

    def steps(self, start: int) -> Iterator[int]:
        """Steps from `start`, with a progress bar; drops rows of curves.csv that a resumed training writes again."""
        rows = [row for row in _read_rows(self._path) if int(row["step"]) <= start]
        with atomic_path(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        self._loss = next((float(row["loss"]) for row in reversed(rows) if row["loss"]), math.nan)
        self._bar = tqdm(
            range(start, self._num_steps), desc="train", unit="step", initial=start, total=self._num_steps, disable=None
        )
        yield from self._bar

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Record the figures after `step` steps; those that are not a number are left empty."""
        known = {name: value for name, value in figures.items() if math.isfinite(value)}
        self._loss = known.get("loss", self._loss)
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in known.items()}
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            csv.DictWriter(stream, COLUMNS, restval="").writerow(row)
        self._tracker.log_metrics(known, step=step)
        self._tell(step, known)

    @property
    def final_loss(self) -> float:
        """The last logged training loss."""
        return self._loss

    def image(self, grid: Any, step: int) -> None:
        """Hand a sample grid on."""
        self._tracker.log_image(grid, key="samples", step=step)

    def _tell(self, step: int, figures: Mapping[str, float]) -> None:
        measured = "val_loss" in figures or "geneval" in figures
        if not self._bar.disable:
            self._bar.set_postfix_str(self._line(figures))
            if measured:
                self._bar.write(f"step {step}: {_measured(figures)}")
        elif measured or time.monotonic() - self._line_at > _LINE_EVERY_S or step == self._num_steps:
            self._line_at = time.monotonic()
            parts = (
                f"step {step}/{self._num_steps}",
                self._line(figures),
                _measured(figures),
                self._left(step, figures),
            )
            print("  ".join(part for part in parts if part), flush=True)

    def _line(self, figures: Mapping[str, float]) -> str:
        if "loss" not in figures:
            return ""
        bands = " ".join(f"{figures[f'loss_{band}']:.3g}" if f"loss_{band}" in figures else "-" for band in BANDS)
        speed = f"{figures['images_per_s']:.1f} images/s" if "images_per_s" in figures else ""
        memory = f"{figures['memory_mb'] / _MB_PER_GB:.1f} GB" if "memory_mb" in figures else ""
        gradient = f"gradient {figures['grad_norm']:.2g}" if "grad_norm" in figures else ""
        parts = (f"loss {figures['loss']:.4f} ({bands})", gradient, speed, memory)
        return "  ".join(part for part in parts if part)

    def _left(self, step: int, figures: Mapping[str, float]) -> str:
        if not figures.get("images_per_s") or step >= self._num_steps:
            return ""
        seconds = (self._num_steps - step) * self._batch_size / figures["images_per_s"]
        return f"{tqdm.format_interval(seconds)} left"


def _measured(figures: Mapping[str, float]) -> str:
    names = {"val_loss": "held-out loss {:.4f}", "geneval": "GenEval {:.3f}"}
    return "  ".join(form.format(figures[name]) for name, form in names.items() if name in figures)


def loss_figures(sums: Tensor) -> dict[str, float]:
    """Mean loss, over all and per band, of `LossSums.take`; a band without samples is NaN."""
    totals, counts = sums.tolist()
    means = {
        f"loss_{band}": total / count if count else math.nan
        for band, total, count in zip(BANDS, totals, counts, strict=True)
    }
    return {"loss": sum(totals) / sum(counts), **means}


def memory_mb(device: torch.device) -> float:
    """Peak memory of this process in MiB: of the GPU if there is one, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if tuple(row) == COLUMNS and None not in row.values()]
