"""A corpus spoiled on purpose: the file's digests agree, its pixels do not, and validation finds what was replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import ablation_renders as renders
from bench.ablation_matrix import read_matrix
from bench.ablation_pollution import DAMAGE, pollute
from bench.ablation_stages import CORPUS_COMMANDS
from l2p.config import Layout, load_params
from l2p.data.prompts import draw_prompts
from l2p.data.validation import validate_corpus
from l2p.files import sha256_file

ROOT = Path(__file__).parents[2]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two renders of each of 60 prompts."""
    params = load_params(ROOT / "params.yaml")
    prompts = draw_prompts(params.prompts.model_copy(update={"count": 60})).table
    monkeypatch.chdir(tmp_path)
    renders.draw_corpus(prompts, params.synthesize)
    return Layout.corpus_table


def test_what_is_replaced_is_named_and_has_the_digest_of_its_new_bytes(corpus: Path) -> None:
    before = pd.read_parquet(corpus)
    spoilt = pollute(corpus, 0.25)
    after = pd.read_parquet(corpus)
    assert len(spoilt) == 30
    assert set(spoilt.values()) == set(DAMAGE)
    assert set(after["file_name"][before["sha256"] != after["sha256"]]) == set(spoilt)
    assert all(sha256_file(corpus.parent / row.file_name) == row.sha256 for row in after.itertuples())


def test_each_kind_of_damage_is_what_it_says(corpus: Path) -> None:
    spoilt = pollute(corpus, 0.5)
    pixels = {name: np.asarray(Image.open(corpus.parent / name), dtype=float) for name in spoilt}
    for name, kind in spoilt.items():
        if kind == "blank":
            assert pixels[name].std(axis=(0, 1)).max() == 0
        if kind == "noise":
            assert pixels[name].std() > 60


def test_validation_finds_what_was_replaced_and_keeps_most_of_the_rest(corpus: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    spoilt = pollute(corpus, 0.25)
    found = validate_corpus(corpus, params.validation, params.synthesize)
    rejected = set(found.quarantine["file_name"])
    assert len(rejected & set(spoilt)) >= 0.9 * len(spoilt)  # an exchanged image may show its new prompt by chance
    assert len(rejected - set(spoilt)) <= 0.1 * (len(found.accepted) + len(rejected))
    assert not found.result["success"]  # a quarter is more than the default allows


def test_the_lessons_are_parameters_that_params_yaml_takes() -> None:
    matrix = read_matrix(ROOT / "bench/lessons.yaml")
    assert {variant.corpus for variant in matrix.variants} <= {"source", *CORPUS_COMMANDS}
