"""Stored prompt embeddings are what the source's own encoder gives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import prompt_id
from l2p.files import sha256_file
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore
from l2p.models.source import SourcePin, load_source_pipeline, pin_source

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


@pytest.fixture
def stored(tiny_source: Path, prompts: pd.DataFrame, tmp_path: Path) -> tuple[SourcePin, Path]:
    """A pin, and the folder of embeddings of all prompts."""
    pin, folder = pin_source(str(tiny_source)), tmp_path / "embeddings"
    embed_prompts(prompts, pin=pin, folder=folder, batch_size=2, dtype="float32")
    return pin, folder


def table(*texts: str) -> pd.DataFrame:
    return pd.DataFrame({"prompt_id": [prompt_id(text) for text in texts], "text": texts})


def test_added_prompts_do_not_change_the_embeddings_there_are_by_one_bit(stored: tuple[SourcePin, Path]):
    pin, folder = stored
    before = {name: EmbeddingStore(folder).get(name)["cap_feats"] for name in ["", *map(prompt_id, TEXTS)]}
    grown = table("a new prompt of many words on a yellow background", *reversed(TEXTS))
    assert embed_prompts(grown, pin=pin, folder=folder, batch_size=3, dtype="float32") == 1
    after = EmbeddingStore(folder)
    assert all(torch.equal(after.get(name)["cap_feats"], tensor) for name, tensor in before.items())


def test_embedding_again_needs_no_source_and_writes_the_same_bytes(
    stored: tuple[SourcePin, Path], prompts: pd.DataFrame
):
    pin, folder = stored
    before = {path.name: sha256_file(path) for path in folder.iterdir()}
    nowhere = SourcePin(**{**vars(pin), "path": "/nowhere"})
    assert embed_prompts(prompts, pin=nowhere, folder=folder, batch_size=1, dtype="float32") == 0
    assert {path.name: sha256_file(path) for path in folder.iterdir()} == before


@pytest.mark.parametrize("change", ["precision", "text", "damage", "lost index", "torn index"])
def test_what_is_not_the_same_any_more_is_embedded_anew(
    stored: tuple[SourcePin, Path], prompts: pd.DataFrame, change: str
):
    pin, folder = stored
    prompts = prompts.copy()
    if change == "text":
        prompts.loc[0, "text"] = "another text of the same id"
    elif change == "damage":
        content = bytearray((folder / "tokens.safetensors").read_bytes())
        content[-1] ^= 1
        (folder / "tokens.safetensors").write_bytes(content)
    elif change == "lost index":
        (folder / "index.parquet").unlink()
    elif change == "torn index":
        (folder / "index.parquet").write_bytes(b"PAR1")
    dtype = "bfloat16" if change == "precision" else "float32"
    new = embed_prompts(prompts, pin=pin, folder=folder, batch_size=2, dtype=dtype)
    assert new == (1 if change == "text" else 4)
    assert all(EmbeddingStore(folder).holds(row.prompt_id, row.text) for row in prompts.itertuples())
