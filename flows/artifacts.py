"""Owns what a flow shows in the Prefect UI when it is done: the score table and the pictures, self-contained."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from prefect.artifacts import create_link_artifact

from l2p.config import Layout
from l2p.files import read_json

PROMPTS_SHOWN = 8
TILE_PX = 96
MAX_GRID_PX = 640
_GAP_PX = 4
MLFLOW_UI_VARIABLE = "L2P_MLFLOW_UI"  # address of the MLflow server's pages, where there is one

BENCHMARKS = (("GenEval", "geneval", "tags", 3), ("DPG-Bench", "dpg", "categories", 1))


def score_table(summary: Mapping[str, Any]) -> str:
    """reports/summary.json as Markdown: scores, retention, and the registered model."""
    lines = ["| score | source | pixel | retention | 95 % interval |", "|---|---:|---:|---:|---|"]
    for title, name, parts, digits in BENCHMARKS:
        benchmark = summary[name]
        kept, interval = benchmark["retention"], benchmark["interval"]
        lines.append(
            f"| **{title}** | {benchmark['source']:.{digits}f} | {benchmark['pixel']:.{digits}f} "
            f"| {'not defined' if kept is None else f'{kept:.3f}'} "
            f"| {'none' if interval is None else f'{interval[0]:.3f} to {interval[1]:.3f}'} |"
        )
        for part, score in benchmark[parts].items():
            lines.append(f"| {part} | {score['source']:.{digits}f} | {score['pixel']:.{digits}f} | | |")
    return "\n".join([*lines, "", _model_line(summary["model"], summary["verified"])])


def page(root: Path) -> str:
    """The score table with the pictures under it, as one Markdown text."""
    summary = read_json(root / Layout.summary, written_by="l2p register")
    parts = ["# Conversion", score_table(summary)]
    for title, image in pictures(root):
        parts.append(f"## {title}\n\n![{title}]({data_uri(image)})")
    return "\n\n".join(parts) + "\n"


def pictures(root: Path) -> Iterator[tuple[str, Image.Image]]:
    """(title, picture) of what there is: both models side by side, and the last sample grid of the training."""
    rows = side_by_side(root)
    if rows is not None:
        yield "The same prompts and seeds: source above, pixel model below", rows
    samples = sorted((root / Layout.training / "samples").glob("step-*.png"))
    if samples:
        with Image.open(samples[-1]) as file:
            grid = file.convert("RGB")
        grid.thumbnail((MAX_GRID_PX, MAX_GRID_PX))
        yield f"Samples at step {int(samples[-1].stem.split('-')[1])}", grid


def side_by_side(root: Path) -> Image.Image | None:
    """GenEval images of both models, prompts spread evenly over the benchmark; None without images of both."""
    folders = [root / Layout.geneval / model / "images" for model in ("source", "pixel")]
    names = [
        path.relative_to(folders[0])
        for path in sorted(folders[0].glob("*/samples/0000.png"))
        if (folders[1] / path.relative_to(folders[0])).is_file()
    ]
    if not names:
        return None
    shown = [names[i * len(names) // PROMPTS_SHOWN] for i in range(min(PROMPTS_SHOWN, len(names)))]
    step = TILE_PX + _GAP_PX
    grid = Image.new("RGB", (len(shown) * step - _GAP_PX, 2 * step - _GAP_PX), "white")
    for row, folder in enumerate(folders):
        for column, name in enumerate(shown):
            with Image.open(folder / name) as image:
                grid.paste(image.convert("RGB").resize((TILE_PX, TILE_PX)), (column * step, row * step))
    return grid


def data_uri(image: Image.Image) -> str:
    """A picture inside its own address, so that the UI needs no file server."""
    stream = io.BytesIO()
    image.save(stream, format="WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def link_to_version(name: str, version: int) -> None:
    """Link the registered version in the MLflow UI, where its address is known."""
    if address := os.environ.get(MLFLOW_UI_VARIABLE):
        link = f"{address.rstrip('/')}/#/models/{name}/versions/{version}"
        create_link_artifact(
            link, key="registered-version", link_text=f"{name} version {version}", description="The version in MLflow."
        )


def _model_line(model: Mapping[str, Any] | None, verified: bool) -> str:
    if model is None:
        return "Not registered."
    aliases = ", ".join(f"`@{alias}`" for alias in model["aliases"]) or "no alias"
    state = "verified" if verified else "**not verified**"
    return f"Registered as `{model['name']}` version {model['version']} ({aliases}), {state}."
