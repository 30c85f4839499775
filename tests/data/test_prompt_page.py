"""docs/prompts.md: its parameters are valid, its taxonomy is read, its numbers are those of the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from l2p.config import Params
from l2p.data.prompting.quality import RULES, UNUSABLE_ANSWER
from l2p.data.taxonomy.hierarchy import load_taxonomy
from l2p.presets import deep_merge

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_example_is_valid_over_params_yaml(block: str):
    base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    merged = Params.model_validate(deep_merge(base, yaml.safe_load(block)))
    assert merged.prompts.model_dump() != Params.model_validate(base).prompts.model_dump()


def test_the_example_taxonomy_is_read(tmp_path: Path):
    (tmp_path / "sea.json").write_text(blocks("json")[0], encoding="utf-8")
    assert [subject.fine_class for subject in load_taxonomy(str(tmp_path)).by_subclass()[0]] == ["a cod", "a sole"]
    assert json.loads(blocks("json")[0])["main_class"] == "sea"


def test_the_numbers_of_the_taxonomy_are_those_of_the_package():
    groups = load_taxonomy(None).by_subclass()
    assert f"{len(groups)} subclasses and {sum(map(len, groups)):,} fine classes" in PAGE


@pytest.mark.parametrize("reason", [*RULES, UNUSABLE_ANSWER])
def test_every_reason_is_explained(reason: str):
    assert f"`{reason}`" in PAGE
