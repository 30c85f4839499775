"""Owns `l2p summary`: the figures of the last run as one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from l2p.config import Layout
from l2p.files import read_json

if TYPE_CHECKING:
    from rich.table import Table


def add_to(app: typer.Typer) -> None:
    """Add `summary` to `app`."""
    app.command("summary", rich_help_panel="Project")(summary)


def summary() -> None:
    """Print the figures of the last run and the registered model."""
    from rich.console import Console

    figures = read_json(Layout.summary, written_by="dvc repro")
    console = Console()
    console.print("", _scores(figures["geneval"], figures["dpg"]), "")
    console.print(_efficiency(figures["efficiency"]), "")
    console.print(f"report  {Layout.report}")
    console.print(f"model   {_model(figures['model'], figures['verified'])}")


def _new_table(*headings: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _scores(geneval: dict[str, Any], dpg: dict[str, Any]) -> Table:
    table = _new_table("score", "source", "pixel", "retention", "95 % interval")
    for title, benchmark, parts, digits in (("GenEval", geneval, "tags", 3), ("DPG-Bench", dpg, "categories", 1)):
        values = [f"{benchmark[model]:.{digits}f}" for model in ("source", "pixel")]
        kept, interval = benchmark["retention"], benchmark["interval"]
        values.append("none" if kept is None else f"{kept:.3f}")
        shown = "none" if interval is None else "{:.3f} .. {:.3f}".format(*interval)
        table.add_row(*(f"[bold]{value}[/]" for value in (title, *values)), shown)
        for name, part in benchmark[parts].items():
            table.add_row(f"  {name}", *(f"{part[model]:.{digits}f}" for model in ("source", "pixel")))
    return table


def _efficiency(efficiency: dict[str, Any]) -> Table:
    table = _new_table("one image", "size", "denoising step", "decoding", "peak memory")
    for row in efficiency["rows"]:
        decode = "none" if row["decode_ms"] is None else f"{row['decode_ms']:.1f} ms"
        peak, size = row["peak_memory_mb"], f"{row['resolution_px']} px"
        memory = "not measured" if peak is None else f"{peak:.0f} MB"
        table.add_row(row["model"], size, f"{row['denoise_step_ms']:.1f} ms", decode, memory)
    return table


def _model(model: dict[str, Any] | None, verified: bool) -> str:
    if model is None:
        return "not registered yet (`l2p register`)"
    aliases = ", ".join(f"@{alias}" for alias in model["aliases"]) or "no alias"
    return f"{model['name']} version {model['version']} ({aliases}), {'verified' if verified else 'NOT verified'}"
