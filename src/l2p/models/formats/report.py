"""Owns the table of what a file of weights holds: groups of keys, their dtypes and sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from l2p.models.formats.comfyui import PREFIX
from l2p.models.formats.entries import SPELLINGS, Entry

if TYPE_CHECKING:
    from rich.table import Table


def report(entries: Iterable[Entry]) -> Table:
    """One row for each group of keys and dtype, in the order of the file, and a last one for all."""
    from rich.table import Table

    entries = list(entries)
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        group = entry.name.removeprefix(PREFIX).split(".")[0]
        groups.setdefault((group, SPELLINGS[entry.dtype]), []).append(entry)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 3, 0, 0))
    for index, heading in enumerate(("keys", "dtype", "tensors", "parameters", "bytes")):
        table.add_column(heading, justify="left" if index < 2 else "right", no_wrap=True)
    for (group, dtype), members in groups.items():
        table.add_row(group, dtype, *_figures(members))
    table.add_row("all", "", *_figures(entries))
    return table


def _figures(entries: list[Entry]) -> tuple[str, str, str]:
    parameters, size = (sum(getattr(entry, what) for entry in entries) for what in ("parameters", "bytes"))
    return f"{len(entries):,}", f"{parameters:,}", f"{size:,}"
