"""Owns `l2p preset`: params.yaml for a published source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from l2p.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add `preset` to `app`."""
    app.command("preset", rich_help_panel="Project")(preset)


def preset(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Without a name: list them.")] = None,
    source: Annotated[str | None, typer.Option(help="Folder or repository id in place of the preset's.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the repository.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write, if not params.yaml itself.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Give up changes that git does not hold.")] = False,
) -> None:
    """Lay a preset for a published source over params.yaml."""
    from l2p import presets

    folder = context.obj.parent / presets.FOLDER
    if name is None:
        _refuse_options(source=source, revision=revision, out=out, force=force)
        known = presets.list_presets(folder)
        width = max(map(len, known))
        for each, summary in known.items():
            typer.echo(f"{each:<{width}}  {summary}")
        return
    merged = presets.merged_params(context.obj, folder / f"{name}.yaml", source=source, revision=revision)
    path = out or context.obj
    presets.write_params(path, presets.render(merged, preset=name), force=force)
    typer.echo(f"{path}: written with preset {name}")
    for step in _next_steps(merged, path.parent):
        typer.echo(f"next: {step}")


def _refuse_options(**options: object) -> None:
    if given := [f"--{option}" for option, value in options.items() if value]:
        raise ConfigError(f"{given[0]}: needs the name of a preset. `l2p preset` lists them.")


def _next_steps(params: dict[str, Any], project: Path) -> Iterator[str]:
    """What a preset cannot know."""
    source, prompts = params["source"], params["prompts"]
    if source["revision"] is None and not (project / source["path"]).is_dir():
        yield f"source.revision: the commit of {source['path']} (or --revision, or --source FOLDER for local weights)"
    if prompts["path"] is not None and not (project / prompts["path"]).is_file():
        yield f"{prompts['path']}: one prompt a line, at least {prompts['count']:,}"
    yield "dvc repro train efficiency"
