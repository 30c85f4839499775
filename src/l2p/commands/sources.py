"""Owns `l2p sources`: which published models can be converted, and how large they and their trained parts are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from l2p.models.adapters import Adapter
    from l2p.models.families import KnownSource

BILLION = 1e9
_PROBE = 5.0  # any scale at which the forms of guidance differ


@dataclass(frozen=True)
class Table:
    """Rows of text under headings; the first `words` columns are words, the others numbers."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int


def add_to(app: typer.Typer) -> None:
    """Add `sources` to `app`."""
    app.command("sources", rich_help_panel="Project")(sources)


def sources(
    markdown: Annotated[bool, typer.Option("--markdown", help="As the tables of docs/supported-sources.md.")] = False,
) -> None:
    """List the published models that can be converted, with the size of what is trained."""
    from rich.console import Console

    tables = source_tables()
    if markdown:
        typer.echo("\n\n".join(map(to_markdown, tables)))
        return
    for table in tables:
        _print(table, Console())


def source_tables() -> tuple[Table, Table, Table]:
    """Where the sources are, how they are called, and their sizes; counted from the configurations, without weights."""
    from l2p.models.adapters import get_adapter
    from l2p.models.families import known_sources
    from l2p.models.families.sizes import TRAINED_ENDS, count_sizes

    places, calls, sizes = [], [], []
    for known in known_sources():
        adapter, size = get_adapter(known.transformer_class), count_sizes(known)
        places.append((known.name, known.repository, known.licence))
        classes = (known.transformer_class, adapter.pipeline_class)
        calls.append((known.name, *classes, known.prompt_encoder, describe_guidance(adapter, known)))
        trained = [f"{size.trained[ends] / BILLION:.2f}" for ends in TRAINED_ENDS]
        total, whole = f"{size.parameters / BILLION:.2f}", (size.token_dim, size.blocks, size.native_patch_px)
        sizes.append((known.name, total, *map(str, whole), *trained))
    ends_headings = tuple(f"n = {ends}" for ends in TRAINED_ENDS)
    return (
        Table(("source", "repository", "licence of the weights"), tuple(places), 3),
        Table(("source", "transformer", "pipeline", "prompt encoder", "guidance_scale is"), tuple(calls), 5),
        Table(("source", "billion", "token width", "blocks", "native patch, px", *ends_headings), tuple(sizes), 1),
    )


def describe_guidance(adapter: Adapter, known: KnownSource) -> str:
    """What the scale of the source's own pipeline is, told from what the adapter makes of it (decision 0001)."""
    found = adapter.guidance(_PROBE, known.settings)
    if found.embedded is not None:
        return "told to the transformer"
    if found.scale == 0:
        return "ignored"
    form = "g, 0: none" if found.scale == _PROBE else "w, 1: none"
    other_name = "" if adapter.guidance_argument == "guidance_scale" else f" ({adapter.guidance_argument})"
    return form + (", norm kept" if found.rescale else "") + other_name


def to_markdown(table: Table) -> str:
    """The table in Markdown; numbers are aligned to the right."""
    rule = ["---" if column < table.words else "---:" for column in range(len(table.headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (table.headings, rule, *table.rows))


def _print(table: Table, console: object) -> None:
    from rich.markup import escape
    from rich.table import Table as Shown

    shown = Shown(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column, heading in enumerate(table.headings):
        shown.add_column(heading, justify="left" if column < table.words else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    console.print(shown, "")  # type: ignore[attr-defined]
