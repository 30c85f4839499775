"""Owns the instruments: a clock on a pipeline's scheduler, and peak memory of this process or its accelerator."""

from __future__ import annotations

import functools
import gc
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

MIB = 1 << 20
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): resets VmHWM of the process


class StepClock:
    """Times a diffusers pipeline by its scheduler's calls, whatever the pipeline.

    A step is the time from one `scheduler.step` to the next (the first from `set_timesteps`); what follows the last one
    is decoding.
    """

    def __init__(self, pipeline: Any) -> None:
        """`pipeline` is any pipeline whose loop calls `scheduler.set_timesteps` once and `scheduler.step` each step."""
        self._scheduler = pipeline.scheduler
        self._on_gpu = str(pipeline.device).startswith("cuda")
        self._marks_s: list[float] = []
        self._end_s = 0.0

    def __enter__(self) -> StepClock:
        """Start listening."""
        for name in ("set_timesteps", "step"):
            setattr(self._scheduler, name, self._marking(getattr(self._scheduler, name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._end_s = self._now_s()
        for name in ("set_timesteps", "step"):
            delattr(self._scheduler, name)  # uncovers the method of the class

    @property
    def step_s(self) -> list[float]:
        """Seconds of each denoising step."""
        return [after - before for before, after in itertools.pairwise(self._marks_s)]

    @property
    def decode_s(self) -> float:
        """Seconds from the last step to the finished image."""
        return self._end_s - self._marks_s[-1]

    def _marking(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)  # pipelines look at the signature
        def marked(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            self._marks_s.append(self._now_s())
            return result

        return marked

    def _now_s(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


class MemoryMeter:
    """Peak memory of what runs between `start` and `peak_bytes`, above what was in use before.

    On CUDA the allocator's, on Linux the resident set's. Elsewhere the peak cannot be reset, so nothing is measured.
    """

    def __init__(self, device: str) -> None:
        """`device` is "cuda" or "cpu"."""
        self._device = device
        self._base = 0

    def start(self) -> None:
        """Give back what is held but not used, and count from here."""
        empty_caches(self._device)
        if self._device == "cuda":
            self._base = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        elif _CLEAR_REFS.exists():
            self._base = _resident_bytes("VmRSS")
            _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")

    def peak_bytes(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self._device == "cuda":
            return torch.cuda.max_memory_allocated() - self._base
        return max(0, _resident_bytes("VmHWM") - self._base) if _CLEAR_REFS.exists() else None


def empty_caches(device: str) -> None:
    """Give back what is held but not used, so that it is not counted."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def touch_weights(pipeline: Any) -> int:
    """Read every weight of a pipeline once, so that none is loaded later; returns their bytes."""
    total = 0
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for tensor in itertools.chain(part.parameters(), part.buffers()):
                tensor.sum()
                total += tensor.numel() * tensor.element_size()
    return total


def _resident_bytes(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024
