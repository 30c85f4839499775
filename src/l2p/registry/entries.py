"""Owns the values that a store takes: metric points, dataset inputs, and parameters by dotted name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_PARAM_CHARS = 6000  # of MLflow


@dataclass(frozen=True)
class Dataset:
    """An input of a run, named by its content; `dvc_md5` is the name that DVC knows it by, if it does."""

    name: str
    sha256: str
    path: str
    context: str
    dvc_md5: str | None = None


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric; `time_ms` is milliseconds since 1970."""

    name: str
    value: float
    step: int
    time_ms: int

    @classmethod
    def now(cls, name: str, value: float, step: int) -> MetricPoint:
        """A value measured just now."""
        return cls(name, float(value), step, time.time_ns() // 1_000_000)


def param_text(value: Any) -> str:
    """A parameter's value as MLflow keeps it."""
    return str(value)[:_MAX_PARAM_CHARS]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
