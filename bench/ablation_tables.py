"""Owns how ablations are written: table.csv (everything), table.md (by question), and a figure of the differences."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.ablation_matrix import BASELINE, Group
from bench.ablation_scores import BENCHMARKS, COSTS, Figures, Row
from l2p.evaluation.pairing_files import TITLES
from l2p.evaluation.scores import Interval
from l2p.files import atomic_path

CSV, MARKDOWN, FIGURE = "table.csv", "table.md", "figure.png"

_MARK = " *"  # beyond chance
_DIGITS = {"geneval": 3, "dpg": 1}  # after the point, of scores and differences
_FIGURE_COLUMNS = (
    "score",
    "score_low",
    "score_high",
    "seed_low",
    "seed_high",
    "source",
    "retention",
    "retention_low",
    "retention_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "beyond_chance",
)
_REAL, _CHANCE, _INK = "#d9480f", "#8a8f98", "#2b2f36"
_MILLION = 1e6


def write_all(rows: Sequence[Row], groups: Mapping[str, Group], out: Path, *, heading: str) -> None:
    """Write table.csv, table.md and figure.png into `out`; `heading` says how the runs were made."""
    write_csv(rows, out / CSV)
    with atomic_path(out / MARKDOWN) as partial:
        partial.write_text("\n".join(markdown(rows, groups, heading)) + "\n", encoding="utf-8")
    write_figure(rows, groups, out / FIGURE)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line per comparison; what is not known is empty."""
    names = [f"{benchmark.name}_{column}" for benchmark in BENCHMARKS for column in _FIGURE_COLUMNS]
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["group", "variant", "against", "seeds", *names, *COSTS, "problem"])
        for row in rows:
            figures = [
                cell for benchmark in BENCHMARKS for cell in _cells(row.figures.get(benchmark.name), benchmark.scale)
            ]
            costs = [f"{row.costs[name]:.6g}" if row.costs else "" for name in COSTS]
            seeds = " ".join(map(str, row.seeds))
            table.writerow([row.group, row.variant, row.against, seeds, *figures, *costs, row.problem])


def markdown(rows: Sequence[Row], groups: Mapping[str, Group], heading: str) -> Iterator[str]:
    """Lines of table.md: a table per question, each with the baseline."""
    baseline = rows[0]
    yield from ("# Ablations", "", heading)
    for name, group in groups.items():
        own = [row for row in rows if row.group == name]
        if not own:
            continue
        yield from ("", f"## {group.question}", "", _HEAD, "|---" * _HEAD.count(" | ") + "|---|")
        yield _line(baseline, f"baseline: {group.baseline}")
        for row in own:
            yield _line(row, row.variant + ("" if row.against == BASELINE else f" against {row.against}"))
        if group.note:
            yield from ("", group.note)


def write_figure(rows: Sequence[Row], groups: Mapping[str, Group], path: Path) -> None:
    """The differences with their intervals, a panel per benchmark; coloured what is beyond chance."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for name in groups for row in rows if row.group == name and row.figures]
    height = 1.6 + 0.34 * max(1, len(shown))
    figure, panels = pyplot.subplots(1, len(BENCHMARKS), figsize=(11, height), sharey=True, layout="constrained")
    for benchmark, panel in zip(BENCHMARKS, panels, strict=True):
        _draw_panel(panel, shown, benchmark.name)
    labels = [row.variant + ("" if row.against == BASELINE else f"\nagainst {row.against}") for row in shown]
    panels[0].set_yticks(range(len(shown)), labels, color=_INK)
    panels[0].set_ylim(max(len(shown), 1) - 0.5, -0.5)
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=160, format="png")
    pyplot.close(figure)


def _draw_panel(panel: Any, shown: Sequence[Row], benchmark: str) -> None:
    for place, row in enumerate(shown):
        figures = row.figures[benchmark]
        if figures.difference is not None:
            color = _REAL if figures.beyond_chance else _CHANCE
            panel.plot(figures.difference.difference_interval, [place] * 2, color=color, linewidth=2.2)
            panel.plot([figures.difference.difference], [place], "o", color=color, markersize=6)
        if place and row.group != shown[place - 1].group:
            panel.axhline(place - 0.5, color="#dee2e6", linewidth=0.8)
    panel.axvline(0, color=_INK, linewidth=0.8)
    panel.set_title(f"{TITLES[benchmark]}: difference to the baseline", loc="left", fontweight="bold", color=_INK)
    panel.set_xlabel("95 % intervals over prompts; coloured: beyond chance (Holm, 5 %)", color=_CHANCE, fontsize=8)
    panel.grid(axis="x", color="#e9ecef")
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)


_HEAD = (
    "| "
    + " | ".join(
        ["variant"]
        + [f"{TITLES[each.name]} {column}" for each in BENCHMARKS for column in ("(95 %)", "retention", "difference")]
        + ["final loss", "trained, M", "minutes"]
    )
    + " |"
)


def _line(row: Row, label: str) -> str:
    if not row.figures:
        return f"| {label} | {row.problem} |" + " |" * (_HEAD.count(" | ") - 1)
    cells = [label if not row.problem else f"{label} ({row.problem})"]
    for benchmark in BENCHMARKS:
        figures, digits = row.figures[benchmark.name], _DIGITS[benchmark.name]
        kept = figures.retention
        cells += [
            _with_interval(figures.score, figures.interval, digits),
            "" if kept.value is None else _with_interval(kept.value, kept.interval, 3),
            _difference(figures, digits),
        ]
    costs = row.costs
    cells += [
        f"{costs['final_loss']:.4f}",
        f"{costs['trainable_parameters'] / _MILLION:.2f}",
        f"{costs['minutes']:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _difference(figures: Figures, digits: int) -> str:
    part = figures.difference
    if part is None:
        return ""
    low, high = part.difference_interval
    mark = _MARK if figures.beyond_chance else ""
    return f"{part.difference:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f}){mark}"


def _with_interval(value: float, interval: Interval | None, digits: int) -> str:
    return f"{value:.{digits}f}" + (
        "" if interval is None else f" ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"
    )


def _cells(figures: Figures | None, scale: float) -> list[str]:
    if figures is None:
        return [""] * len(_FIGURE_COLUMNS)
    kept, part = figures.retention, figures.difference
    numbers: list[float | None] = [figures.score, *figures.interval, *figures.seed_range, scale * kept.source]
    numbers += [kept.value, *(kept.interval or (None, None))]
    numbers += [None] * 4 if part is None else [part.difference, *part.difference_interval, part.p_value]
    return [
        *("" if number is None else f"{number:.6g}" for number in numbers),
        "" if part is None else str(figures.beyond_chance),
    ]
