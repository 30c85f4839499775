"""What a step trains on follows from seed, step and position alone; what was not accepted is not trained on."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from l2p.config import Layout, load_params
from l2p.errors import DataError, MissingFileError
from l2p.models.embeddings import EmbeddingStore
from l2p.training.samples import Corpus, Samples
from tests.training.conftest import IMAGES, with_train


def open_corpus(budget_bytes: int = 1 << 20) -> Corpus:
    """The project's corpus."""
    return Corpus(Layout.manifest, Layout.corpus, budget_bytes=budget_bytes)


def open_samples(rank: int = 0, world_size: int = 1) -> Samples:
    """Samples of one process."""
    store = EmbeddingStore(Layout.embeddings)
    return Samples(open_corpus(), store, load_params().train, rank=rank, world_size=world_size)


def test_two_processes_share_exactly_the_batch_of_one(project: Path) -> None:
    whole, parts = open_samples().batch(3), [open_samples(rank, 2).batch(3) for rank in (0, 1)]
    assert whole.rows == [row for part in parts for row in part.rows]
    assert whole.prompt_ids == [prompt for part in parts for prompt in part.prompt_ids]
    for field in ("x0_BCHW", "noise_BCHW", "sigma_B"):
        assert torch.equal(getattr(whole, field), torch.cat([getattr(part, field) for part in parts]))


def test_a_batch_may_be_asked_for_in_any_order(project: Path) -> None:
    forward, backward = open_samples(), open_samples()
    early, late = forward.batch(0), forward.batch(7)
    assert torch.equal(backward.batch(7).noise_BCHW, late.noise_BCHW)
    assert backward.batch(0).rows == early.rows
    assert torch.equal(next(forward.batches(7, 8)).x0_BCHW, late.x0_BCHW)


def test_steps_and_samples_have_noise_of_their_own(project: Path) -> None:
    first, second = open_samples().batch(0).noise_BCHW, open_samples().batch(1).noise_BCHW
    flat = torch.cat([first, second]).flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(len(flat))
    assert correlation.abs().max() < 0.05
    assert flat.std() == pytest.approx(1, abs=0.02)


def test_dropped_captions_become_the_empty_prompt(project: Path) -> None:
    with_train(caption_dropout=0.5, batch_size=16)
    batch = open_samples().batch(0)
    empty = EmbeddingStore(Layout.embeddings).get("")["cap_feats"]
    dropped = [index for index, prompt in enumerate(batch.prompt_ids) if not prompt]
    assert 2 < len(dropped) < 14
    assert all(torch.equal(batch.embeddings[index]["cap_feats"], empty) for index in dropped)


def test_pixels_lie_between_minus_one_and_one_and_are_the_files(project: Path) -> None:
    batch, corpus = open_samples().batch(0), open_corpus()
    image = torch.from_numpy(np.array(Image.open(Layout.corpus / corpus.name(batch.rows[0]))))
    assert torch.equal(((batch.x0_BCHW[0] + 1) * 127.5).round().byte().permute(1, 2, 0), image)
    assert batch.x0_BCHW.min() >= -1
    assert batch.x0_BCHW.max() <= 1


@pytest.mark.parametrize("budget_bytes", [0, 1 << 20])
def test_images_are_the_same_whether_kept_in_memory_or_read_each_time(project: Path, budget_bytes: int) -> None:
    corpus = open_corpus(budget_bytes)
    first = corpus.image(0)
    (Layout.corpus / corpus.name(0)).unlink()
    if budget_bytes:
        assert torch.equal(corpus.image(0), first)
    else:
        with pytest.raises(DataError, match="missing, but accepted"):
            corpus.image(0)


def test_a_truncated_image_is_named(project: Path) -> None:
    corpus = open_corpus()
    path = Layout.corpus / corpus.name(4)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000004\.png: damaged image"):
        list(map(open_samples().batch, range(4)))


def test_an_image_of_another_size_is_named(project: Path) -> None:
    path = Layout.corpus / open_corpus().name(0)
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(DataError, match=r"000000\.png: 32x32 pixels, accepted as 64x64"):
        open_corpus().image(0)


def test_an_image_replaced_after_it_was_accepted_is_named(project: Path) -> None:
    path = Layout.corpus / open_corpus().name(0)
    Image.new("RGB", (64, 64)).save(path)
    with pytest.raises(DataError, match=r"000000\.png: changed since it was accepted"):
        open_corpus().image(0)


def test_a_missing_manifest_names_the_stage_that_writes_it(project: Path) -> None:
    Layout.manifest.unlink()
    with pytest.raises(MissingFileError, match="l2p validate"):
        open_corpus()


def test_an_empty_manifest_is_refused(project: Path) -> None:
    pd.read_parquet(Layout.manifest).iloc[:0].to_parquet(Layout.manifest)
    with pytest.raises(DataError, match="no accepted image"):
        open_corpus()


def test_a_step_has_images_of_one_size_with_noise_of_that_size(project: Path) -> None:
    rows = pd.read_parquet(Layout.manifest)
    for index in range(6):
        path = Layout.corpus / rows.file_name[index]
        Image.new("RGB", (96, 64), (index, 0, 0)).save(path)
        rows.loc[index, ["width_px", "sha256"]] = [96, hashlib.sha256(path.read_bytes()).hexdigest()]
    rows.to_parquet(Layout.manifest)
    batches = [open_samples().batch(step) for step in range(12)]
    assert {tuple(batch.x0_BCHW.shape[1:]) for batch in batches} == {(3, 64, 64), (3, 64, 96)}
    assert all(batch.noise_BCHW.shape == batch.x0_BCHW.shape for batch in batches)


def test_flipped_samples_are_mirrored_and_none_are_by_default(project: Path) -> None:
    plain = open_samples().batch(2)
    with_train(horizontal_flip=1.0)
    flipped = open_samples().batch(2)
    assert torch.equal(flipped.x0_BCHW.flip(-1), plain.x0_BCHW)
    assert torch.equal(flipped.noise_BCHW, plain.noise_BCHW)


def test_files_are_all_checked_and_counted_before_the_first_step(project: Path) -> None:
    corpus = open_corpus()
    corpus.check_files()
    (Layout.corpus / corpus.name(2)).write_bytes(b"other")
    (Layout.corpus / corpus.name(9)).unlink()
    with pytest.raises(DataError, match=rf"000002\.png: changed since .* \(2 of {IMAGES} images are like this"):
        corpus.check_files()
