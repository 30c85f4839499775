"""Presets: every one is a valid pipeline for its source, and nothing that is not in git is overwritten."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import Params, load_params
from l2p.errors import ConfigError
from l2p.presets import FOLDER, deep_merge, list_presets, merged_params, render

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / FOLDER).glob("*.yaml"))
MIDDLE_SHARE = 1 / 6  # the paper trains 5 of 30 blocks at each end
FEWER_BLOCKS = {"flux2-1k": 5}  # nine would not fit GPUs of 141 GB with activations
GPUS = 8

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed copy of params.yaml and the presets, already the working directory."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / FOLDER, tmp_path / FOLDER)
    for command in (["init"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def overlay(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))


def merged(name: str) -> Params:
    return Params.model_validate(merged_params(ROOT / "params.yaml", ROOT / FOLDER / f"{name}.yaml"))


def leaves(value: Any, prefix: str = "") -> set[str]:
    """Dotted names of all values."""
    if not isinstance(value, dict):
        return {prefix}
    return {name for key, inner in value.items() for name in leaves(inner, f"{prefix}.{key}".lstrip("."))}


def pixel_model(params: Params) -> Any:
    """The preset's pixel model without weights, as `convert` would build it."""
    from l2p.models.adapters import get_adapter
    from l2p.models.embedder import choose_rank
    from l2p.models.families import known_sources
    from l2p.models.families.sizes import empty_pixel_model

    known = next(known for known in known_sources() if known.repository == params.source.path)
    settings = params.convert
    rank = choose_rank(
        3 * settings.patch_size_px**2,
        get_adapter(known.transformer_class).token_dim(known.settings),
        max_parameters=settings.embedder.max_parameters,
        rank=settings.embedder.rank,
    )
    shape = {"head_type": settings.head.type, "head_widths": settings.head.widths, "embedder_rank": rank}
    return empty_pixel_model(known, patch_size=settings.patch_size_px, prediction=settings.prediction, **shape)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_valid_and_its_written_form_says_the_same(name: str, tmp_path: Path) -> None:
    raw = merged_params(ROOT / "params.yaml", ROOT / FOLDER / f"{name}.yaml")
    path = tmp_path / "params.yaml"
    path.write_text(render(raw, preset=name), encoding="utf-8")
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == raw
    assert load_params(path) == Params.model_validate(raw)


@pytest.mark.parametrize("name", NAMES)
def test_the_pixel_model_of_a_preset_can_be_built_trained_and_drawn_with(name: str) -> None:
    params = merged(name)
    model = pixel_model(params)
    model.check_size(params.synthesize.height_px, params.synthesize.width_px)
    for side in params.efficiency.resolutions_px:
        model.check_size(side, side)
    assert model.set_trainable(params.train.trainable)


@pytest.mark.parametrize("name", NAMES)
def test_the_share_of_trained_blocks_is_the_papers(name: str) -> None:
    params = merged(name)
    model, ends = pixel_model(params), params.train.trainable
    blocks = sum(len(model.dit.get_submodule(part)) for part in model.adapter.image_blocks)
    assert ends.first_blocks == ends.last_blocks == FEWER_BLOCKS.get(name, round(blocks * MIDDLE_SHARE))


@pytest.mark.parametrize("name", NAMES)
def test_the_memory_that_a_preset_speaks_of_follows_from_its_sizes(name: str) -> None:
    """Frozen bfloat16, trained weights and gradients float32, and a share of the optimizer's 12 bytes (ZeRO-2)."""
    params = merged(name)
    model = pixel_model(params)
    model.set_trainable(params.train.trainable)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    said = re.search(r"About (\d+) GB a GPU on 8 GPUs", (ROOT / FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert said
    assert int(said[1]) == pytest.approx((2 * frozen + 4 * trained + 16 * trained / GPUS) / 1e9, abs=1)


@pytest.mark.parametrize("name", NAMES)
def test_guidance_of_source_and_corpus_is_one_that_the_source_knows(name: str) -> None:
    params, model = merged(name), pixel_model(merged(name))
    assert params.synthesize.guidance_scale == params.sampling.source.guidance_scale
    assert params.synthesize.num_steps == params.sampling.source.num_steps
    guidance = model.adapter.guidance(params.sampling.pixel.guidance_scale, model.dit.config)
    assert guidance.scale > 0 or guidance.embedded is not None


def test_every_published_family_has_a_preset() -> None:
    from l2p.models.adapters import ADAPTERS

    assert {type(pixel_model(merged(name)).adapter) for name in NAMES} == {type(a) for a in ADAPTERS.values()}


def test_all_presets_state_the_same_fields_so_that_the_last_one_wins() -> None:
    assert {frozenset(leaves(overlay(name))) for name in NAMES} == {frozenset(leaves(overlay(NAMES[0])))}
    base = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for first in NAMES:
        assert deep_merge(deep_merge(base, overlay(first)), overlay(NAMES[0])) == deep_merge(base, overlay(NAMES[0]))


def test_a_preset_begins_with_the_line_that_the_list_shows() -> None:
    listed = list_presets(ROOT / FOLDER)
    assert sorted(listed) == NAMES
    assert all(0 < len(summary) <= 104 for summary in listed.values())


def test_an_overlay_with_a_misspelt_key_is_refused_by_name(project: Path) -> None:
    (project / FOLDER / "wrong.yaml").write_text("# wrong\ntrain:\n  learning_rat: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^presets/wrong\.yaml over params\.yaml: unknown key `train\.learning_rat`"):
        merged_params(Path("params.yaml"), FOLDER / "wrong.yaml")


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["preset", *arguments])


def test_without_a_name_the_presets_are_listed(project: Path) -> None:
    result = run()
    assert [line.split()[0] for line in result.output.splitlines()] == NAMES


def test_a_preset_is_written_over_params_yaml_and_says_what_it_cannot_know(project: Path) -> None:
    result = run("sana-1k")
    assert result.exit_code == 0, result.output
    params = load_params(project / "params.yaml")
    assert params.convert.patch_size_px == 32
    assert "next: source.revision: the commit of Efficient-Large-Model/" in result.output
    assert "next: prompts.txt: one prompt a line, at least 10,000" in result.output


def test_a_local_source_needs_no_revision(project: Path) -> None:
    (project / "weights").mkdir()
    (project / "prompts.txt").write_text("a circle\n", encoding="utf-8")
    result = run("sana-1k", "--source", "weights")
    assert result.output.splitlines()[1:] == ["next: dvc repro train efficiency"]
    source = load_params(project / "params.yaml").source
    assert (source.path, source.revision) == ("weights", None)


def test_a_revision_is_filled_in(project: Path) -> None:
    assert "source.revision" not in run("chroma-1k", "--revision", "0123abc").output
    assert load_params(project / "params.yaml").source.revision == "0123abc"


@pytest.mark.parametrize("tracked", [True, False])
def test_changes_that_git_does_not_hold_are_overwritten_only_by_force(project: Path, tracked: bool) -> None:
    path = project / "params.yaml"
    edited = path.read_text(encoding="utf-8") + "\n# mine\n"
    path.write_text(edited, encoding="utf-8")
    if not tracked:
        shutil.rmtree(project / ".git")
    result = run("sana-1k")
    assert isinstance(result.exception, ConfigError)
    assert "has changes that git does not hold" in str(result.exception)
    assert path.read_text(encoding="utf-8") == edited
    assert run("sana-1k", "--force").exit_code == 0
    assert load_params(path).convert.patch_size_px == 32


def test_writing_the_same_preset_again_needs_no_force(project: Path) -> None:
    assert run("sana-1k").exit_code == run("sana-1k").exit_code == 0


def test_another_file_can_be_written(project: Path) -> None:
    before = (project / "params.yaml").read_text(encoding="utf-8")
    assert run("sana-1k", "--out", "other.yaml").exit_code == 0
    assert load_params(project / "other.yaml").convert.patch_size_px == 32
    assert (project / "params.yaml").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nope"], r"preset 'nope': not there\. Choose one of auraflow-1k"), (["--force"], "needs the name of a preset")],
)
def test_a_mistake_is_told_in_one_line(project: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        raise run(*arguments).exception
