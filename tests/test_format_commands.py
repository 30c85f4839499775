"""`l2p export` and `l2p import`: from a folder or the registry to a file, and back to a model that draws."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import Layout
from l2p.errors import ConfigError, L2PError, MissingFileError, ModelError
from l2p.models.delta import load_pixel_model, read_delta_card, save_delta
from l2p.models.graft import graft
from l2p.models.source import pin_source
from tests import test_cli


@pytest.fixture(scope="module")
def official_model(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delta that the official layout can express."""
    folder = tmp_path_factory.mktemp("delta") / "pixel"
    pin = pin_source(str(tiny_source))
    model = graft(pin, seed=0, patch_size=16, head_widths=(4, 8, 8, 16), prediction="velocity")
    sampler = {"num_steps": 2, "guidance_scale": 1.0, "shift": 3.0}
    save_delta(model, folder, pin=pin, names=model.new_tensors(), sampler=sampler)
    return folder


@pytest.fixture
def project(workspace: Path, official_model: Path) -> Path:
    """A project folder, already the working directory, with that model as its own."""
    shutil.copytree(official_model, workspace / Layout.pixel)
    return workspace


def l2p(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.parametrize("layout", ["official", "comfyui"])
def test_a_model_goes_out_as_one_file_and_comes_back_the_same(project: Path, layout: str) -> None:
    exported = l2p("export", "--format", layout, "--out", "out/model.safetensors").stdout
    assert exported.splitlines()[-1] == "out/model.safetensors"
    assert (project / "out" / "config.json").is_file()
    imported = l2p("import", "out/model.safetensors").stdout
    assert "Of our 112 tensors 30 are new, 0 changed, and 82 equal the source's" in " ".join(imported.split())
    assert imported.splitlines()[-1] == "models/imported"
    assert read_delta_card(Path("models/imported")) == read_delta_card(Layout.pixel)
    state = load_pixel_model(Path("models/imported")).state_dict()
    assert all(tensor.equal(state[name]) for name, tensor in load_pixel_model(Layout.pixel).state_dict().items())


def test_the_report_counts_tensors_parameters_and_bytes_of_each_group(project: Path) -> None:
    table = [line.split() for line in l2p("export", "--format", "official", "--dry-run").stdout.splitlines()]
    rows = {row[0]: row[1:] for row in table if row}
    assert rows["keys"] == ["dtype", "tensors", "parameters", "bytes"]
    assert rows["all_x_embedder"] == ["F32", "2", "49,216", "196,864"]
    assert rows["local_decoder"][:2] == ["F32", "28"]
    assert rows["all"] == ["112", "704,987", "2,819,948"]


def test_a_dry_run_writes_nothing(project: Path) -> None:
    before = sorted(project.rglob("*"))
    for layout in ("official", "comfyui", "diffusers"):
        l2p("export", "--format", layout, "--out", "out.safetensors", "--dry-run")
    assert sorted(project.rglob("*")) == before


def test_a_dtype_is_exported(project: Path) -> None:
    l2p("export", "--format", "official", "--dtype", "bfloat16", "--out", "out/model.safetensors")
    assert {str(tensor.dtype) for tensor in load_file("out/model.safetensors").values()} == {"torch.bfloat16"}


def test_a_pipeline_folder_is_exported(project: Path) -> None:
    l2p("export", "--format", "diffusers", "--out", "out/pipeline")
    assert {path.name for path in Path("out/pipeline").iterdir()} == {
        "model_index.json",
        "scheduler",
        "text_encoder",
        "tokenizer",
        "transformer",
    }


def test_a_registered_model_is_exported_by_its_name(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(reference: str, *, tracking_uri: str) -> Path:
        asked.update(reference=reference, tracking_uri=tracking_uri)
        return Layout.pixel

    monkeypatch.setattr("l2p.registry.loading.fetch_verified", fetch)
    l2p("export", "shapes-pixel@champion", "--format", "official", "--out", "out/model.safetensors")
    assert asked["reference"] == "shapes-pixel@champion"
    assert asked["tracking_uri"].startswith("sqlite")
    assert Path("out/model.safetensors").is_file()


def test_a_file_is_imported_on_the_pinned_source_else_on_that_of_params_or_the_one_given(
    project: Path, tiny_source: Path
) -> None:
    l2p("export", "--format", "official", "--out", "out/model.safetensors")
    copy = str(shutil.copytree(tiny_source, project / "copy"))
    pin_source(copy).save(Layout.source)
    l2p("import", "out/model.safetensors", "--out", "models/pinned")
    Layout.source.unlink()
    l2p("import", "out/model.safetensors", "--out", "models/params")
    l2p("import", "out/model.safetensors", "--out", "models/given", "--source", copy)
    paths = {name: read_delta_card(Path("models") / name)["source"]["path"] for name in ("pinned", "params", "given")}
    assert paths == {"pinned": copy, "params": str(tiny_source), "given": copy}


def test_without_a_project_the_source_must_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--source: missing, and there is no models/source\.json or params\.yaml"):
        l2p("import", "x.safetensors")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["export", "--format", "official"], ConfigError, "--out: missing"),
        (["export", "--format", "comfyui", "--out", "x.ckpt"], ConfigError, r"--out x\.ckpt: expected .*\.safetensors"),
        (
            ["export", "none", "--format", "official", "--out", "x.safetensors"],
            MissingFileError,
            "none: no such folder",
        ),
        (["export", "--format", "diffusers", "--out", "models"], ModelError, "models: exists"),
        (["import", "x.safetensors"], MissingFileError, r"x\.safetensors: no such file"),
        (["import", "x.safetensors", "--revision", "main"], ConfigError, "--revision: give --source with it"),
        (["import", "models/pixel/delta.safetensors"], ModelError, "weights in our own layout"),
    ],
)
def test_a_users_mistake_is_an_error_of_ours(
    project: Path, arguments: list[str], error: type[L2PError], message: str
) -> None:
    with pytest.raises(error, match=message):
        l2p(*arguments)


def test_a_model_that_a_layout_cannot_express_is_one_line_and_exit_code_2(workspace: Path, tiny_delta: Path) -> None:
    done = test_cli.l2p("export", str(tiny_delta), "--format", "official", "--out", "x.safetensors", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: prediction = 'x0': the official and ComfyUI layouts know 'velocity' only.")
    assert not Path("x.safetensors").exists()
