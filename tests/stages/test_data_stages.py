"""The stages of the data, one after the other, as the command line runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from l2p.config import Layout, load_params
from l2p.errors import DataError, MissingFileError
from l2p.models.embeddings import EmbeddingStore
from l2p.stages import embed, prompts, source, synthesize, validate


def test_the_stages_lead_from_a_source_to_an_accepted_corpus_with_embeddings(workspace: Path):
    params = load_params()
    for stage in (source, prompts, embed, synthesize, validate):
        stage.run(params)
    manifest = pd.read_parquet(Layout.manifest)
    assert len(manifest) == params.prompts.count * params.synthesize.images_per_prompt
    assert all((Layout.corpus / name).is_file() for name in manifest["file_name"])
    assert json.loads((Layout.validation / "result.json").read_text())["success"]
    store = EmbeddingStore(Layout.embeddings)
    assert all(len(store.get(name)["cap_feats"]) for name in ["", *manifest["prompt_id"]])
    assert not list(workspace.rglob("*.partial"))


def test_a_corpus_damaged_after_it_was_drawn_fails_validation_and_is_repaired_by_synthesis(workspace: Path):
    params = load_params()
    for stage in (source, prompts, embed, synthesize):
        stage.run(params)
    for path in sorted(Layout.corpus.glob("*/*.png"))[:2]:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"metadata\.parquet: not accepted.*not decodable 2"):
        validate.run(params)
    assert len(pd.read_parquet(Layout.quarantine)) == 2
    assert not Layout.manifest.exists()
    synthesize.run(params)
    validate.run(params)
    assert Layout.manifest.is_file()


def test_a_stage_whose_input_is_not_there_names_the_stage_that_writes_it(workspace: Path):
    params = load_params()
    with pytest.raises(MissingFileError, match="`l2p source` writes it"):
        synthesize.run(params)
    source.run(params)
    with pytest.raises(MissingFileError, match="`l2p prompts` writes it"):
        synthesize.run(params)
    with pytest.raises(MissingFileError, match="`l2p synthesize` writes it"):
        validate.run(params)
