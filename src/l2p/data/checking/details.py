"""Owns what is said of a single fault beside its reason: the value that was found, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Row = Mapping[Any, Any]


def describe_fault(rule: str, row: _Row) -> str:
    """What was found on the image of `row` (of the frame of `examining`); empty where the reason says all."""
    describe = _DETAILS.get(rule)
    return "" if describe is None else describe(row)


def _size(row: _Row) -> str:
    found = f"{row['measured_width_px']:.0f}x{row['measured_height_px']:.0f} px"
    recorded = f"{row['width_px']}x{row['height_px']} px"
    return f"{found}, which params.yaml does not ask for" if found == recorded else f"{found}, {recorded} recorded"


def _text(column: str, words: str = "{}") -> Callable[[_Row], str]:
    return lambda row: words.format(row[column])


_DETAILS: Mapping[str, Callable[[_Row], str]] = {
    "decodable": _text("problem"),
    "format": _text("measured_format"),
    "mode": _text("measured_mode"),
    "size": _size,
    "steps": _text("num_steps", "{} steps"),
    "contrast": _text("contrast", "contrast {:.1f}"),
    "saturation": _text("clipped_share", "{:.1%} clipped"),
    "entropy": _text("entropy_bits", "{:.2f} bits"),
    "noise": _text("smoothness", "smoothness {:.2f}"),
    "duplicate": _text("duplicate_of", "like {}"),
    "near_repetition": _text("near_repetition", "like {}"),
    "near_duplicate": _text("near_duplicate", "like {}"),
    "agreement": _text("agreement_doubt"),
    "safety": _text("safety_doubt"),
}
