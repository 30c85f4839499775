"""Stage `validate`: accepted images go to the manifest, the others to quarantine with reasons."""

from __future__ import annotations

import os

from l2p.config import Layout, Params
from l2p.data.validation import require_success, validate_corpus, write_validation


def run(params: Params) -> None:
    """Write manifest, quarantine and `reports/validation`.

    Raises:
        DataError: too few images are accepted or too many are duplicates; quarantine and reports are written first.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    validation = validate_corpus(Layout.corpus_table, params.validation, params.synthesize)
    write_validation(validation, manifest=Layout.manifest, quarantine=Layout.quarantine, reports=Layout.validation)
    result = validation.result
    reasons = ", ".join(f"{reason} {count}" for reason, count in result["reasons"].items()) or "none"
    print(f"{result['accepted']} images accepted, {result['rejected']} in quarantine (reasons: {reasons})")
    require_success(validation)
