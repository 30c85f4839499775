"""Owns how a comparison of two evaluations is written: CSV, JSON, and a figure that opens without a network."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2p.errors import ConfigError
from l2p.evaluation.pairing import Pairing, Part
from l2p.files import atomic_path, write_json

FIGURES = (".png", ".svg", ".pdf")
TITLES = {"geneval": "GenEval", "dpg": "DPG-Bench"}
_COLUMNS = (
    "benchmark",
    "part",
    "a",
    "a_low",
    "a_high",
    "b",
    "b_low",
    "b_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "significant",
)
_A, _B, _INK = "#8a8f98", "#d9480f", "#2b2f36"


def write_csv(pairings: Sequence[Pairing], path: Path) -> None:
    """One line per benchmark and part."""
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(_COLUMNS)
        for pairing in pairings:
            table.writerows([pairing.benchmark, *_cells(part)] for part in pairing.parts)


def write_pairings(pairings: Sequence[Pairing], path: Path) -> None:
    """Everything, with the cards of both evaluations."""
    write_json(path, [asdict(pairing) for pairing in pairings])


def write_figure(pairings: Sequence[Pairing], path: Path) -> None:
    """Both models in every part with their intervals, one panel per benchmark; a star marks a real difference.

    Raises:
        ConfigError: a kind of file that is not known.
    """
    if path.suffix.lower() not in FIGURES:
        raise ConfigError(f"--figure {path}: expected a name that ends in {', '.join(FIGURES)}.")
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [len(pairing.parts) for pairing in pairings]
    figure, panels = pyplot.subplots(
        len(pairings),
        1,
        figsize=(8, 1.3 * len(pairings) + 0.38 * sum(rows)),
        gridspec_kw={"height_ratios": rows},
        squeeze=False,
        layout="constrained",
    )
    for pairing, panel in zip(pairings, panels[:, 0], strict=True):
        _draw_panel(pairing, panel)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=160, format=path.suffix[1:].lower())
    pyplot.close(figure)


def _draw_panel(pairing: Pairing, panel: Any) -> None:
    names = [card["model"]["name"] for card in pairing.cards]
    for place, part in enumerate(pairing.parts):
        for value, (low, high), color, offset in (
            (part.a, part.a_interval, _A, -0.14),
            (part.b, part.b_interval, _B, 0.14),
        ):
            panel.plot([low, high], [place + offset] * 2, color=color, linewidth=2.2, solid_capstyle="round")
            panel.plot([value], [place + offset], "o", color=color, markersize=6)
    labels = [f"{part.name} *" if part.significant else part.name for part in pairing.parts]
    panel.set_yticks(range(len(labels)), labels, color=_INK)
    panel.set_ylim(len(labels) - 0.5, -0.5)
    panel.set_title(TITLES[pairing.benchmark], loc="left", fontweight="bold", color=_INK)
    panel.set_xlabel("95 % intervals over prompts; * differs beyond chance (Holm, 5 %)", color=_A, fontsize=8)
    panel.grid(axis="x", color="#e9ecef")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    handles = [
        panel.plot([], [], "o-", color=color, label=name)[0] for name, color in zip(names, (_A, _B), strict=True)
    ]
    panel.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderaxespad=0)


def _cells(part: Part) -> list[Any]:
    intervals = (part.a, *part.a_interval, part.b, *part.b_interval, part.difference, *part.difference_interval)
    return [part.name, *intervals, part.p_value, part.significant]
