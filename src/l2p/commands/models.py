"""Owns the commands on registered models: where one came from, is it so, promote it, go back to the champion before."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from l2p.config import load_params
from l2p.errors import LineageError

if TYPE_CHECKING:
    from l2p.registry.promotion import Promotion

PANEL = "Models"
WIDTH = 100  # characters of a line of the tree, at least

Reference = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="A registered version; or NAME/VERSION.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a registered model.")]


def add_to(app: typer.Typer) -> None:
    """Add `lineage`, `verify`, `promote` and `rollback` to `app`."""
    for command in (lineage, verify, promote, rollback):
        app.command(command.__name__, rich_help_panel=PANEL)(command)


def lineage(context: typer.Context, reference: Reference) -> None:
    """Show where a registered model came from: run, weights, training, corpus, prompts, source."""
    from l2p.registry.store import Store
    from l2p.registry.tree import describe
    from l2p.registry.versions import ModelRegistry

    settings = load_params(context.obj).register_
    version = ModelRegistry(settings.tracking_uri).resolve(reference)
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    for depth, node in enumerate(describe(Store(settings.tracking_uri, settings.experiment), version)):
        indent = "   " * depth
        typer.echo(f"{indent[:-3]}{'└─ ' if depth else ''}{node.title}")
        for line in node.lines:
            begin = f"{indent}   "
            typer.echo(textwrap.fill(line, max(width, WIDTH), initial_indent=begin, subsequent_indent=f"{begin}  "))


def verify(context: typer.Context, reference: Reference) -> None:
    """Check a registered model link by link against the bytes that are here.

    Exit code 0: every link holds; 1: some cannot be reached from here, the others hold; 2: one is broken.
    """
    from l2p.registry.links import State
    from l2p.stages import register

    found = []
    for link in register.verify(load_params(context.obj), reference):
        found.append(link.state)
        typer.echo(f"{link.state:<12} {link.name:<19} {link.told}")
    broken, away = found.count(State.BROKEN), found.count(State.UNREACHABLE)
    if broken:
        raise LineageError(f"{reference}: {broken} of {len(found)} links are broken; see the lines above.")
    if away:
        typer.echo(f"{reference}: {len(found) - away} links hold, {away} cannot be reached from here")
        raise typer.Exit(1)
    typer.echo(f"{reference}: all {len(found)} links hold")


def promote(context: typer.Context, reference: Reference) -> None:
    """Make a registered model the champion, through the gate."""
    from l2p.registry import promotion
    from l2p.registry.versions import ModelRegistry

    params = load_params(context.obj)
    wanted = ModelRegistry(params.register_.tracking_uri).resolve(reference)
    _tell(promotion.promote(params, wanted.name, wanted.version))


def rollback(context: typer.Context, name: Name) -> None:
    """Make the champion before the present one champion again."""
    from l2p.registry import promotion

    _tell(promotion.rollback(load_params(context.obj), name))


def _tell(outcome: Promotion) -> None:
    typer.echo(f"champion is {outcome.champion}")
    for reason in outcome.reasons:
        typer.echo(f"  {reason}")
