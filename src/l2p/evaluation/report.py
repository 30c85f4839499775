"""Owns reports/index.html: source beside pixel model in every figure, with samples of what both draw."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.config import Layout, Params
from l2p.errors import DataError, MissingFileError
from l2p.evaluation import dpg, geneval
from l2p.evaluation.ancestry import lineage_tree
from l2p.evaluation.bars import dpg_bars, geneval_bars
from l2p.evaluation.charts import Axes, Chart, line_chart
from l2p.evaluation.comparison import read_scores
from l2p.evaluation.dense_gallery import dense_groups
from l2p.evaluation.gallery import geneval_groups
from l2p.evaluation.pages import flatten, write_page
from l2p.evaluation.pictures import training_samples
from l2p.evaluation.retention import MODELS, read_rows
from l2p.evaluation.sharpness import read_sharpness
from l2p.files import read_json

TEMPLATE = "report.html.j2"


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
    write_page(TEMPLATE, _content(params, comparison), path)


def _content(params: Params, comparison: Mapping[str, Any]) -> dict[str, Any]:
    geneval_scores, dpg_scores = read_scores(Layout.geneval), read_scores(Layout.dpg)
    return {
        "name": params.register_.name,
        "comparison": comparison,
        "geneval": geneval_scores,
        "dpg": dpg_scores,
        "geneval_bars": geneval_bars(geneval_scores),
        "dpg_bars": dpg_bars(dpg_scores),
        "groups": geneval_groups(*_runs(Layout.geneval, geneval.RESULTS)),
        "dense": dense_groups(*_runs(Layout.dpg, dpg.ANSWERS)),
        "charts": training_charts(read_curves()),
        "samples": training_samples(),
        "training": read_json(Layout.training / "result.json", written_by="l2p train"),
        "sharpness": read_sharpness(),
        "sizes": size_figures(comparison["efficiency"]),
        "validation": read_json(Layout.validation / "result.json", written_by="l2p validate"),
        "lineage": lineage_tree(),
        "params": flatten(params.model_dump(mode="json", by_alias=True)),
    }


def _runs(folder: Path, table: str) -> tuple[dict[str, Path], dict[str, list[dict[str, Any]]]]:
    """Folders of both models and the rows of a table in them, by the name of the model."""
    folders = {model: folder / model for model in MODELS}
    command = f"l2p {folder.name} --model"
    return folders, {model: read_rows(place / table, f"{command} {model}") for model, place in folders.items()}


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
    """Loss, held-out loss, both by noise level, gradient norm, learning rate, GenEval: those that were recorded."""
    curves = {name: values for name, values in curves.items() if any(map(math.isfinite, values))}
    steps = curves["step"]
    logarithmic = Axes(note="logarithmic", log=True)
    charts = [line_chart("Loss", steps, {"loss": curves["loss"]}, logarithmic)]
    for prefix, title in (("loss_", "Loss by noise level"), ("val_loss_", "Held-out loss by noise level")):
        parts = {name: values for name, values in curves.items() if name.startswith(prefix)}
        if parts:
            named = {name.removeprefix(prefix).replace("_", " "): values for name, values in parts.items()}
            charts.append(line_chart(title, steps, named, logarithmic))
    if "geneval" in curves:
        charts.append(
            line_chart("Small GenEval", steps, {"GenEval": curves["geneval"]}, Axes(smooth=False, whole=True))
        )
    for column, title in (("grad_norm", "Gradient norm"), ("learning_rate", "Learning rate")):
        if column in curves:
            axes = Axes(smooth=column != "learning_rate")
            charts.append(line_chart(title, steps, {title.lower(): curves[column]}, axes))
    return charts
