"""Owns the decision about a corpus: accepted images, quarantined ones with reasons, and whether it may be used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import Layout, SynthesizeParams, ValidateParams
from l2p.data.corpus import COLUMNS, measure_images, read_table
from l2p.data.expectations import DUPLICATE, Judgement, expect_of_corpus, judge
from l2p.errors import DataError
from l2p.files import atomic_path, write_json

RESULT, FULL_RESULT, PAGE = "result.json", "great_expectations.json", "great_expectations.html"


@dataclass(frozen=True)
class Validation:
    """Accepted rows, rejected rows (with the column `reason`), and the verdict as result.json holds it."""

    accepted: pd.DataFrame
    quarantine: pd.DataFrame
    result: dict[str, Any]
    judgement: Judgement


def validate_corpus(table: Path, limits: ValidateParams, drawn: SynthesizeParams) -> Validation:
    """Measure every image of the corpus table at `table` and judge it.

    Args:
        table: metadata.parquet; its file names are relative to its folder.
        limits: what the corpus must look like.
        drawn: how it should have been drawn.

    Raises:
        MissingFileError: the stage `synthesize` has not run.
        DataError: the table cannot be read, or lacks columns.
    """
    rows = read_table(table).reset_index(drop=True)
    measured = measure_images(rows, table.parent)
    # a file that is not there is not damaged as well
    measured["is_sound"] = measured["decodable"] | ~measured["file_found"]
    judgement = judge(pd.concat([rows, measured], axis=1), expect_of_corpus(limits, drawn))
    rejected = rows.index.isin(list(judgement.reasons))
    reasons = [", ".join(judgement.reasons[position]) for position in rows.index[rejected]]
    quarantine = rows.loc[rejected, COLUMNS].assign(reason=reasons)
    accepted = rows.loc[~rejected, COLUMNS]
    return Validation(accepted, quarantine, _verdict(judgement, len(accepted), len(rows), limits), judgement)


def write_validation(validation: Validation, *, manifest: Path, quarantine: Path, reports: Path) -> None:
    """Write manifest, quarantine and reports, atomically; a corpus that failed leaves no manifest, not even an old."""
    manifest.unlink(missing_ok=True)
    _write_table(quarantine, validation.quarantine)
    write_json(reports / FULL_RESULT, validation.judgement.full)
    with atomic_path(reports / PAGE) as partial:
        partial.write_text(validation.judgement.page, encoding="utf-8")
    write_json(reports / RESULT, validation.result)
    if validation.result["success"]:
        _write_table(manifest, validation.accepted)


def require_success(validation: Validation) -> None:
    """Raise if the corpus must not be used.

    Raises:
        DataError: names every limit that is exceeded and where the rejected images are listed.
    """
    if not validation.result["success"]:
        problems = "; ".join(validation.result["problems"])
        raise DataError(
            f"{Layout.corpus_table}: not accepted: {problems}. Rejected images and reasons: {Layout.quarantine}. "
            "Run `l2p synthesize` to redraw damaged files, or change `validate` in params.yaml."
        )


def _verdict(judgement: Judgement, num_accepted: int, num_images: int, limits: ValidateParams) -> dict[str, Any]:
    counts = Counter(reason for reasons in judgement.reasons.values() for reason in reasons)
    accepted_share, duplicate_share = num_accepted / num_images, counts[DUPLICATE] / num_images
    problems = [f"broken rule: {name}" for name in judgement.broken_table_rules()]
    if accepted_share < limits.min_accepted_share:
        found = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        problems.append(
            f"{accepted_share:.1%} of {num_images} images accepted, validate.min_accepted_share is "
            f"{limits.min_accepted_share:.1%} ({found})"
        )
    if duplicate_share > limits.max_duplicate_share:
        problems.append(
            f"{duplicate_share:.1%} of {num_images} images are duplicates, validate.max_duplicate_share is "
            f"{limits.max_duplicate_share:.1%}"
        )
    return {
        "success": not problems,
        "accepted": num_accepted,
        "rejected": num_images - num_accepted,
        "reasons": dict(counts.most_common()),
        "accepted_share": accepted_share,
        "duplicate_share": duplicate_share,
        "problems": problems,
        "expectations": judgement.expectations,
    }


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False)
