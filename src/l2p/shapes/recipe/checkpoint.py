"""Owns the recipe's checkpoints: one file per phase, written atomically, so that a killed run goes on where it was."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, containers) to `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint of ours, or None where there is none yet."""
    return torch.load(path, weights_only=True) if path.exists() else None


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers that depend on the step alone: a resumed run draws what an uninterrupted one would."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)
