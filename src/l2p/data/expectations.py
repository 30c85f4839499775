"""Owns what is expected of a corpus, and its judgement by Great Expectations (the only importer of it).

Each expectation belongs to a rule of `l2p.config.validation`, which says what follows when it is broken. An expectation
about images carries the reason with which a failing image is named. Of images that go to quarantine as many may fail as
the parameters allow; of any others, none.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from l2p.config import SynthesizeParams, ValidateParams
from l2p.config.validation import RULES, Severity
from l2p.data.checking.examining import planned_sizes
from l2p.data.corpus import COLUMNS
from l2p.errors import DataError

ROW = "row"  # column that numbers the images, so that two rows with the same file name stay apart
_SEVERITIES: dict[Severity, str] = {"error": "critical", "quarantine": "warning", "warn": "info"}

_IN_SET, _NOT_NULL, _NULL = "ExpectColumnValuesToBeInSet", "ExpectColumnValuesToNotBeNull", "ExpectColumnValuesToBeNull"
_BETWEEN, _EQUAL = "ExpectColumnValuesToBeBetween", "ExpectColumnPairValuesToBeEqual"


@dataclass(frozen=True)
class Expectation:
    """One expectation, of the class `kind` of great_expectations.expectations; no `reason`: of the whole table."""

    rule: str
    name: str
    kind: str
    settings: dict[str, Any]
    reason: str | None = None
    severity: Severity = "error"
    mostly: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What Great Expectations found.

    Attributes:
        entries: one for each expectation: rule, severity, name, success, observed, type, reason; for those of images
            also failed and min_share.
        broken: per image (position in the table) the rules that it breaks, in the order of the expectations.
        full: the complete result of Great Expectations, ready for JSON.
    """

    entries: list[dict[str, Any]]
    broken: dict[int, list[str]]
    full: dict[str, Any]


REASONS = {
    "file_name_allowed": "file name refused",
    "file_name_unique": "file name not unique",
    "prompt_and_seed_unique": "prompt and seed not unique",
    "prompt": "prompt missing",
    "prompt_id": "prompt id of several texts",
    "seed": "seed missing",
    "sha256_recorded": "sha256 missing",
    "file_found": "file missing",
    "decodable": "not decodable",
    "format": "format not that of its name",
    "sha256": "sha256 differs",
    "mode": "wrong mode",
    "size": "wrong size",
    "steps": "wrong number of steps",
    "contrast": "low contrast",
    "saturation": "saturated",
    "entropy": "low entropy",
    "noise": "noise",
    "duplicate": "duplicate image",
    "near_repetition": "near duplicate within its prompt",
    "near_duplicate": "near duplicate of another prompt",
    "agreement": "not as its prompt says",
    "safety": "unsafe",
}


def expect_of_corpus(limits: ValidateParams, drawn: SynthesizeParams) -> list[Expectation]:
    """The suite, in the order in which reasons are named."""
    columns = {"column_set": COLUMNS, "exact_match": False}
    one = {"column": "source_digest", "min_value": 1, "max_value": 1}
    equal: dict[str, Any] = {"ignore_row_if": "either_value_is_missing"}
    suite = [
        Expectation("columns", "the table has all columns", "ExpectTableColumnsToMatchSet", columns),
        Expectation("one_source", "one source drew all images", "ExpectColumnUniqueValueCountToBeBetween", one),
        _flag("file_name_allowed", "file names lead nowhere else", "file_name_allowed", True),
        _of("file_name_unique", "file names are unique", "ExpectColumnValuesToBeUnique", column="file_name_folded"),
        _of(
            "prompt_and_seed_unique",
            "prompt and seed together are unique",
            "ExpectCompoundColumnsToBeUnique",
            column_list=["prompt_id", "seed"],
        ),
        _flag("prompt", "every image has a prompt", "has_prompt", True),
        _of("prompt_id", "a prompt id has one text", _BETWEEN, column="texts_of_id", max_value=1),
        _of("seed", "every image has a seed", _NOT_NULL, column="seed"),
        _of("sha256_recorded", "every image has a digest", _NOT_NULL, column="sha256"),
        _flag("file_found", "every image file is there", "file_missing", False),
        *_of_files(),
        _of("sha256", "files have the recorded digest", _EQUAL, column_A="sha256", column_B="measured_sha256", **equal),
        _of("mode", f"pixels are {', '.join(limits.modes)}", _IN_SET, column="measured_mode", value_set=limits.modes),
        *(
            _of(
                "size",
                f"images are as {side} as recorded",
                _EQUAL,
                column_A=recorded,
                column_B=f"measured_{recorded}",
                **equal,
            )
            for side, recorded in (("high", "height_px"), ("wide", "width_px"))
        ),
        _flag("size", f"recorded sizes are among {_sizes(drawn)}", "size_planned", True),
        _of(
            "steps",
            f"images were drawn in {drawn.num_steps} steps",
            _IN_SET,
            column="num_steps",
            value_set=[drawn.num_steps],
        ),
        *_of_pixels(limits),
    ]
    return [_with_severity(expectation, limits) for expectation in suite]


def expect_of_pixels(limits: ValidateParams) -> list[Expectation]:
    """The part of the suite that drawing an image again can mend, as far as it sends images to quarantine."""
    suite = [_with_severity(each, limits) for each in (*_of_files(), *_of_pixels(limits))]
    return [each for each in suite if RULES[each.rule].redrawable and each.severity == "quarantine"]


def _of_files() -> list[Expectation]:
    return [
        _flag("decodable", "no image file is damaged", "damaged", False),
        _flag("format", "files have the format that their name says", "format_as_named", True),
    ]


def _of_pixels(limits: ValidateParams) -> list[Expectation]:
    def between(rule: str, name: str, column: str, **limit: float) -> Expectation:
        return _of(rule, name, _BETWEEN, column=f"judged_{column}", **limit)

    contrast, clipped, entropy = limits.min_contrast, limits.max_clipped_share, limits.min_entropy_bits
    smooth = f"smoothness is at least {limits.min_smoothness:g} (noise has 0)"
    suite = [
        between("contrast", f"contrast is at least {contrast:g} of 255", "contrast", min_value=contrast),
        between("saturation", f"at most {clipped:.1%} of the values are clipped", "clipped_share", max_value=clipped),
        between("entropy", f"entropy is at least {entropy:g} of 8 bits", "entropy_bits", min_value=entropy),
        between("noise", smooth, "smoothness", min_value=limits.min_smoothness),
        _of("duplicate", "no image repeats another", _NULL, column="duplicate_of"),
    ]
    for rule, which, levels in (
        ("near_repetition", "images of a prompt", limits.near_levels_within_prompt),
        ("near_duplicate", "images of different prompts", limits.near_levels_across_prompts),
    ):
        if levels is not None:
            suite.append(_of(rule, f"{which} differ by more than {levels:g} levels", _NULL, column=rule))
    if limits.agreement != "none":
        suite.append(
            _of("agreement", f"images show their prompt ({limits.agreement})", _NULL, column="agreement_doubt")
        )
    if limits.safety != "none":
        suite.append(_of("safety", f"images are safe ({limits.safety})", _NULL, column="safety_doubt"))
    return suite


def _of(rule: str, name: str, kind: str, **settings: Any) -> Expectation:
    return Expectation(rule, name, kind, settings, REASONS[rule])


def _flag(rule: str, name: str, column: str, value: bool) -> Expectation:
    return _of(rule, name, _IN_SET, column=column, value_set=[value])


def _sizes(drawn: SynthesizeParams) -> str:
    return f"{', '.join(f'{width}x{height}' for height, width in planned_sizes(drawn))} px"


def _with_severity(expectation: Expectation, limits: ValidateParams) -> Expectation:
    severity = limits.severity_of(expectation.rule)
    if expectation.reason is None:
        return replace(expectation, severity=severity)
    allowed = limits.max_duplicate_share if expectation.rule == "duplicate" else 1 - limits.min_accepted_share
    return replace(expectation, severity=severity, mostly=1 - allowed if severity == "quarantine" else 1.0)


def judge(frame: pd.DataFrame, expectations: list[Expectation]) -> Judgement:
    """Hold `frame` (see `l2p.data.checking.examining`) against `expectations`.

    Raises:
        DataError: an expectation could not be evaluated at all.
    """
    result = _evaluate(frame, expectations)
    # Great Expectations returns the results in an order of its own
    by_name = {found.expectation_config.meta["name"]: found for found in result.results}
    entries, broken = [], dict[int, list[str]]()
    for expectation in expectations:
        found = by_name[expectation.name]
        if found.exception_info.get("raised_exception"):
            raise DataError(
                f"expectation {expectation.name!r} cannot be evaluated: {found.exception_info['exception_message']}"
            )
        entries.append(_entry(expectation, found))
        if expectation.reason is not None:
            for place in found.result["unexpected_index_list"]:
                rules = broken.setdefault(int(place[ROW]), [])
                rules += [expectation.rule] if expectation.rule not in rules else []
    return Judgement(entries, broken, _as_json(result))


def _evaluate(frame: pd.DataFrame, expectations: list[Expectation]) -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
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
        meta = {"name": expectation.name, "rule": expectation.rule, "reason": expectation.reason}
        common = {"meta": meta, "notes": expectation.name, "severity": _SEVERITIES[expectation.severity]}
        suite.add_expectation(kind(**expectation.settings, **limit, **common))
    definition = gx.ValidationDefinition(
        name="corpus", data=asset.add_batch_definition_whole_dataframe("all"), suite=context.suites.add(suite)
    )
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame.assign(**{ROW: range(len(frame))})},
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": [ROW, "file_name"]},
    )


def _entry(expectation: Expectation, found: Any) -> dict[str, Any]:
    entry = {
        "rule": expectation.rule,
        "severity": expectation.severity,
        "name": expectation.name,
        "success": bool(found.success),
        "type": expectation.kind,
        "reason": expectation.reason,
    }
    if expectation.reason is None:
        value = found.result["observed_value"]
        counted = f"{len(COLUMNS)} columns" if isinstance(value, list) else f"{value} source{'s' * (value != 1)}"
        return entry | {"observed": counted}
    failed, total = int(found.result["unexpected_count"]), int(found.result["element_count"])
    return entry | {
        "observed": f"{total - failed} of {total} images",
        "failed": failed,
        "min_share": expectation.mostly,
    }


def _as_json(result: Any) -> dict[str, Any]:
    """Plain JSON values; a missing number is null, not the NaN that only Python reads."""
    return json.loads(json.dumps(result.to_json_dict()), parse_constant=lambda _: None)
