"""Owns the card of a prompt set: its figures as a dictionary, and the same as a picture."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.files import atomic_path, sha256_json

BIN_CHARS = 25
MAX_BARS = 24  # more classes than this are shown as the largest ones
MIN_ROWS = 8
LABEL_CHARS = 32
_INK, _ACCENT = "#2a4d69", "#c0562f"


def describe_table(table: pd.DataFrame) -> dict[str, Any]:
    """Count, count by style (and by main class), digest of the texts with their styles, and lengths."""
    figures: dict[str, Any] = {
        "count": len(table),
        "by_style": _counts(table["style"]),
        "sha256": sha256_json(table[["text", "style"]].to_numpy().tolist()),
        "length_chars": _lengths(table["text"].str.len()),
    }
    if "main_class" in table.columns:
        figures["by_main_class"] = _counts(table["main_class"])
        figures["fine_classes"] = int(table["fine_class"].nunique())
    return figures


def draw_card(path: Path, report: dict[str, Any]) -> None:
    """Write the report's distributions of length, class and reasons as a PNG, atomically."""
    from matplotlib.figure import Figure

    styles = dict(Counter(report["by_style"]).most_common(MAX_BARS))
    figure = Figure(figsize=(12, max(3.2, 0.24 * len(styles) + 1.2)), layout="constrained")
    lengths, classes, reasons = figure.subplots(1, 3)
    starts = [int(start) for start in report["length_chars"]["histogram"]]
    lengths.bar(starts, report["length_chars"]["histogram"].values(), BIN_CHARS * 0.92, align="edge", color=_INK)
    lengths.set(title="Length", xlabel="characters", ylabel="prompts")
    _bars(classes, styles, _INK)
    classes.set(title="Classes" if len(styles) == len(report["by_style"]) else f"The {MAX_BARS} largest classes")
    _bars(reasons, report["rejected"]["by_reason"], _ACCENT)
    reasons.set(title=f"Rejected: {report['rejected']['count']:,}")
    figure.suptitle(f"{report['count']:,} prompts")
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=110, metadata={"Software": None})


def _bars(axes: Any, counts: dict[str, int], color: str) -> None:
    places = range(len(counts))
    axes.barh(places, list(counts.values()), color=color)
    axes.set_yticks(places, [_label(name) for name in counts])
    axes.set_ylim(max(len(counts), MIN_ROWS) - 0.4, -0.6)  # the first on top, and a single bar no slab
    axes.set_xlabel("prompts")
    if not counts:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)


def _label(name: str) -> str:
    """A name on one line; a dollar sign would begin a formula."""
    return textwrap.shorten(name.replace("_", " "), LABEL_CHARS, placeholder="…").replace("$", r"\$")


def _counts(column: pd.Series) -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().sort_index().items()}


def _lengths(lengths: pd.Series) -> dict[str, Any]:
    bins = (lengths // BIN_CHARS * BIN_CHARS).value_counts().sort_index()
    return {
        "min": int(lengths.min()),
        "median": float(lengths.median()),
        "mean": round(float(lengths.mean()), 1),
        "max": int(lengths.max()),
        "histogram": {str(start): int(count) for start, count in bins.items()},
    }
