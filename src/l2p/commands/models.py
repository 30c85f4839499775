"""Owns the commands on registered models: verify, promote, roll back."""

from __future__ import annotations

import typer


def add_to(app: typer.Typer) -> None:
    """Add nothing yet."""
