"""Paths from prompts, tables and records do not lead out of the project (archives: tests/data/test_corpus_packs.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from l2p import cli
from l2p.config import Layout, Params
from l2p.data.prompts import read_prompts
from l2p.errors import DataError, LineageError
from l2p.files import require_below
from l2p.registry.lineage import compute_lineage
from l2p.registry.references import Reference
from l2p.stages import convert
from l2p.training.samples import _read_manifest

NAMES = ["../outside.png", "/etc/hostname", "a/../../b.png", "..\\b.png", "", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"table: names .* not below its folder"):
        require_below(["00000/000001.png", name], where="table")


def with_name(table: Path, name: str) -> None:
    rows = pd.read_parquet(table)
    rows.loc[0, "file_name"] = name
    for column, value in (("height_px", 16), ("width_px", 16), ("seed", 0)):
        rows[column] = value
    rows.to_parquet(table, index=False)


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/hostname"])
def test_a_table_that_was_changed_leads_no_stage_out_of_the_project(
    project: Path, params: Params, name: str, tmp_path: Path
) -> None:
    with_name(Layout.corpus_table, name)
    with pytest.raises(DataError, match="not below its folder"):
        compute_lineage(params, source_folder=Path(params.source.path), context={})
    with_name(Layout.manifest, name)
    with pytest.raises(DataError, match="not below its folder"):
        _read_manifest(Layout.manifest)
    with pytest.raises(DataError, match="not below its folder"):
        convert._calibration(params)


@pytest.mark.parametrize("prompt_id", ["../../outside", "/tmp/outside", "a/b", "", ".hidden"])
def test_prompt_ids_that_would_become_paths_are_refused(project: Path, prompt_id: str) -> None:
    table = pd.read_parquet(Layout.prompts_table)
    table.loc[0, "prompt_id"] = prompt_id
    table.to_parquet(Layout.prompts_table, index=False)
    with pytest.raises(DataError, match="is no plain name"):
        read_prompts(Layout.prompts_table)


@pytest.mark.parametrize("path", ["../weights", "/etc/hostname", "models/../../x", "..\\x", ""])
def test_a_reference_to_weights_outside_of_the_project_is_refused(tmp_path: Path, path: str) -> None:
    reference = {"path": path, "sha256": "0" * 64, "md5": "0" * 32, "size_bytes": 1, "workspace": str(tmp_path)}
    (tmp_path / "weights.json").write_text(json.dumps(reference))
    with pytest.raises(LineageError, match="not below a project"):
        Reference.load(tmp_path)


@pytest.mark.parametrize("name", ["../evil@champion", "a/../../b@champion", "x@../../y", "'; drop table--@champion"])
def test_a_reference_to_a_model_is_a_name_and_never_a_path(
    project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for command in (["lineage", name], ["generate", "a dog", "--out", "x.png", "--model", name]):
        with pytest.raises(SystemExit) as caught:
            cli.main(command)
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not Path("x.png").exists()
