from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from l2p.config import Layout, Params
from l2p.errors import LineageError, MissingFileError
from l2p.files import read_json, sha256_file, write_json
from l2p.models.delta import read_delta_card
from l2p.models.source import SourcePin
from l2p.registry.lineage import Lineage, compute_lineage, first_difference, verify
from tests.registry.conftest import flip_byte

CORPUS_IMAGE = Layout.corpus / "00000/000001.png"


@pytest.fixture
def compute(params: Params) -> Callable[..., Lineage]:
    """Computes the lineage of the project as it is now."""

    def now(changed: Params | None = None) -> Lineage:
        return compute_lineage(changed or params, source_folder=SourcePin.load(Layout.source).folder, context={})

    return now


def test_the_same_files_give_the_same_root(compute: Callable[..., Lineage]) -> None:
    assert compute().root == compute().root


def test_a_lineage_survives_being_stored(compute: Callable[..., Lineage], tmp_path: Path) -> None:
    write_json(tmp_path / "lineage.json", compute().to_json())
    assert Lineage.from_json(read_json(tmp_path / "lineage.json", written_by="")).inputs == compute().inputs


def test_context_is_recorded_but_is_not_part_of_the_root(compute: Callable[..., Lineage]) -> None:
    lineage = compute()
    assert Lineage(lineage.inputs, {"git": {"commit": "abc"}}).root == lineage.root


@pytest.mark.parametrize(
    ("file", "named"),
    [
        (Layout.prompts_table, "prompts"),
        (Layout.manifest, "manifest"),
        (Layout.embeddings / "tokens.safetensors", "embeddings > tokens.safetensors"),
        (Layout.embeddings / "index.parquet", "embeddings > index.parquet"),
        (Layout.init / "delta.safetensors", "init > delta.safetensors"),
        (Layout.init / "config.json", "init > config.json"),
        (Layout.pixel / "config.json", "pixel > config.json"),
        (Layout.geneval / "pixel/scores.json", "scores > geneval/pixel"),
        (Layout.dpg / "source/scores.json", "scores > dpg/source"),
    ],
)
def test_one_changed_byte_changes_the_root_and_is_named(
    compute: Callable[..., Lineage], file: Path, named: str
) -> None:
    before = compute()
    flip_byte(file)
    after = compute()
    assert after.root != before.root
    with pytest.raises(LineageError, match=f"lineage: {named} is {sha256_file(file)[:12]}, registered was"):
        verify(before, after)


def test_a_changed_corpus_with_a_changed_table_is_another_corpus(compute: Callable[..., Lineage]) -> None:
    before = compute()
    flip_byte(CORPUS_IMAGE)
    table = pd.read_parquet(Layout.corpus_table)
    table["sha256"] = [sha256_file(Layout.corpus / name) for name in table["file_name"]]
    table.to_parquet(Layout.corpus_table, index=False)
    with pytest.raises(LineageError, match="lineage: corpus > digest"):
        verify(before, compute())


def test_the_order_of_the_corpus_table_does_not_change_the_digest_of_the_images(
    compute: Callable[..., Lineage],
) -> None:
    before = compute().inputs["corpus"]["digest"]
    pd.read_parquet(Layout.corpus_table).iloc[::-1].to_parquet(Layout.corpus_table, index=False)
    assert compute().inputs["corpus"]["digest"] == before


@pytest.mark.parametrize("damage", [flip_byte, Path.unlink])
def test_an_image_that_is_not_what_its_table_says_is_named(
    compute: Callable[..., Lineage], damage: Callable[[Path], None]
) -> None:
    damage(CORPUS_IMAGE)
    with pytest.raises(LineageError, match=r"00000/000001\.png: (has sha256|missing)"):
        compute()


def test_changed_weights_contradict_their_card(compute: Callable[..., Lineage]) -> None:
    flip_byte(Layout.pixel / "delta.safetensors")
    with pytest.raises(LineageError, match=r"delta\.safetensors: has sha256 .*delta\.json says"):
        compute()


def test_a_source_that_is_not_what_was_pinned_is_named(compute: Callable[..., Lineage]) -> None:
    pin = read_json(Layout.source, written_by="")
    pin["files"]["transformer/config.json"] = "0" * 64
    write_json(Layout.source, pin)
    with pytest.raises(LineageError, match=r"transformer/config\.json: has sha256 .* pins 000000000000"):
        compute()


def test_a_model_of_another_source_is_refused(compute: Callable[..., Lineage]) -> None:
    card = read_delta_card(Layout.pixel)
    card["source"]["digest"] = "0" * 64
    write_json(Layout.pixel / "delta.json", card)
    with pytest.raises(LineageError, match="converted from source 000000000000"):
        compute()


@pytest.mark.parametrize(
    ("file", "stage"), [(Layout.prompts_table, "prompts"), (Layout.dpg / "pixel/scores.json", "dpg")]
)
def test_a_missing_input_names_the_stage_that_writes_it(
    compute: Callable[..., Lineage], file: Path, stage: str
) -> None:
    file.unlink()
    with pytest.raises(LineageError, match=f"{file}: missing, .*dvc repro {stage}"):
        compute()


def test_a_project_without_a_source_says_so(compute: Callable[..., Lineage], params: Params, tmp_path: Path) -> None:
    Layout.source.unlink()
    with pytest.raises(MissingFileError, match="l2p source"):
        compute_lineage(params, source_folder=tmp_path, context={})


def test_a_parameter_of_the_model_is_an_input_and_one_of_the_registry_is_not(
    compute: Callable[..., Lineage], change_params: Callable[..., Params]
) -> None:
    before = compute()
    assert compute(change_params("register", min_dpg_retention=0.5)).root == before.root
    with pytest.raises(LineageError, match="lineage: params > train is"):
        verify(before, compute(change_params("train", seed=99)))


def test_a_changed_record_is_noticed(compute: Callable[..., Lineage]) -> None:
    record = compute().to_json()
    record["inputs"]["manifest"] = "0" * 64
    with pytest.raises(LineageError, match="The record in the registry was changed"):
        Lineage.from_json(record)


def test_differences_are_found_in_the_order_of_the_pipeline() -> None:
    recorded = {"source": {"digest": "a"}, "prompts": "p", "pixel": {"x": "1"}}
    assert first_difference(recorded, recorded) is None
    assert (
        first_difference(recorded, recorded | {"pixel": {"x": "2"}, "prompts": "q"}) == "prompts is q, registered was p"
    )
    assert first_difference(recorded, recorded | {"pixel": {}}) == "pixel > x is absent, registered was 1"
    assert first_difference(recorded, recorded | {"more": "m"}) == "more is m, registered was absent"
