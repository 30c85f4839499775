"""Owns the instruments: a clock on a pipeline's scheduler, and peak memory of this process or its accelerator."""

from __future__ import annotations

import functools
import gc
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def memory_meter(device: str) -> Iterator[Callable[[], int]]:
    """Yield a function that tells the peak since it was last asked, in bytes above what is in use now.

    On CUDA the allocator's own peak; on Linux that of the resident set, reset each time; elsewhere that of the whole
    process, which cannot be reset.
    """
    base = _in_use(device)
    _reset_peak(device)

    def peak_bytes() -> int:
        peak = max(0, _peak(device) - base)
        empty_caches(device)
        _reset_peak(device)
        return peak

    yield peak_bytes


def empty_caches(device: str) -> None:
    """Give back what is held but not used, so that it is not counted."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).malloc_trim(0)


def resident_weights_bytes(pipeline: Any) -> int:
    """Bytes of all weights of a pipeline; every page of them is touched, so that none is loaded later."""
    total = 0
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for tensor in itertools.chain(part.parameters(), part.buffers()):
                tensor.sum()
                total += tensor.numel() * tensor.element_size()
    return total


def _in_use(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else _resident("VmRSS")


def _peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")


def _reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR_REFS.exists():
        _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")


def _resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) in bytes."""
    if not _STATUS.exists():
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{field}:"))) * 1024
