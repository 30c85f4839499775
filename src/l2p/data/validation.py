"""Owns the decision about a corpus: accepted images, quarantined ones with reasons, and whether it may be used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import Layout, SynthesizeParams, ValidateParams
from l2p.config.validation import Severity
from l2p.data.checking.details import describe_fault
from l2p.data.checking.examining import add_plan, examine
from l2p.data.checking.judges import load_judges
from l2p.data.checking.shares import SHARE, accepted_share, class_shares, count_classes, duplicate_share
from l2p.data.corpus import COLUMNS, read_table
from l2p.data.expectations import REASONS, Judgement, expect_of_corpus, judge
from l2p.errors import DataError
from l2p.files import atomic_path, write_json

RESULT, FULL_RESULT, PAGE = "result.json", "great_expectations.json", "index.html"
_NAMED = 3  # images that a message names


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        accepted: rows of the corpus table.
        quarantine: the other rows, with `reason` and `detail` of each.
        result: the verdict as result.json holds it.
        judgement: what Great Expectations found.
        frame: everything that was measured, one row an image.
    """

    accepted: pd.DataFrame
    quarantine: pd.DataFrame
    result: dict[str, Any]
    judgement: Judgement
    frame: pd.DataFrame


def validate_corpus(table: Path, limits: ValidateParams, drawn: SynthesizeParams) -> Validation:
    """Measure every image of the corpus table at `table` and judge it.

    Args:
        table: metadata.parquet; its file names are relative to its folder.
        limits: what the corpus must look like.
        drawn: how it should have been drawn.

    Raises:
        MissingFileError: the stage `synthesize` has not run.
        DataError: the table cannot be read, or lacks columns; a judge cannot be loaded or does not understand a prompt.
    """
    rows = read_table(table).reset_index(drop=True)
    judges = load_judges(limits)
    frame = add_plan(examine(rows, table.parent, limits, judges), drawn)
    judgement = judge(frame, expect_of_corpus(limits, drawn))
    reasons, details = _faults(frame, judgement, limits)
    rejected = rows.index.isin(list(reasons))
    quarantine = rows.loc[rejected, COLUMNS].assign(reason=list(reasons.values()), detail=list(details.values()))
    accepted = rows.loc[~rejected, COLUMNS]
    known = {rule: {"name": found.name, "digest": found.digest} for rule, found in judges.items()}
    result = _verdict(judgement, rows, accepted, limits) | {"judges": known}
    return Validation(accepted, quarantine, result, judgement, frame)


def write_validation(validation: Validation, *, manifest: Path, quarantine: Path, reports: Path) -> None:
    """Write manifest, quarantine and results, atomically; a corpus that failed leaves no manifest, not even an old."""
    manifest.unlink(missing_ok=True)
    _write_table(quarantine, validation.quarantine)
    write_json(reports / FULL_RESULT, validation.judgement.full)
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
            f"{Layout.corpus_table}: not accepted: {problems}. Rejected images and reasons: "
            f"{Layout.validation / PAGE}, {Layout.quarantine}. "
            "Run `l2p synthesize` to redraw damaged files, or change `validate` in params.yaml."
        )


def _faults(frame: pd.DataFrame, judgement: Judgement, limits: ValidateParams) -> tuple[dict[int, str], dict[int, str]]:
    """Reasons and details of every image that is not accepted, by position, in order."""
    faults = {
        place: rules
        for place in sorted(judgement.broken)
        if (rules := [rule for rule in judgement.broken[place] if limits.severity_of(rule) != "warn"])
    }
    rows = frame.loc[list(faults)].to_dict("records")
    details = [
        "; ".join(detail for rule in rules if (detail := describe_fault(rule, row)))
        for rules, row in zip(faults.values(), rows, strict=True)
    ]
    reasons = {place: ", ".join(REASONS[rule] for rule in rules) for place, rules in faults.items()}
    return reasons, dict(zip(faults, details, strict=True))


def _verdict(
    judgement: Judgement, rows: pd.DataFrame, accepted: pd.DataFrame, limits: ValidateParams
) -> dict[str, Any]:
    counts = {severity: _count_reasons(judgement, limits, severity) for severity in ("error", "quarantine", "warn")}
    rejecting = counts["error"] + counts["quarantine"]
    duplicates = sum("duplicate" in rules for rules in judgement.broken.values())
    classes = count_classes(rows, accepted)
    shares = [
        accepted_share(len(accepted), len(rows), rejecting, limits),
        duplicate_share(duplicates, len(rows), limits),
        *class_shares(classes, len(accepted), limits),
    ]
    entries = [*judgement.entries, *shares]
    return {
        "success": not any(_stops(entry) for entry in entries),
        "accepted": len(accepted),
        "rejected": len(rows) - len(accepted),
        "reasons": dict(rejecting.most_common()),
        "warnings": dict(counts["warn"].most_common()),
        "accepted_share": len(accepted) / len(rows),
        "duplicate_share": duplicates / len(rows),
        "problems": [_problem(entry, judgement, rows) for entry in entries if _stops(entry)],
        "classes": classes,
        "expectations": entries,
    }


def _count_reasons(judgement: Judgement, limits: ValidateParams, severity: Severity) -> Counter[str]:
    return Counter(
        REASONS[rule] for rules in judgement.broken.values() for rule in rules if limits.severity_of(rule) == severity
    )


def _stops(entry: dict[str, Any]) -> bool:
    return entry["severity"] == "error" and not entry["success"]


def _problem(entry: dict[str, Any], judgement: Judgement, rows: pd.DataFrame) -> str:
    if entry["type"] == SHARE:
        return str(entry["problem"])
    if entry["reason"] is None:
        return f"broken rule {entry['rule']}: {entry['name']} ({entry['observed']})"
    places = [place for place in sorted(judgement.broken) if entry["rule"] in judgement.broken[place]]
    named = ", ".join(str(rows["file_name"][place]) for place in places[:_NAMED])
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    return f"{entry['reason']} ({named}{more}), validate.severity.{entry['rule']} is error"


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with atomic_path(path) as partial:
        table.to_parquet(partial, index=False)
