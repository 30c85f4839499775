"""Owns `l2p explain`: every parameter with its value and its meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from l2p.config import load_params
from l2p.errors import ConfigError


def add_to(app: typer.Typer) -> None:
    """Add `explain` to `app`."""
    app.command("explain", rich_help_panel="Project")(explain)


def explain(
    context: typer.Context,
    section: Annotated[str | None, typer.Argument(help="Only this section, for example `train`.")] = None,
) -> None:
    """Print every parameter, its value and what it means."""
    from rich.console import Console
    from rich.table import Table

    params = load_params(context.obj)
    sections = {info.alias or name: getattr(params, name) for name, info in type(params).model_fields.items()}
    if section is not None and section not in sections:
        raise ConfigError(f"{context.obj}: no section `{section}`; there are {', '.join(sections)}.")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for heading in ("parameter", "value", "meaning"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "parameter")
    for name in [section] if section else list(sections):
        table.add_row(f"[bold]{name}[/]", "", f"[bold]{(sections[name].__doc__ or '').strip()}[/]")
        for field, value, meaning in describe(sections[name]):
            table.add_row(f"  {field}", value, meaning)
        table.add_section()
    Console().print(table)


def describe(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted field name, value as text, description) of every field, nested ones included."""
    for name, info in type(section).model_fields.items():
        value: Any = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from describe(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "null" if value is None else str(value), info.description or ""
