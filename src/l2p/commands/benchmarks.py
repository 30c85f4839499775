"""Owns `l2p benchmarks`: fetch, check and list the prompt sets of GenEval and DPG-Bench."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import typer

FOLDER = Path("benchmarks")
Name = Literal["geneval", "dpg"]
_TITLES = {"geneval": "GenEval", "dpg": "DPG-Bench"}


def add_to(app: typer.Typer) -> None:
    """Add `benchmarks` with its commands to `app`."""
    group = typer.Typer(help="Fetch, check and list the benchmarks' prompts.", no_args_is_help=True)
    for command in (fetch, check, list_):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="benchmarks", rich_help_panel="Project")


def fetch(
    name: Annotated[Name, typer.Argument(help="Which benchmark.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Take it from this file, folder or clone instead of the network.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for it. [default: benchmarks/NAME]")] = None,
    force: Annotated[bool, typer.Option(help="Replace other files in that folder.")] = False,
    any_version: Annotated[bool, typer.Option(help="With --from: take another version than the pinned one.")] = False,
) -> None:
    """Fetch a benchmark's official files, pinned by commit and digest."""
    from l2p.evaluation.benchmark_fetch import OFFICIAL, copy_local, count_prompts
    from l2p.evaluation.benchmark_fetch import fetch as fetch_official

    official, target = OFFICIAL[name], out or FOLDER / name
    if source is None:
        main = fetch_official(official, target, force=force)
    else:
        main = copy_local(official, source, target, force=force, any_version=any_version)
    typer.echo(f"{main}: {count_prompts(official, main)} prompts, {official.licence}, from {source or official.url}")
    if any_version:
        typer.echo("The version was not checked: its scores cannot be compared with published ones.")


def check(
    path: Annotated[str, typer.Argument(help="Official file (.jsonl: GenEval, .csv: DPG-Bench), or geneval:shapes.")],
) -> None:
    """Read a prompt set, name the first wrong line or say what it holds."""
    from l2p.evaluation.benchmark_data import load_dpg, load_geneval

    with tempfile.TemporaryDirectory() as folder:
        kind, _, named = path.partition(":")
        is_dpg = kind == "dpg" if named else Path(path).suffix == ".csv"
        if is_dpg:
            dense = load_dpg(named or path, Path(folder))
            questions = [question for item in dense.items for question in item.questions]
            typer.echo(f"DPG-Bench, {len(dense.items)} prompts, {len(questions)} questions, sha256 {dense.digest[:12]}")
            counts = Counter(question.broad_category for question in questions)
        else:
            data = load_geneval(named or path, Path(folder))
            typer.echo(f"GenEval, {len(data.prompts)} prompts, sha256 {data.digest[:12]}")
            counts = Counter(prompt.tag for prompt in data.prompts)
    for name, count in counts.items():
        typer.echo(f"  {name}: {count}")


def list_() -> None:
    """List the prompt sets that there are."""
    from l2p.evaluation.benchmark_data import DPG_DATA, GENEVAL_DATA
    from l2p.evaluation.benchmark_fetch import OFFICIAL

    for name, built_in in (("geneval", GENEVAL_DATA), ("dpg", DPG_DATA)):
        for data in built_in:
            typer.echo(f"{_TITLES[name]}  {data}  built in")
        main = FOLDER / name / OFFICIAL[name].files[0]
        state = "fetched" if main.is_file() else f"not there; `l2p benchmarks fetch {name}`"
        typer.echo(f"{_TITLES[name]}  {main}  {state}")
