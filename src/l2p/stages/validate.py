"""Stage `validate`: accepted images go to the manifest, the others to quarantine with reasons."""

from __future__ import annotations

from l2p.config import Layout, Params
from l2p.data.checking.page import write_page
from l2p.data.validation import PAGE, require_success, validate_corpus, write_validation


def run(params: Params) -> None:
    """Write manifest, quarantine and `reports/validation`.

    Raises:
        DataError: the corpus breaks a rule of severity `error`; quarantine and reports are written first.
    """
    limits = params.validation
    validation = validate_corpus(Layout.corpus_table, limits, params.synthesize)
    write_validation(validation, manifest=Layout.manifest, quarantine=Layout.quarantine, reports=Layout.validation)
    page = Layout.validation / PAGE
    write_page(validation, limits, corpus=Layout.corpus, rejected=Layout.rejected, path=page)
    result = validation.result
    warnings = f"; warnings: {_count(result['warnings'])}" if result["warnings"] else ""
    print(
        f"{result['accepted']} images accepted, {result['rejected']} in quarantine "
        f"(reasons: {_count(result['reasons']) or 'none'}){warnings}"
    )
    require_success(validation)


def _count(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in reasons.items())
