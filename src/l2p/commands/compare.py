"""Owns `l2p compare`: two evaluations side by side, part by part, with what is beyond chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from l2p.errors import MissingFileError

if TYPE_CHECKING:
    from rich.table import Table

    from l2p.evaluation.pairing import Pairing

_SCORES = "scores.json"
_BENCHMARKS = ("geneval", "dpg")


def add_to(app: typer.Typer) -> None:
    """Add `compare` to `app`."""
    app.command("compare", rich_help_panel="Models")(compare)


def compare(
    a: Annotated[Path, typer.Argument(help="Results of an evaluation, for example reports/geneval/source.")],
    b: Annotated[Path, typer.Argument(help="Results of another one, for example reports/geneval/pixel.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the table and both cards here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it: .png, .svg or .pdf.")] = None,
) -> None:
    """Compare two evaluations of the same prompts: scores, intervals, and which differences are beyond chance.

    A and B are result folders of one benchmark, or folders that hold those of several (`geneval`, `dpg`).
    """
    from rich.console import Console

    from l2p.evaluation import pairing_files
    from l2p.evaluation.pairing import pair

    pairings = [pair(*folders) for folders in _folders(a, b)]
    console = Console()
    for found in pairings:
        console.print(_table(found))
        console.print(_retention(found), style="dim")
    for path, write in (
        (csv, pairing_files.write_csv),
        (json, pairing_files.write_pairings),
        (figure, pairing_files.write_figure),
    ):
        if path is not None:
            write(pairings, path)
            typer.echo(f"wrote {path}")


def _folders(a: Path, b: Path) -> list[tuple[Path, Path]]:
    if (a / _SCORES).is_file() and (b / _SCORES).is_file():
        return [(a, b)]
    both = [(a / name, b / name) for name in _BENCHMARKS if all((of / name / _SCORES).is_file() for of in (a, b))]
    if not both:
        lacking = next(folder for folder in (b, a) if not (folder / _SCORES).is_file())
        raise MissingFileError(
            f"{lacking / _SCORES}: not found. `l2p evaluate` or `dvc repro` writes it; run that first."
        )
    return both


def _table(found: Pairing) -> Table:
    from rich.table import Table

    names = [card["model"]["name"] for card in found.cards]
    title = {"geneval": "GenEval", "dpg": "DPG-Bench"}[found.benchmark]
    table = Table(title=f"{title}, {found.n_prompts} prompts", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("", names[0], names[1], "difference", ""):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for part in found.parts:
        cells = (
            (part.a, part.a_interval, ""),
            (part.b, part.b_interval, ""),
            (part.difference, part.difference_interval, "+"),
        )
        texts = [
            f"{value:{sign}.{found.digits}f} [dim]({low:{sign}.{found.digits}f} .. {high:{sign}.{found.digits}f})[/]"
            for value, (low, high), sign in cells
        ]
        table.add_row(part.name, *texts, part.verdict)
    return table


def _retention(found: Pairing) -> str:
    overall = found.parts[0]
    kept = f"keeps {overall.b / overall.a:.3f} of the first's score; " if overall.a else ""
    return (
        f"the second {kept}intervals are 95 %; a verdict is beyond chance in {len(found.parts)} rows together (Holm)\n"
    )
