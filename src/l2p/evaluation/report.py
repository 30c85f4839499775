"""Owns reports/index.html: one page that holds its pictures, charts and style itself and opens without a network."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.config import Layout, Params
from l2p.errors import DataError, MissingFileError
from l2p.evaluation import pictures
from l2p.evaluation.ancestry import lineage_tree
from l2p.evaluation.charts import Chart, line_chart
from l2p.evaluation.comparison import read_scores
from l2p.files import atomic_path, read_json

TEMPLATE = "report.html.j2"
TITLES = {
    "single_object": "one object",
    "two_object": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "position",
    "color_attr": "colour of each",
}


@dataclass(frozen=True)
class Bar:
    """Score of both models in one part of a benchmark, in percent of the axis; intervals where there are any."""

    label: str
    source: float
    pixel: float
    source_interval: tuple[float, float] | None = None
    pixel_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class SizeFigures:
    """Both models at one image size; rows as in reports/efficiency.json."""

    resolution_px: int
    source: dict[str, Any]
    pixel: dict[str, Any]

    @property
    def longest_ms(self) -> float:
        """The longest bar of the time figure."""
        return max(row["denoise_step_ms"] + (row["decode_ms"] or 0) for row in (self.source, self.pixel))

    @property
    def largest_mb(self) -> float:
        """The longest bar of the memory figure."""
        return max(1.0, self.source["peak_memory_mb"] or 0, self.pixel["peak_memory_mb"] or 0)


def write_report(params: Params, comparison: Mapping[str, Any], path: Path = Layout.report) -> None:
    """Write the page.

    Args:
        params: of the project; shown at the end of the page.
        comparison: as `l2p.evaluation.comparison.compare` returns it.
        path: of the page.

    Raises:
        MissingFileError: a stage before this one has not run.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("l2p.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = format_figure
    environment.filters["observed"] = format_observed
    page = environment.get_template(TEMPLATE).render(**_content(params, comparison))
    with atomic_path(path) as partial:
        partial.write_text(page, encoding="utf-8")


def format_figure(value: float | None, digits: int = 3) -> str:
    """A number for reading: fixed digits, thousands separated, a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def format_observed(value: Any) -> str:
    """What an expectation saw: a number, a sentence, or a list of names."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _content(params: Params, comparison: Mapping[str, Any]) -> dict[str, Any]:
    geneval, dpg = read_scores(Layout.geneval), read_scores(Layout.dpg)
    return {
        "name": params.register_.name,
        "comparison": comparison,
        "geneval": geneval,
        "dpg": dpg,
        "geneval_bars": geneval_bars(geneval),
        "dpg_bars": dpg_bars(dpg),
        "geneval_pairs": {TITLES.get(tag, tag): pairs for tag, pairs in pictures.geneval_pairs().items()},
        "dpg_pairs": pictures.dpg_pairs(),
        "charts": training_charts(read_curves()),
        "samples": pictures.training_samples(),
        "training": read_json(Layout.training / "result.json", written_by="l2p train"),
        "sizes": size_figures(comparison["efficiency"]),
        "validation": read_json(Layout.validation / "result.json", written_by="l2p validate"),
        "lineage": lineage_tree(),
        "params": _flat(params.model_dump(mode="json", by_alias=True)),
    }


def geneval_bars(scores: Mapping[str, Any]) -> list[Bar]:
    """Overall and each task, 0..100."""
    source, pixel = scores["source"], scores["pixel"]
    bars = [_percent_bar("overall", (source["overall"], source["interval"]), (pixel["overall"], pixel["interval"]))]
    for tag in source["tags"]:
        values = ((model["tags"][tag], model["tag_intervals"][tag]) for model in (source, pixel))
        bars.append(_percent_bar(TITLES.get(tag, tag), *values))
    return bars


def dpg_bars(scores: Mapping[str, Any]) -> list[Bar]:
    """Overall (with its interval) and each category, 0..100."""
    source, pixel = scores["source"], scores["pixel"]
    overall = Bar("overall", source["overall"], pixel["overall"], tuple(source["interval"]), tuple(pixel["interval"]))
    common = [name for name in source["categories"] if name in pixel["categories"]]
    return [overall, *(Bar(name, source["categories"][name], pixel["categories"][name]) for name in common)]


def size_figures(efficiency: Mapping[str, Any]) -> list[SizeFigures]:
    """Rows of reports/efficiency.json, both models of a size together."""
    rows = {(row["resolution_px"], row["model"]): row for row in efficiency["rows"]}
    sizes = sorted({size for size, _ in rows})
    return [SizeFigures(size, rows[size, "source"], rows[size, "pixel"]) for size in sizes]


def read_curves(path: Path = Layout.training / "curves.csv") -> dict[str, list[float]]:
    """Columns of the training curves; an empty cell is not a number.

    Raises:
        MissingFileError: training has not run.
        DataError: no rows, no `step`, or a cell that is no number.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. `dvc repro train` writes it; run that first.")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or "step" not in rows[0] or "loss" not in rows[0]:
        raise DataError(
            f"{path}: expected columns `step` and `loss` and at least one row. Run `dvc repro -f -s train`."
        )
    try:
        return {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}
    except ValueError as error:
        raise DataError(f"{path}: {error}. Run `dvc repro -f -s train`.") from error


def training_charts(curves: Mapping[str, list[float]]) -> list[Chart]:
    """Loss, loss by noise level, gradient norm and learning rate: those that were recorded."""
    steps, parts = curves["step"], {name: values for name, values in curves.items() if name.startswith("loss_")}
    charts = [line_chart("Loss", steps, {"loss": curves["loss"]}, note="logarithmic", log=True)]
    if parts:
        named = {name.removeprefix("loss_").replace("_", " "): values for name, values in parts.items()}
        charts.append(line_chart("Loss by noise level", steps, named, note="logarithmic", log=True))
    for column, title in (("grad_norm", "Gradient norm"), ("learning_rate", "Learning rate")):
        if column in curves:
            charts.append(line_chart(title, steps, {title.lower(): curves[column]}, smooth=column != "learning_rate"))
    return charts


def _percent_bar(
    label: str, source: tuple[float, tuple[float, float]], pixel: tuple[float, tuple[float, float]]
) -> Bar:
    """A bar of two (score, interval) in 0..1."""
    (old, (old_low, old_high)), (new, (new_low, new_high)) = source, pixel
    return Bar(label, 100 * old, 100 * new, (100 * old_low, 100 * old_high), (100 * new_low, 100 * new_high))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
