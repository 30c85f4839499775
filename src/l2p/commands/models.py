"""Owns the commands on registered models: verify one, promote it to champion, go back to the champion before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from l2p.config import load_params

if TYPE_CHECKING:
    from l2p.registry.promotion import Promotion

PANEL = "Models"

Reference = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="A registered version; or NAME/VERSION.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a registered model.")]


def add_to(app: typer.Typer) -> None:
    """Add `verify`, `promote` and `rollback` to `app`."""
    for command in (verify, promote, rollback):
        app.command(command.__name__, rich_help_panel=PANEL)(command)


def verify(context: typer.Context, reference: Reference) -> None:
    """Prove that a registered model is what these files made."""
    from l2p.stages import register

    version = register.verify(load_params(context.obj), reference)
    typer.echo(f"{version}: lineage, weights and a drawing from the registry verified")


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
