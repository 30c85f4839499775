"""Owns how the pages of this package show numbers and settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from l2p import pages


def write_page(template: str, content: Mapping[str, Any], path: Path) -> None:
    """Fill a template of this package; as `l2p.pages.write_page`."""
    pages.write_page(
        "l2p.evaluation",
        template,
        content,
        path,
        figure=format_figure,
        observed=format_observed,
        signed=format_signed,
        flat=flatten,
    )


def format_figure(value: float | None, digits: int = 3) -> str:
    """A number for reading: fixed digits, thousands separated, a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def format_signed(value: float) -> str:
    """A difference in whole numbers, with its sign; 0 has none."""
    whole = round(value)
    return "0" if whole == 0 else f"+{whole}" if whole > 0 else f"−{-whole}"


def format_observed(value: Any) -> str:
    """What an expectation saw: a number, a sentence, or a list of names."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings with dotted names, for a list of definitions."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
