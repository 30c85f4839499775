"""What is expected of a corpus: planted faults are caught, named and kept out of the manifest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2p.config import ValidateParams
from l2p.data.corpus import COLUMNS, measure_images, read_table
from l2p.data.validation import Validation, require_success, validate_corpus, write_validation
from l2p.errors import DataError, MissingFileError
from tests.data.corpora import Corpus

BLANK_PINK = np.full((64, 64, 3), (250, 205, 220), np.uint8)
LENIENT = {
    "min_accepted_share": 0.4,
    "max_duplicate_share": 0.5,
    "min_contrast": 4.0,
    "min_class_kept_share": None,
    "agreement": "none",
}


@pytest.fixture(autouse=True)
def _no_analytics(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", 12)


def validate(corpus: Corpus, **limits: Any) -> Validation:
    changed = corpus.params.validation.model_dump() | LENIENT | limits
    return validate_corpus(corpus.table, ValidateParams(**changed), corpus.params.synthesize)


def reasons(validation: Validation) -> dict[str, str]:
    """Reason by number of the image."""
    return {Path(row.file_name).stem[-2:]: row.reason for row in validation.quarantine.itertuples()}


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def test_a_clean_corpus_is_accepted_whole(corpus: Corpus):
    validation = validate(corpus, min_accepted_share=1.0, max_duplicate_share=0.0)
    assert validation.result["success"]
    assert (validation.result["accepted"], validation.result["rejected"]) == (12, 0)
    assert all(entry["success"] for entry in validation.result["expectations"])
    pd.testing.assert_frame_equal(validation.accepted, corpus.rows)


def test_a_blank_a_truncated_a_duplicated_and_a_wrong_size_image_are_caught_each_for_its_reason(corpus: Corpus):
    corpus.redraw(2, BLANK_PINK)
    truncate(corpus.path(4))
    shutil.copy(corpus.path(1), corpus.path(6))
    corpus.rows.loc[6, "sha256"] = corpus.rows.loc[1, "sha256"]
    corpus.redraw(8, np.asarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3)), np.uint8))
    validation = validate(corpus)
    assert reasons(validation) == {
        "02": "low contrast",
        "04": "not decodable, sha256 differs",
        "06": "duplicate image",
        "08": "wrong size, noise",
    }
    assert validation.result["reasons"] == {
        "not decodable": 1, "sha256 differs": 1, "wrong size": 1, "low contrast": 1, "noise": 1, "duplicate image": 1
    }  # fmt: skip
    assert set(validation.accepted.index) == set(range(12)) - {2, 4, 6, 8}


def test_faults_of_the_table_are_caught_too(corpus: Corpus):
    corpus.path(0).unlink()
    corpus.rows["seed"] = corpus.rows["seed"].astype("Int64")
    corpus.rows.loc[1, "seed"] = pd.NA
    corpus.rows.loc[2, "num_steps"] = 3
    corpus.rows.loc[3, ["prompt_id", "text", "seed"]] = corpus.rows.loc[4, ["prompt_id", "text", "seed"]]
    corpus.rows.loc[5, "sha256"] = "0" * 64
    corpus.save()
    assert reasons(validate(corpus)) == {
        "00": "file missing",
        "01": "seed missing",
        "02": "wrong number of steps",
        "03": "prompt and seed not unique",
        "04": "prompt and seed not unique",
        "05": "sha256 differs",
    }


def test_an_image_copied_over_another_does_not_make_its_own_source_a_duplicate(corpus: Corpus):
    shutil.copy(corpus.path(9), corpus.path(3))
    assert reasons(validate(corpus)) == {"03": "sha256 differs, duplicate image"}


def test_rows_that_name_the_same_file_are_told_apart(corpus: Corpus):
    corpus.rows.loc[7, ["file_name", "sha256"]] = corpus.rows.loc[5, ["file_name", "sha256"]]
    corpus.save()
    validation = validate(corpus)
    assert validation.quarantine["seed"].tolist() == [5, 7]
    assert validation.quarantine["reason"].tolist() == [
        "file name not unique", "file name not unique, duplicate image"
    ]  # fmt: skip


def test_the_stage_fails_above_the_shares_but_leaves_quarantine_and_result(corpus: Corpus, tmp_path: Path):
    for index in (2, 3):
        corpus.redraw(index, BLANK_PINK)
    validation = validate(corpus, min_accepted_share=0.9, max_duplicate_share=0.05)
    manifest, quarantine, reports = tmp_path / "manifest.parquet", tmp_path / "quarantine.parquet", tmp_path / "reports"
    manifest.write_bytes(b"of an earlier, accepted corpus")
    write_validation(validation, manifest=manifest, quarantine=quarantine, reports=reports)
    with pytest.raises(DataError, match=r"83\.3% of 12 images accepted.*90\.0% \(low contrast 2, duplicate image 1\)"):
        require_success(validation)
    with pytest.raises(DataError, match=r"8\.3% of 12 images are duplicates, validate\.max_duplicate_share is 5\.0%"):
        require_success(validation)
    assert not manifest.exists()
    assert pd.read_parquet(quarantine)["reason"].tolist() == ["low contrast", "low contrast, duplicate image"]
    result = json.loads((reports / "result.json").read_text())
    assert not result["success"]
    failed = {entry["name"] for entry in result["expectations"] if not entry["success"]}
    assert failed == {
        "contrast is at least 4 of 255",
        "no image repeats another",
        "at least 90.0% of the images are accepted",
        "at most 5.0% of the images repeat another",
    }


def test_a_corpus_within_the_shares_passes_without_its_bad_images(corpus: Corpus, tmp_path: Path):
    corpus.redraw(2, BLANK_PINK)
    validation = validate(corpus, min_accepted_share=0.9)
    require_success(validation)
    manifest = tmp_path / "manifest.parquet"
    write_validation(validation, manifest=manifest, quarantine=tmp_path / "q.parquet", reports=tmp_path / "reports")
    assert list(pd.read_parquet(manifest).columns) == COLUMNS
    assert len(pd.read_parquet(manifest)) == 11


def test_the_reports_need_no_network_and_no_lenient_reader(corpus: Corpus, tmp_path: Path):
    corpus.redraw(2, BLANK_PINK)
    truncate(corpus.path(4))
    write_validation(validate(corpus), manifest=tmp_path / "m", quarantine=tmp_path / "q", reports=tmp_path / "reports")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    full = json.loads((tmp_path / "reports" / "great_expectations.json").read_text(), parse_constant=refuse)
    assert len(full["results"]) == 25


def test_images_of_two_sources_in_one_corpus_are_refused(corpus: Corpus):
    corpus.rows.loc[3, "source_digest"] = "another"
    corpus.save()
    with pytest.raises(DataError, match=r"broken rule one_source: one source drew all images \(2 sources\)"):
        require_success(validate(corpus))


def test_a_corpus_without_one_readable_image_is_judged_and_not_a_crash(corpus: Corpus):
    for index in range(12):
        corpus.path(index).write_bytes(b"not an image")
    validation = validate(corpus)
    assert validation.result["accepted"] == 0
    assert validation.result["reasons"] == {"not decodable": 12, "sha256 differs": 12}


def test_a_png_cut_anywhere_is_measured_as_damaged(corpus: Corpus):
    content = corpus.path(0).read_bytes()
    for length in range(0, len(content) - 32, 7):  # what is behind that holds checksums, no pixels
        corpus.path(0).write_bytes(content[:length])
        measured = measure_images(corpus.rows.head(1), corpus.folder)
        assert not measured["decodable"][0], f"{length} of {len(content)} bytes"
        assert measured["problem"][0]


def test_statistics_are_those_of_the_pixels(corpus: Corpus):
    half = np.zeros((64, 64, 3), np.uint8)
    half[:, 32:, 0] = 200
    corpus.redraw(0, half)
    corpus.redraw(1, BLANK_PINK)
    measured = measure_images(corpus.rows, corpus.folder)
    assert measured.loc[0, "contrast"] == 100
    assert measured.loc[0, "mean"] == pytest.approx(100 / 3)
    assert measured.loc[1, "contrast"] == 0
    assert measured["duplicate_of"].isna().all()


def test_a_corpus_that_is_not_there_or_not_readable_is_named(corpus: Corpus):
    corpus.rows.drop(columns="seed").to_parquet(corpus.table)
    with pytest.raises(DataError, match=r"metadata\.parquet: no column 'seed'"):
        read_table(corpus.table)
    corpus.table.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"metadata\.parquet: not a parquet file"):
        read_table(corpus.table)
    corpus.rows.head(0).to_parquet(corpus.table)
    with pytest.raises(DataError, match=r"metadata\.parquet: no rows"):
        read_table(corpus.table)
    corpus.table.unlink()
    with pytest.raises(MissingFileError, match="`l2p synthesize` writes it"):
        read_table(corpus.table)
