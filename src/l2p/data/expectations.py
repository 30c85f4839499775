"""Owns what is expected of a corpus, and its judgement by Great Expectations (the only importer of it).

Every expectation about single images carries the reason with which a failing image goes to quarantine. An expectation
succeeds as long as no more images fail it than the parameters allow; the images that fail are named either way.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from l2p.config import SynthesizeParams, ValidateParams
from l2p.data.corpus import COLUMNS
from l2p.errors import DataError

DUPLICATE = "duplicate image"
# Parts of Great Expectations' page that load from a network or need what was loaded, and a plain style in their place.
_FOREIGN = [
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<script.*?</script>",
        r"<(?:link|img)[^>]*\"https?://[^>]*>",
        r"<footer>.*?</footer>",
        r"url\('http[^)]*\)",
    )
]
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "nav,.navbar{display:none}table{border-collapse:collapse;width:100%}"
    "td,th{border:1px solid #ccc;padding:.4rem .6rem;text-align:left;vertical-align:top}"
    ".badge{background:#eee;border-radius:.3rem;padding:0 .3rem}"
    ".text-success::before{content:'passed'}.text-danger::before{content:'failed'}"
    "@media print,(max-width:40rem){body{margin:1rem auto}}"
)
ROW = "row"  # column that numbers the images, so that two rows with the same file name stay apart


@dataclass(frozen=True)
class Expectation:
    """One expectation, of the class `kind` of great_expectations.expectations; no `reason`: of the whole table."""

    name: str
    kind: str
    settings: dict[str, Any]
    reason: str | None = None
    mostly: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What Great Expectations found.

    Attributes:
        expectations: one entry each: name, success, observed, type, and for expectations of images their limit.
        reasons: per image (position in the table) why it was rejected, in the order of the expectations.
        full: the complete result of Great Expectations, ready for JSON.
        page: the same as an HTML page that needs nothing from a network.
    """

    expectations: list[dict[str, Any]]
    reasons: dict[int, list[str]]
    full: dict[str, Any]
    page: str

    def broken_table_rules(self) -> list[str]:
        """Names of the failed expectations that concern the table as a whole."""
        return [entry["name"] for entry in self.expectations if not entry["success"] and entry["reason"] is None]


def expect_of_corpus(limits: ValidateParams, drawn: SynthesizeParams) -> list[Expectation]:
    """The suite, in the order in which reasons are named."""
    in_set, not_null = "ExpectColumnValuesToBeInSet", "ExpectColumnValuesToNotBeNull"

    def of_images(name: str, reason: str, kind: str, **settings: Any) -> Expectation:
        share = 1 - limits.max_duplicate_share if reason == DUPLICATE else limits.min_accepted_share
        return Expectation(name, kind, settings, reason, share)

    return [
        Expectation(
            "the table has all columns", "ExpectTableColumnsToMatchSet", {"column_set": COLUMNS, "exact_match": False}
        ),
        Expectation(
            "one source drew all images",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": "source_digest", "min_value": 1, "max_value": 1},
        ),
        of_images("file names are unique", "file name not unique", "ExpectColumnValuesToBeUnique", column="file_name"),
        of_images(
            "prompt and seed together are unique",
            "prompt and seed not unique",
            "ExpectCompoundColumnsToBeUnique",
            column_list=["prompt_id", "seed"],
        ),
        of_images("every image has a prompt", "prompt missing", not_null, column="prompt_id"),
        of_images("every image has a seed", "seed missing", not_null, column="seed"),
        of_images("every image has a digest", "sha256 missing", not_null, column="sha256"),
        of_images("every image file is there", "file missing", in_set, column="file_found", value_set=[True]),
        of_images("no image file is damaged", "not decodable", in_set, column="is_sound", value_set=[True]),
        of_images(
            "files have the recorded digest",
            "sha256 differs",
            "ExpectColumnPairValuesToBeEqual",
            column_A="sha256",
            column_B="measured_sha256",
            ignore_row_if="either_value_is_missing",
        ),
        of_images(
            f"images are {drawn.height_px} px high",
            "wrong size",
            in_set,
            column="measured_height_px",
            value_set=[drawn.height_px],
        ),
        of_images(
            f"images are {drawn.width_px} px wide",
            "wrong size",
            in_set,
            column="measured_width_px",
            value_set=[drawn.width_px],
        ),
        of_images(
            f"images were drawn in {drawn.num_steps} steps",
            "wrong number of steps",
            in_set,
            column="num_steps",
            value_set=[drawn.num_steps],
        ),
        of_images(
            f"contrast is at least {limits.min_contrast:g} of 255",
            "low contrast",
            "ExpectColumnValuesToBeBetween",
            column="contrast",
            min_value=limits.min_contrast,
        ),
        of_images("no image repeats another", DUPLICATE, "ExpectColumnValuesToBeNull", column="duplicate_of"),
    ]


def judge(frame: pd.DataFrame, expectations: list[Expectation]) -> Judgement:
    """Hold `frame` (the corpus table joined with what was measured) against `expectations`.

    Raises:
        DataError: an expectation could not be evaluated at all.
    """
    result = _evaluate(frame, expectations)
    # Great Expectations returns the results in an order of its own
    by_name = {found.expectation_config.meta["name"]: found for found in result.results}
    entries, reasons = [], dict[int, list[str]]()
    for expectation in expectations:
        found = by_name[expectation.name]
        if found.exception_info.get("raised_exception"):
            raise DataError(
                f"expectation {expectation.name!r} cannot be evaluated: {found.exception_info['exception_message']}"
            )
        entries.append(_entry(expectation, found))
        if expectation.reason is not None:
            for place in found.result["unexpected_index_list"]:
                named = reasons.setdefault(int(place[ROW]), [])
                named += [expectation.reason] if expectation.reason not in named else []
    return Judgement(entries, reasons, _as_json(result), _page(result))


def _evaluate(frame: pd.DataFrame, expectations: list[Expectation]) -> Any:
    import great_expectations as gx
    import great_expectations.expectations as kinds
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("corpus").add_dataframe_asset("images")
    suite = gx.ExpectationSuite(name="corpus")
    for expectation in expectations:
        limit = {} if expectation.mostly is None else {"mostly": expectation.mostly}
        kind = getattr(kinds, expectation.kind)
        meta = {"name": expectation.name, "reason": expectation.reason}
        suite.add_expectation(kind(**expectation.settings, **limit, meta=meta, notes=expectation.name))
    definition = gx.ValidationDefinition(
        name="corpus", data=asset.add_batch_definition_whole_dataframe("all"), suite=context.suites.add(suite)
    )
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame.assign(**{ROW: range(len(frame))})},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW, "file_name"]},
    )


def _entry(expectation: Expectation, found: Any) -> dict[str, Any]:
    entry = {
        "name": expectation.name,
        "success": bool(found.success),
        "type": expectation.kind,
        "reason": expectation.reason,
    }
    if expectation.reason is None:
        value = found.result["observed_value"]
        return entry | {"observed": f"{len(value)} columns" if isinstance(value, list) else f"{value} different"}
    failed, total = int(found.result["unexpected_count"]), int(found.result["element_count"])
    return entry | {
        "observed": f"{total - failed} of {total} images",
        "failed": failed,
        "min_share": expectation.mostly,
    }


def _page(result: Any) -> str:
    """Great Expectations' own page, without what it would fetch from elsewhere."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page: str = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    for foreign in _FOREIGN:
        page = foreign.sub("", page)
    return page.replace("</head>", f"<style>{_STYLE}</style></head>", 1)


def _as_json(result: Any) -> dict[str, Any]:
    """Plain JSON values; a missing number is null, not the NaN that only Python reads."""
    return json.loads(json.dumps(result.to_json_dict()), parse_constant=lambda _: None)
