"""Any image of a corpus can be made again from its row, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import Layout
from l2p.data.corpora.redrawing import choose_names
from l2p.data.synthesis import write_png
from l2p.errors import DataError
from tests.data.test_corpus_commands import l2p, write_image


@pytest.fixture
def drawn(workspace: Path) -> Path:
    """A project whose corpus was drawn by its stages: 24 images of 12 prompts, in batches that split prompts."""
    change_params(images_per_prompt=2, batch_size=5, num_steps=1, guidance_scale=1.0, dtype="float32", max_redraws=0)
    run_stages("source", "prompts", "embed", "synthesize")
    return workspace


def run_stages(*stages: str) -> None:
    for stage in stages:
        result = CliRunner().invoke(app, [stage])
        assert result.exit_code == 0, result.exception


def change_params(**changes: object) -> None:
    change("synthesize", **changes)


def change(section: str, **changes: object) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params[section] |= changes
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.mark.parametrize("seed", [0, 1])
def test_ten_random_images_have_the_same_bytes_again(drawn: Path, seed: int):
    done = l2p("redraw", "--rows", "10", "--seed", str(seed))
    assert done.stdout == "10 of 10 images have the same bytes again\n"
    assert done.exit_code == 0


def test_every_image_has_the_same_bytes_again_in_bfloat16(workspace: Path):
    change_params(images_per_prompt=3, batch_size=7, num_steps=2, dtype="bfloat16")
    run_stages("source", "prompts", "embed", "synthesize")
    assert l2p("redraw", "--rows", "100").stdout == "36 of 36 images have the same bytes again\n"


def test_the_choice_follows_from_its_seed(drawn: Path):
    table = pd.read_parquet(Layout.corpus_table)
    assert choose_names(table, 10, 3) == choose_names(table, 10, 3) != choose_names(table, 10, 4)
    assert len(choose_names(table, 99, 0)) == 24


def test_an_image_that_another_seed_drew_is_found_out(drawn: Path):
    table = pd.read_parquet(Layout.corpus_table)
    table.loc[7, "seed"] += 1000
    table.to_parquet(Layout.corpus_table, index=False)
    done = l2p("redraw", "--rows", "24")
    assert done.exit_code == 1
    assert "23 of 24 images have the same bytes again" in done.stdout
    assert f"different {table['file_name'][7]} (by up to " in done.stdout
    assert f"; seed was {table['seed'][7] - 1000}, the table says {table['seed'][7]}" in done.stdout


def test_what_params_say_today_does_not_matter(drawn: Path):
    change_params(dtype="bfloat16", batch_size=2, num_steps=9)
    assert l2p("redraw").stdout == "10 of 10 images have the same bytes again\n"


def test_another_number_of_threads_is_taken_back_to_the_one_that_drew(drawn: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert l2p("redraw").stdout == "10 of 10 images have the same bytes again\n"
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_corpus_that_was_resumed_and_grew_has_the_same_bytes_again(drawn: Path):
    names = pd.read_parquet(Layout.corpus_table)["file_name"]
    for name in names[3:8]:
        (Layout.corpus / name).unlink()
    change("prompts", count=17)
    run_stages("prompts", "embed", "synthesize")
    table = pd.read_parquet(Layout.corpus_table)
    assert len(table) == 34
    assert l2p("redraw", "--rows", "34").stdout == "34 of 34 images have the same bytes again\n"


def test_without_the_journal_the_batches_are_not_known(drawn: Path):
    (Layout.corpus / "journal.jsonl").unlink()
    with pytest.raises(DataError, match=r"journal\.jsonl: does not say in which batch .* restore it"):
        l2p("redraw")


def test_an_imported_corpus_cannot_be_redrawn(workspace: Path):
    write_image(Path("foreign/0.png"), 0)
    Path("foreign/0.txt").write_text("a star", encoding="utf-8")
    run_stages("source")
    l2p("import", "foreign")
    with pytest.raises(DataError, match=r"drawn by source imported, .*cannot be redrawn"):
        l2p("redraw")


def test_a_changed_file_is_not_compared(drawn: Path):
    name = pd.read_parquet(Layout.corpus_table)["file_name"][3]
    write_png(Layout.corpus / name, np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(DataError, match=rf"{name}: missing or changed since it was drawn"):
        l2p("redraw", "--rows", "24")


def test_an_imported_corpus_is_validated_embedded_converted_and_trained(workspace: Path):
    torch.manual_seed(0)
    for index in range(12):
        write_image(Path(f"foreign/{index:02d}.png"), index)
        Path(f"foreign/{index:02d}.txt").write_text(f"a photo of {index} stars", encoding="utf-8")
    run_stages("source")
    l2p("import", "foreign")
    run_stages("embed", "validate", "convert", "train")
    assert (Layout.pixel / "delta.safetensors").is_file()
