"""Owns `l2p doctor`: what is installed, what the machine offers, the state of the project, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import typer

from l2p.commands.findings import BROKEN, Finding

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", BROKEN: "[red]broken[/]"}


def add_to(app: typer.Typer) -> None:
    """Add `doctor` to `app`."""
    app.command("doctor", rich_help_panel="Project")(doctor)


def doctor(context: typer.Context) -> None:
    """Check the installation, the machine and the project."""
    from rich.console import Console

    from l2p.commands import checks

    groups: dict[str, Callable[[], Iterator[Finding]]] = {
        "stack": checks.stack,
        "machine": checks.machine,
        "project": lambda: checks.project(context.obj),
    }
    found: list[Finding] = []
    console = Console()
    for title, check in groups.items():
        findings = list(check())
        found += findings
        _print_group(console, title, findings)
    broken = sum(finding.state == BROKEN for finding in found)
    notes = sum(finding.state == "note" for finding in found)
    console.print(f"{broken} broken, {notes} to note, {len(found) - broken - notes} ok")
    if broken:
        raise typer.Exit(1)


def _print_group(console: object, title: str, findings: list[Finding]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column(width=6)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(_MARKS[finding.state], finding.what, finding.found)
        if finding.next_step:
            table.add_row("", "", f"[dim]-> {finding.next_step}[/]")
    console.print(table, "")  # type: ignore[attr-defined]
