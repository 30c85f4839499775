"""Owns the rules about shares of the corpus: of what is accepted, of what repeats, and of each class.

They are decided here and not by Great Expectations, since they count what its expectations left.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from l2p.config import ValidateParams

_NAMED = 3  # classes that a message names

SHARE = "Share"  # the type of their entries


def _share(rule: str, name: str, observed: str, limits: ValidateParams, *, problem: str) -> dict[str, Any]:
    """`problem` says what is wrong and names the limit; empty if nothing is."""
    known = {"rule": rule, "severity": limits.severity_of(rule), "name": name, "success": not problem}
    return {**known, "type": SHARE, "reason": None, "observed": observed, "problem": problem}


def accepted_share(accepted: int, total: int, reasons: Counter[str], limits: ValidateParams) -> dict[str, Any]:
    """Whether enough images are accepted."""
    observed, problem = f"{accepted / total:.1%} of {total} images accepted", ""
    if accepted / total < limits.min_accepted_share:
        found = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        problem = f"{observed}, validate.min_accepted_share is {limits.min_accepted_share:.1%} ({found})"
    name = f"at least {limits.min_accepted_share:.1%} of the images are accepted"
    return _share("accepted_share", name, observed, limits, problem=problem)


def duplicate_share(duplicates: int, total: int, limits: ValidateParams) -> dict[str, Any]:
    """Whether few enough repeat another."""
    observed, problem = f"{duplicates / total:.1%} of {total} images are duplicates", ""
    if duplicates / total > limits.max_duplicate_share:
        problem = f"{observed}, validate.max_duplicate_share is {limits.max_duplicate_share:.1%}"
    name = f"at most {limits.max_duplicate_share:.1%} of the images repeat another"
    return _share("duplicate_share", name, observed, limits, problem=problem)


def count_classes(rows: pd.DataFrame, accepted: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Images and accepted images of each class, the largest first."""
    kept = Counter(accepted["style"].astype(str))
    counts = Counter(rows["style"].astype(str)).most_common()
    return {style: {"images": count, "accepted": kept[style]} for style, count in counts}


def class_shares(classes: dict[str, dict[str, int]], accepted: int, limits: ValidateParams) -> list[dict[str, Any]]:
    """Whether the classes are balanced, and whether each keeps enough of its images; only what has a limit."""
    least, most = limits.min_class_share, limits.max_class_share
    entries = []
    if least is not None or most is not None:
        low, high = least or 0.0, 1.0 if most is None else most
        shares = {style: count["accepted"] / max(accepted, 1) for style, count in classes.items()}
        wrong = {style: share for style, share in shares.items() if not low <= share <= high}
        wanted = f"validate.min_class_share is {low:.1%}, max_class_share {high:.1%}"
        problem = f"share of the accepted images in {_name_classes(wrong)}, {wanted}" if wrong else ""
        name = f"every class has {low:.1%} to {high:.1%} of the accepted images"
        entries.append(_share("class_share", name, _extent(shares), limits, problem=problem))
    if (kept := limits.min_class_kept_share) is not None:
        shares = {style: count["accepted"] / count["images"] for style, count in classes.items()}
        wrong = {style: share for style, share in shares.items() if share < kept}
        wanted = f"validate.min_class_kept_share is {kept:.1%}"
        problem = f"share of its images that are accepted in {_name_classes(wrong)}, {wanted}" if wrong else ""
        name = f"every class keeps at least {kept:.1%} of its images"
        entries.append(_share("class_kept", name, _extent(shares), limits, problem=problem))
    return entries


def _name_classes(shares: dict[str, float]) -> str:
    worst = sorted(shares.items(), key=lambda item: item[1])
    named = ", ".join(f"{style} {share:.1%}" for style, share in worst[:_NAMED])
    return f"{named} and {len(worst) - _NAMED} more classes" if len(worst) > _NAMED else named


def _extent(shares: dict[str, float]) -> str:
    return f"{min(shares.values()):.1%} to {max(shares.values()):.1%} in {len(shares)} classes"
