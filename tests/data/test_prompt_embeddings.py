"""Stored prompt embeddings are what the source's own encoder gives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import prompt_id
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.source import load_source_pipeline, pin_source

TEXTS = [
    "a photo of a circle",
    "a red star in the top left, a blue circle in the top right, on a pink background",
    "a star",
]


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [prompt_id(text) for text in TEXTS], "text": TEXTS})


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_every_prompt_and_the_empty_one_are_stored_as_the_pipeline_encodes_them(
    tiny_source: Path, prompts: pd.DataFrame, tmp_path: Path, batch_size: int
):
    pin = pin_source(str(tiny_source))
    count = embed_prompts(prompts, pin=pin, folder=tmp_path, batch_size=batch_size, dtype="float32")
    assert count == 4
    store = EmbeddingStore(tmp_path)
    expected, _ = load_source_pipeline(pin).encode_prompt(["", *TEXTS], do_classifier_free_guidance=False)
    for name, features_LD in zip([EMPTY_PROMPT_ID, *prompts["prompt_id"]], expected, strict=True):
        torch.testing.assert_close(store.get(name)["cap_feats"], features_LD, rtol=1e-4, atol=1e-5)
