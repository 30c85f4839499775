"""Owns what a resumed training needs beside the engine's state: progress, averaged weights, what it was made for.

Random numbers are no state: they are drawn anew from (seed, step, sample), so a resumed run draws what an uninterrupted
one would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from l2p.config import Layout, Params, TrainParams
from l2p.errors import MissingFileError
from l2p.files import sha256_file
from l2p.models.delta import CONFIG, WEIGHTS
from l2p.models.embeddings import TENSORS
from l2p.models.weights import read_tensors

_NOT_IN_FINGERPRINT = {"checkpoint_every", "log_every", "sample_every"}  # they change no weight
_EMA_WARM_UP = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a training is; `seconds` is the time it took so far, interruptions left out."""

    step: int = 0
    seconds: float = 0.0


class Draw(IntEnum):
    """What random numbers are drawn for; each purpose has its own."""

    ORDER = 1  # of the images in one epoch
    STEP = 2  # noise levels and dropped captions of one step
    NOISE = 3  # of one sample of one step


def random_source(seed: int, purpose: Draw, *numbers: int) -> torch.Generator:
    """Random numbers that depend on these arguments alone; `numbers` are an epoch, a step, or a step and a sample."""
    state = np.random.SeedSequence((seed, purpose, *numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


def learning_rate(step: int, train: TrainParams) -> float:
    """Rate of step `step` (from 0): linear warm-up, plateau, linear fall towards 0 over the last `decay_share`."""
    warm_up = min(1.0, (step + 1) / max(1, train.warmup_steps))
    left = 1 - step / train.num_steps
    decay = min(1.0, left / train.decay_share) if train.decay_share else 1.0
    return train.learning_rate * warm_up * decay


class Ema:
    """Exponential moving average of the trained parameters, float32, on their device."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        """Start at the present values; `decay` 0 keeps the last ones."""
        self._parameters = dict(parameters)
        self._decay = decay
        self._averages = {name: p.detach().clone().float() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step `step` (from 0); early steps count more, so that no start value stays."""
        decay = min(self._decay, (1 + step) / (_EMA_WARM_UP + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._parameters.values()), 1 - decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model has the averaged weights within the block, and exactly its own again after it."""
        own = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        self._write(self._averages)
        try:
            yield
        finally:
            self._write(own)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        save_file({name: average.contiguous() for name, average in self._averages.items()}, path)

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """Read what `save` wrote."""
        stored = read_tensors(path)
        assert stored.keys() == self._averages.keys(), "the fingerprint pins what is trained"
        for name, average in self._averages.items():
            average.copy_(stored[name])

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            parameter.copy_(values[name])


def fingerprint(params: Params) -> dict[str, Any]:
    """Everything on which the trained weights depend: parameters, and digests of the files that training reads.

    Raises:
        MissingFileError: one of those files is not there.
    """
    files = {
        Layout.manifest: "validate",
        Layout.embeddings / TENSORS: "embed",
        Layout.init / CONFIG: "convert",
        Layout.init / WEIGHTS: "convert",
        Layout.source: "source",
    }
    train = params.train.model_dump(mode="json", exclude=_NOT_IN_FINGERPRINT)
    digests = {str(path): _digest(path, written_by=stage) for path, stage in files.items()}
    return {"train": train, "convert": params.convert.model_dump(mode="json"), "files": digests}


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str | None:
    """The first value that differs, in words, or None."""
    for name in [*new, *(name for name in old if name not in new)]:
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            if found := first_difference(before, now, f"{prefix}{name}."):
                return found
        elif before != now:
            return f"{prefix}{name} was {_short(before)} and is {_short(now)}"
    return None


def _digest(path: Path, *, written_by: str) -> str:
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `l2p {written_by}` writes it; run that first.")
    return sha256_file(path)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
