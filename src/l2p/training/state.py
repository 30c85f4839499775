"""Owns what a resumed training needs beside weights and optimizer: progress, the rate, what it was made for.

Random numbers are no state: they are drawn anew from (seed, step, sample), so a resumed run draws what an uninterrupted
one would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch

from l2p.config import Layout, Params, TrainParams
from l2p.errors import MissingFileError
from l2p.files import sha256_file
from l2p.models.delta import CONFIG, WEIGHTS
from l2p.models.embeddings import TENSORS

# They change no weight, or only how sums are rounded: a training may go on with others.
_NOT_IN_FINGERPRINT = {
    "checkpoint_every",
    "log_every",
    "sample_every",
    "validate_every",
    "geneval_every",
    "geneval_subset",
    "keep",
    "num_processes",
    "num_machines",
    "rendezvous",
    "hostfile",
    "gradient_checkpointing",
    "compile_blocks",
    "deepspeed",
}


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
    HELD_OUT = 4  # which prompts are held out
    VALIDATION = 5  # noise of one held-out image


def random_source(seed: int, purpose: Draw, *numbers: int) -> torch.Generator:
    """Random numbers that depend on these arguments alone; `numbers` are for example a step and a sample."""
    state = np.random.SeedSequence((seed, purpose, *numbers)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))  # torch takes 63 bits


def learning_rate(step: int, train: TrainParams) -> float:
    """Rate of step `step` (from 0): linear warm-up, plateau, linear or cosine fall towards 0 over `decay_share`."""
    warm_up = min(1.0, (step + 1) / max(1, train.warmup_steps))
    left = 1 - step / train.num_steps
    share = min(1.0, left / train.decay_share) if train.decay_share else 1.0
    fall = share if train.decay == "linear" else (1 - math.cos(math.pi * share)) / 2
    return train.learning_rate * warm_up * fall


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
