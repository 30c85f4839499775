"""Rules and their severity: what stops, what removes an image, what is only reported."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from l2p.config import ValidateParams, load_params
from l2p.config.validation import RULES
from l2p.data.expectations import REASONS, expect_of_corpus
from l2p.data.validation import Validation, require_success, validate_corpus
from l2p.errors import ConfigError, DataError
from l2p.files import sha256_file
from tests.data.corpora import Corpus

ROOT = Path(__file__).parents[2]
LENIENT = {"min_accepted_share": 0.2, "max_duplicate_share": 0.5, "min_class_kept_share": None, "min_class_share": None}
LENIENT |= {"max_class_share": None}
BLACK = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", 12)


def validate(corpus: Corpus, **limits: Any) -> Validation:
    changed = corpus.params.validation.model_dump() | LENIENT | limits
    return validate_corpus(corpus.table, ValidateParams(**changed), corpus.params.synthesize)


def found(validation: Validation) -> dict[str, tuple[str, str]]:
    """Reason and detail by number of the image."""
    return {Path(row.file_name).stem[-2:]: (row.reason, row.detail) for row in validation.quarantine.itertuples()}


def store(corpus: Corpus, index: int, file_format: str, mode: str = "RGB") -> None:
    """The image in another format or mode, under its own name, with its digest recorded."""
    buffer = io.BytesIO()
    Image.fromarray(corpus.pixels(index)).convert(mode).save(buffer, format=file_format, quality=95)
    corpus.path(index).write_bytes(buffer.getvalue())
    corpus.rows.loc[index, "sha256"] = sha256_file(corpus.path(index))
    corpus.save()


def test_every_kind_of_bad_image_has_its_reason_and_what_was_found(corpus: Corpus):
    corpus.redraw(1, np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    corpus.redraw(2, np.where(corpus.pixels(2) > 128, 255, 0).astype(np.uint8))
    store(corpus, 3, "JPEG")
    store(corpus, 4, "PNG", "RGBA")
    corpus.redraw(5, np.asarray(Image.fromarray(corpus.pixels(5)).resize((96, 64))))
    nearly_blank = np.full((64, 64, 3), 90, np.uint8)
    nearly_blank[:, :2] = 200
    corpus.redraw(6, nearly_blank)
    corpus.redraw(7, corpus.pixels(9)[:, ::-1].copy())
    faults = found(validate(corpus))
    assert faults.pop("01")[0] == "noise"
    agreement = faults.pop("07")
    assert agreement[0] == "not as its prompt says"
    assert "seen" in agreement[1] or "wanted" in agreement[1]
    assert faults == {
        "02": ("saturated", "100.0% clipped"),
        "03": ("format not that of its name", "JPEG"),
        "04": ("wrong mode", "RGBA"),
        "05": ("wrong size", "96x64 px, 64x64 px recorded"),
        "06": ("low entropy", "0.20 bits"),
    }


def test_each_row_is_held_to_its_own_recorded_size_and_that_to_the_sizes_asked_for(corpus: Corpus):
    wide = np.asarray(Image.fromarray(corpus.pixels(3)).resize((96, 64)))
    corpus.redraw(3, wide)
    corpus.rows.loc[3, "width_px"] = 96
    corpus.save()
    assert found(validate(corpus, agreement="none")) == {
        "03": ("wrong size", "96x64 px, which params.yaml does not ask for")
    }
    sizes = [{"height_px": 64, "width_px": 64, "share": 1.0}, {"height_px": 64, "width_px": 96, "share": 1.0}]
    corpus.params = corpus.params.model_copy(
        update={
            "synthesize": type(corpus.params.synthesize)(**corpus.params.synthesize.model_dump() | {"sizes": sizes})
        }
    )
    assert found(validate(corpus, agreement="none")) == {}


@pytest.mark.parametrize("name", ["../outside.png", "/etc/passwd", "a/../../b.png", "a\\b.png", "", "C:/x.png"])
def test_a_file_name_that_leaves_the_folder_is_refused_and_never_opened(corpus: Corpus, name: str):
    (corpus.folder.parent / "outside.png").write_bytes(corpus.path(1).read_bytes())
    corpus.rows.loc[1, "file_name"] = name
    corpus.save()
    validation = validate(corpus)
    assert validation.quarantine["reason"].tolist() == ["file name refused"]
    assert name not in set(validation.accepted["file_name"])


def test_names_that_some_file_systems_take_for_the_same_collide(corpus: Corpus):
    corpus.path(2).rename(corpus.path(2).with_name("SAME.png"))
    corpus.path(3).rename(corpus.path(3).with_name("same.png"))
    corpus.rows.loc[2, "file_name"], corpus.rows.loc[3, "file_name"] = "00000/SAME.png", "00000/same.png"
    corpus.save()
    assert validate(corpus).quarantine["reason"].tolist() == ["file name not unique"] * 2


def test_rows_without_a_prompt_and_ids_of_several_texts_go_to_quarantine(corpus: Corpus):
    corpus.rows.loc[1, "text"] = "  "
    corpus.rows.loc[2, "prompt_id"] = None
    corpus.rows.loc[4, "prompt_id"] = corpus.rows.loc[5, "prompt_id"]
    corpus.save()
    faults = {name: reason for name, (reason, _) in found(validate(corpus, agreement="none")).items()}
    assert faults == {
        "01": "prompt missing",
        "02": "prompt missing",
        "04": "prompt id of several texts",
        "05": "prompt id of several texts",
    }


def test_a_rule_that_warns_keeps_the_image_and_reports_it(corpus: Corpus):
    store(corpus, 3, "PNG", "RGBA")
    validation = validate(corpus, severity={"mode": "warn"})
    assert validation.result["success"]
    assert validation.result["accepted"] == 12
    assert validation.result["warnings"] == {"wrong mode": 1}
    entry = next(entry for entry in validation.result["expectations"] if entry["rule"] == "mode")
    assert (entry["severity"], entry["success"], entry["failed"]) == ("warn", False, 1)


def test_a_rule_of_severity_error_stops_at_one_image_and_names_it(corpus: Corpus):
    corpus.redraw(3, BLACK)
    assert validate(corpus)  # two thirds of the images would do
    with pytest.raises(DataError, match=r"low contrast \(00000/000003\.png\), validate\.severity\.contrast is error"):
        require_success(validate(corpus, severity={"contrast": "error"}))


def test_a_rule_of_the_corpus_may_be_lowered_to_a_warning(corpus: Corpus):
    corpus.rows.loc[3, "source_digest"] = "another"
    corpus.save()
    assert validate(corpus, severity={"one_source": "warn"}).result["success"]


def test_a_class_that_the_filter_empties_stops_the_pipeline(corpus: Corpus):
    rare = corpus.rows["style"].value_counts().idxmin()
    for index in np.flatnonzero(corpus.rows["style"] == rare):
        corpus.redraw(int(index), BLACK)
    with pytest.raises(DataError, match=rf"share of its images that are accepted in {rare} 0\.0%, .* is 50\.0%"):
        require_success(validate(corpus, min_class_kept_share=0.5, max_duplicate_share=1.0))


def test_unbalanced_classes_are_a_warning_by_default(corpus: Corpus):
    validation = validate(corpus, max_class_share=0.1)
    assert validation.result["success"]
    entry = next(entry for entry in validation.result["expectations"] if entry["rule"] == "class_share")
    assert not entry["success"]
    assert "max_class_share 10.0%" in entry["problem"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"severity": {"contrast": "fatal"}}, r"`validate\.severity\.contrast` = 'fatal'"),
        ({"severity": {"contrasts": "warn"}}, r"no rule 'contrasts'; there are columns, one_source"),
        ({"severity": {"class_kept": "quarantine"}}, r"'class_kept' is about the whole corpus: error or warn"),
        ({"agreement": "clip"}, "agreement = clip needs clip_model"),
        ({"safety": "nudenet", "unsafe_classes": []}, "safety = nudenet needs unsafe_classes"),
        ({"min_class_share": 0.5, "max_class_share": 0.4}, "min_class_share is larger than max_class_share"),
        ({"near_hash_bits": 64}, r"`validate\.near_hash_bits` = 64"),
        ({"min_contrasts": 4}, r"unknown key `validate\.min_contrasts`"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, Any], message: str):
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["validate"] |= change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_params(tmp_path / "params.yaml")


def test_every_rule_has_its_expectation_and_its_line_in_the_docs(corpus: Corpus):
    limits = ValidateParams(**corpus.params.validation.model_dump() | {"safety": "nudenet"})
    expected = {each.rule for each in expect_of_corpus(limits, corpus.params.synthesize)}
    assert expected | {"accepted_share", "duplicate_share", "class_share", "class_kept"} == set(RULES)
    assert set(REASONS) == {name for name, rule in RULES.items() if rule.of_images}
    page = (ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\| `(\w+)` \|(.*)$", page, re.MULTILINE))
    assert set(lines) == set(RULES)
    for name, rule in RULES.items():
        assert f"| {rule.severity} |" in lines[name]
        assert ("| yes |" in lines[name]) == rule.redrawable
        assert all(f"`{limit}`" in lines[name] for limit in rule.limits)
        assert set(rule.limits) <= set(ValidateParams.model_fields)


def test_an_unreadable_table_is_named(corpus: Corpus):
    corpus.table.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"metadata\.parquet: not a parquet file"):
        validate(corpus)
    pd.DataFrame({"file_name": ["a.png"]}).to_parquet(corpus.table)
    with pytest.raises(DataError, match=r"metadata\.parquet: no column 'prompt_id'"):
        validate(corpus)
