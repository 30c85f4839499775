from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from flows.forms import NO_PRESET
from flows.parameters import KEPT, plan_params, write_plan
from l2p.errors import ConfigError, MissingFileError
from l2p.presets import list_presets, merged_params
from tests.conftest import ROOT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    return tmp_path


def apply(root: Path, preset: str, overrides: list[str]) -> Path | None:
    return write_plan(root, plan_params(root, preset, overrides))


def test_overrides_change_their_lines_and_no_others(root: Path) -> None:
    before = (root / "params.yaml").read_text().splitlines()
    apply(root, NO_PRESET, ["train.num_steps=200", "source.revision = abc", "convert.head.widths=[8, 16, 32, 64]"])
    after = (root / "params.yaml").read_text().splitlines()
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [
        ("  revision: null", "  revision: abc"),
        ("    widths: [16, 32, 64, 128]", "    widths: [8, 16, 32, 64]"),
        ("  num_steps: 1400", "  num_steps: 200"),
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.learning_rate=1e-4", "  learning_rate: 0.0001"),
        ("train.learning_rate=5e-5", "  learning_rate: 5.0e-05"),
        ("source.revision='123'", "  revision: '123'"),
        ("source.revision='no'", "  revision: 'no'"),
        ("source.path=some/folder", "  path: some/folder"),
    ],
)
def test_everybody_reads_the_value_that_was_meant(root: Path, override: str, line: str) -> None:
    plan = plan_params(root, NO_PRESET, [override])
    write_plan(root, plan)
    text = (root / "params.yaml").read_text()
    assert line in text.splitlines()
    (change,) = plan.changes
    name, _, field = change.field.partition(".")
    assert yaml.safe_load(text)[name][field] == YAML(typ="safe").load(text)[name][field] == change.after


def test_what_was_there_before_is_kept(root: Path) -> None:
    before = (root / "params.yaml").read_text()
    kept = apply(root, NO_PRESET, ["train.seed=7"])
    assert kept is not None
    assert kept.parent == root / KEPT
    assert kept.read_text() == before


def test_the_changes_are_named(root: Path) -> None:
    plan = plan_params(root, NO_PRESET, ["train.deepspeed.zero_optimization.stage=2", "source.revision=null"])
    assert [str(change) for change in plan.changes] == ["train.deepspeed.zero_optimization.stage: 1 -> 2"]


def test_values_that_are_there_already_leave_the_file_alone(root: Path) -> None:
    before = (root / "params.yaml").stat().st_mtime_ns
    assert apply(root, NO_PRESET, ["train.num_steps=1400"]) is None
    assert (root / "params.yaml").stat().st_mtime_ns == before
    assert not (root / KEPT).exists()


@pytest.mark.parametrize("preset", list_presets(ROOT / "presets"))
def test_a_preset_gives_what_the_command_gives_and_overrides_come_after_it(root: Path, preset: str) -> None:
    expected = merged_params(root / "params.yaml", root / f"presets/{preset}.yaml")
    expected["train"]["seed"] = 7
    apply(root, preset, ["train.seed=7"])
    assert yaml.safe_load((root / "params.yaml").read_text()) == expected


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("nope", [], "preset 'nope': not there. Choose one of "),
        (NO_PRESET, ["train.num_stepz=1"], "overrides: unknown key `train.num_stepz`"),
        (NO_PRESET, ["train.num_steps=many"], "overrides: `train.num_steps` = 'many'"),
        (NO_PRESET, ["trian.num_steps=1"], "params.yaml has no section `trian`"),
        (NO_PRESET, ["train.seed.x=1"], "params.yaml has no section `train.seed`"),
        (NO_PRESET, ["train.num_steps"], "expected KEY=VALUE"),
        (NO_PRESET, ["=3"], "expected KEY=VALUE"),
        (NO_PRESET, ["train..seed=3"], "expected KEY=VALUE"),
        (NO_PRESET, ["convert.head.widths=[1, 2"], "the value is not valid YAML"),
    ],
)
def test_a_mistake_is_one_clear_line_and_writes_nothing(
    root: Path, preset: str, overrides: list[str], message: str
) -> None:
    before = (root / "params.yaml").read_text()
    with pytest.raises(ConfigError) as caught:
        plan_params(root, preset, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (root / "params.yaml").read_text() == before


def test_a_folder_without_parameters_says_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"params\.yaml: not found"):
        plan_params(tmp_path, NO_PRESET, ["train.seed=7"])
