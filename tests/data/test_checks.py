"""What a redraw can mend: the same verdict as that of the stage `validate`, image by image."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2p.config import ValidateParams
from l2p.data import checks
from l2p.data.checks import ImageCheck, image_faults
from l2p.data.validation import validate_corpus
from l2p.errors import DataError
from tests.data.corpora import Corpus

BLACK = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", 12)


def limits(corpus: Corpus, **changes: Any) -> ValidateParams:
    return ValidateParams(**corpus.params.validation.model_dump() | changes)


def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)


def faulty(corpus: Corpus) -> Corpus:
    """A corpus in which images 1 to 5 are bad, each in another way."""
    other = corpus.pixels(6)
    corpus.redraw(1, BLACK)
    corpus.redraw(2, noise())
    corpus.path(3).write_bytes(corpus.path(3).read_bytes()[:90])
    corpus.redraw(4, other[:, ::-1].copy())
    corpus.redraw(5, np.where(corpus.pixels(5) > 128, 255, 0).astype(np.uint8))
    return corpus


def test_bad_images_are_named_with_their_reasons_and_no_good_one_is(corpus: Corpus):
    faulty(corpus)
    names = corpus.rows["file_name"]
    assert image_faults(corpus.rows, corpus.folder, limits(corpus)) == {
        names[1]: ["low contrast"],
        names[2]: ["noise"],
        names[3]: ["not decodable"],
        names[4]: ["not as its prompt says"],
        names[5]: ["saturated"],
    }


def test_a_clean_corpus_and_an_empty_one_have_no_faults(corpus: Corpus):
    assert image_faults(corpus.rows, corpus.folder, limits(corpus)) == {}
    assert image_faults(corpus.rows.head(0), corpus.folder, limits(corpus)) == {}


def test_the_check_of_fresh_images_and_the_stage_agree_on_pixels(corpus: Corpus):
    faulty(corpus)
    lenient = limits(corpus, min_accepted_share=0.1, min_class_kept_share=None)
    quarantine = validate_corpus(corpus.table, lenient, corpus.params.synthesize).quarantine.set_index("file_name")
    found = image_faults(corpus.rows, corpus.folder, lenient)
    assert set(found) == set(quarantine.index)
    for name, reasons in found.items():
        assert set(reasons) <= set(quarantine["reason"][name].split(", "))


def test_only_faults_that_send_an_image_to_quarantine_ask_for_another(corpus: Corpus):
    faulty(corpus)
    changed = limits(corpus, severity={"noise": "warn", "contrast": "error", "agreement": "warn"})
    names = corpus.rows["file_name"]
    assert set(image_faults(corpus.rows, corpus.folder, changed)) == {names[3], names[5]}


def test_faults_of_rows_and_files_that_a_redraw_cannot_mend_are_left_to_the_stage(corpus: Corpus):
    corpus.path(0).unlink()
    corpus.rows.loc[1, "num_steps"] = 3
    corpus.rows.loc[2, "sha256"] = "0" * 64
    corpus.rows.loc[3, "file_name"] = "../outside.png"
    assert image_faults(corpus.rows, corpus.folder, limits(corpus)) == {}


def test_of_two_images_that_are_alike_the_later_one_is_drawn_again(corpus: Corpus):
    again = corpus.pixels(3).astype(int) + np.random.default_rng(0).integers(-1, 2, size=(64, 64, 3))
    corpus.redraw(8, np.clip(again, 0, 255).astype(np.uint8))
    for column in ("prompt_id", "text", "style"):
        corpus.rows.loc[8, column] = corpus.rows.loc[3, column]
    corpus.save()
    found = image_faults(corpus.rows, corpus.folder, limits(corpus))
    assert found == {corpus.rows["file_name"][8]: ["near duplicate within its prompt"]}


def test_a_second_look_reads_only_what_changed(corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    read: list[int] = []
    measure_rows = checks.measure_rows

    def count(table: pd.DataFrame, *arguments: Any, **options: Any) -> Any:
        read.append(len(table))
        return measure_rows(table, *arguments, **options)

    monkeypatch.setattr(checks, "measure_rows", count)
    check, faults = ImageCheck(limits(corpus)), {corpus.rows["file_name"][4]: ["low contrast"]}
    good = corpus.path(4).read_bytes()
    corpus.redraw(4, BLACK)
    assert check(corpus.rows, corpus.folder) == faults
    assert check(corpus.rows, corpus.folder) == faults
    corpus.path(4).unlink()
    corpus.path(4).write_bytes(good)
    assert check(corpus.rows, corpus.folder) == {}
    assert read == [12, 0, 1]


def test_prompts_of_another_world_are_refused_by_the_shapes_judge(corpus: Corpus):
    corpus.rows.loc[2, "text"] = "an old sailor mending a net"
    with pytest.raises(DataError, match=r"validate\.agreement = shapes: prompt 'an old sailor.*set it to clip or none"):
        image_faults(corpus.rows, corpus.folder, limits(corpus))


def test_a_file_copied_over_another_is_not_what_others_are_compared_with(corpus: Corpus):
    shutil.copy(corpus.path(9), corpus.path(3))
    faults = image_faults(corpus.rows, corpus.folder, limits(corpus, agreement="none"))
    assert faults == {corpus.rows["file_name"][3]: ["duplicate image"]}
