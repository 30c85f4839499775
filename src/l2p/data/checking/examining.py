"""Owns the frame that the expectations are about: the corpus table, what was measured, and what follows from both.

A cause is named, not its consequences: an image of one colour is blank and nothing else, a damaged one is not of the
wrong size as well, and only images that are sound otherwise are compared for likeness.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import SynthesizeParams, ValidateParams
from l2p.data.checking.judges import PixelJudge
from l2p.data.checking.likeness import Likeness, find_alike
from l2p.data.checking.statistics import expected_format
from l2p.data.corpora.names import check_name
from l2p.data.corpus import find_duplicates, measure_rows
from l2p.errors import DataError

NUMBERS = ("mean", "contrast", "clipped_share", "entropy_bits", "smoothness")
DOUBTED = ("agreement", "safety")  # rules that have a judge


def examine(
    table: pd.DataFrame, folder: Path, limits: ValidateParams, judges: Mapping[str, PixelJudge]
) -> pd.DataFrame:
    """Measure and compare all images of `table`, whose index counts from 0."""
    allowed = allowed_names(table)
    measured = measure_rows(
        table.assign(file_name=table["file_name"].where(allowed)),
        folder,
        judges=judges,
        batch_size=limits.judge_batch_size,
    )
    return complete(table, measured, limits)


def allowed_names(table: pd.DataFrame) -> pd.Series:
    """Whether each file name is a plain path below the folder; no other one is opened."""
    return pd.Series([_is_allowed(name) for name in table["file_name"]], index=table.index, dtype=bool)


def complete(table: pd.DataFrame, measured: list[dict[str, Any]], limits: ValidateParams) -> pd.DataFrame:
    """The table with what was measured and what follows from it."""
    frame = pd.concat([table, pd.DataFrame(measured, index=table.index)], axis=1)
    frame = frame.astype(dict.fromkeys(NUMBERS, "float64"))
    for name in DOUBTED:
        frame[f"{name}_doubt"] = frame.get(f"{name}_doubt", pd.Series(index=frame.index, dtype=object))
    frame["duplicate_of"] = find_duplicates(table, frame)
    _add_facts_of_rows(frame)
    _add_facts_of_files(frame)
    _forget_consequences(frame, limits)
    _add_likeness(frame, limits)
    return frame.drop(columns="print")  # the largest of all, and of no more use


def add_plan(frame: pd.DataFrame, drawn: SynthesizeParams) -> pd.DataFrame:
    """With `size_planned`: whether the size that a row records is one that `drawn` asks for."""
    recorded = zip(frame["height_px"], frame["width_px"], strict=True)
    planned = set(planned_sizes(drawn))
    return frame.assign(size_planned=[size in planned for size in recorded])


def planned_sizes(drawn: SynthesizeParams) -> list[tuple[int, int]]:
    """(height, width) in pixels of the images that `drawn` asks for."""
    sizes = drawn.sizes or (drawn,)
    return [(size.height_px, size.width_px) for size in sizes]


def _is_allowed(name: object) -> bool:
    try:
        check_name(name, "")
    except DataError:
        return False
    return True


def _add_facts_of_rows(frame: pd.DataFrame) -> None:
    frame["file_name_allowed"] = allowed_names(frame)
    frame["file_name_folded"] = [name.casefold() if isinstance(name, str) else None for name in frame["file_name"]]
    texts = frame["text"].where(frame["text"].map(lambda text: isinstance(text, str) and bool(text.strip())))
    frame["has_prompt"] = texts.notna() & frame["prompt_id"].notna()
    frame["texts_of_id"] = texts.groupby(frame["prompt_id"], dropna=False).transform("nunique")


def _add_facts_of_files(frame: pd.DataFrame) -> None:
    # a name that was refused was not looked for, and a file that is not there is not damaged as well
    frame["file_missing"] = frame["file_name_allowed"] & ~frame["file_found"]
    frame["damaged"] = frame["file_found"] & ~frame["decodable"]
    expected = [expected_format(name) if isinstance(name, str) else None for name in frame["file_name"]]
    frame["format_as_named"] = [
        not isinstance(found, str) or found == wanted
        for found, wanted in zip(frame["measured_format"], expected, strict=True)
    ]


def _forget_consequences(frame: pd.DataFrame, limits: ValidateParams) -> None:
    spoilt = pd.Series(False, index=frame.index)
    for rule, column, broken in (
        ("contrast", "contrast", frame["contrast"] < limits.min_contrast),
        ("saturation", "clipped_share", frame["clipped_share"] > limits.max_clipped_share),
        ("entropy", "entropy_bits", frame["entropy_bits"] < limits.min_entropy_bits),
        ("noise", "smoothness", frame["smoothness"] < limits.min_smoothness),
    ):
        frame[f"judged_{column}"] = frame[column].mask(spoilt)
        if limits.severity_of(rule) != "warn":
            spoilt = spoilt | broken
    frame["spoilt"] = spoilt
    frame["agreement_doubt"] = frame["agreement_doubt"].mask(spoilt, None)


def _add_likeness(frame: pd.DataFrame, limits: ValidateParams) -> None:
    """Columns near_repetition, near_duplicate: what an image is like, in words."""
    sound = frame["decodable"] & ~frame["spoilt"] & frame["duplicate_of"].isna()
    sound &= frame["sha256"] == frame["measured_sha256"]
    for name in DOUBTED:
        if limits.severity_of(name) != "warn":
            sound &= frame[f"{name}_doubt"].isna()
    prompts = frame["prompt_id"].tolist()
    for column, max_levels, same in (
        ("near_repetition", limits.near_levels_within_prompt, True),
        ("near_duplicate", limits.near_levels_across_prompts, False),
    ):
        if max_levels is None:
            frame[column] = None
            continue
        prints = [view if takes_part else None for view, takes_part in zip(frame["print"], sound, strict=True)]
        found = find_alike(prints, prompts, same_group=same, max_levels=max_levels, max_bits=limits.near_hash_bits)
        words = [None if like is None else _words(frame["file_name"][like.position], like) for like in found]
        frame[column] = pd.Series(words, index=frame.index, dtype=object)
        if limits.severity_of(column) != "warn":
            sound &= frame[column].isna()


def _words(name: str, like: Likeness) -> str:
    return f"{name}, {like.levels:.2f} levels apart"
