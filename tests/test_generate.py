"""`l2p generate`: what it draws is what the pipeline draws, written whole and with what it was drawn from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import l2p
from l2p.cli import app
from l2p.commands import generate
from l2p.commands.generate import model_digest, parse_size
from l2p.errors import ConfigError, L2PError
from l2p.files import sha256_file, sha256_json
from l2p.models.delta import read_delta_card
from l2p.models.pipeline import load_pixel_pipeline
from tests.models.pipeline_parts import lively_delta

ROOT = Path(__file__).parents[1]
PROMPT = "a photo of a red circle"
SMALL = ["--size", "48x32", "--steps", "2"]


@pytest.fixture(scope="module")
def delta(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_delta(tiny_source, tmp_path_factory.mktemp("delta"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: no project is needed to draw."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> list[str]:
    """The lines that a command prints; an error comes through."""
    done = CliRunner().invoke(app, ["generate", PROMPT, *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout.split()


def as_user(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "l2p.cli", "generate", PROMPT, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def facts(path: str | Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return dict(image.info)


def picture(path: Path, *, color: str = "white", size: tuple[int, int] = (48, 32)) -> str:
    Image.new("RGB", size, color).save(path)
    return str(path)


# drawing


def test_the_image_is_that_of_the_pipeline(folder: Path, delta: Path) -> None:
    assert run("--model", str(delta), *SMALL, "--seed", "3", "--guidance", "1.5", "--out", "a/x.png") == ["a/x.png"]
    settings: dict[str, Any] = {"height": 32, "width": 48, "num_inference_steps": 2, "guidance_scale": 1.5}
    expected = load_pixel_pipeline(delta)(PROMPT, generator=torch.Generator().manual_seed(3), **settings).images[0]
    np.testing.assert_array_equal(pixels("a/x.png"), np.asarray(expected))


def test_an_image_does_not_depend_on_how_many_are_drawn(folder: Path, delta: Path) -> None:
    assert run("--model", str(delta), *SMALL, "--count", "3", "--out", "x.png") == ["x-1.png", "x-2.png", "x-3.png"]
    run("--model", str(delta), *SMALL, "--seed", "2", "--out", "third.png")
    np.testing.assert_array_equal(pixels("x-3.png"), pixels("third.png"))
    assert [facts(f"x-{number}.png")["seed"] for number in (1, 2, 3)] == ["0", "1", "2"]
    assert (pixels("x-1.png") != pixels("x-2.png")).any()


def test_a_saved_pipeline_draws_without_its_source(folder: Path, delta: Path) -> None:
    load_pixel_pipeline(delta).save_pretrained("saved")
    run("--model", "saved", *SMALL, "--out", "saved.png")
    run("--model", str(delta), *SMALL, "--out", "delta.png")
    np.testing.assert_array_equal(pixels("saved.png"), pixels("delta.png"))
    assert facts("saved.png")["model_digest"] != facts("delta.png")["model_digest"]


def test_a_name_in_the_registry_is_drawn_from_the_folder_that_it_stands_for(
    workspace: Path, delta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(reference: str, *, tracking_uri: str) -> Path:
        asked.append((reference, tracking_uri))
        return delta

    monkeypatch.setattr("l2p.registry.loading.fetch_verified", fetch)
    run("--model", "shapes-pixel@candidate", "--steps", "1", "--out", "x.png")
    assert asked == [("shapes-pixel@candidate", "sqlite:///mlflow.db")]
    assert pixels("x.png").shape == (64, 64, 3), "the size of the corpus"


def test_the_negative_prompt_leads_away(folder: Path, delta: Path) -> None:
    guided = ["--model", str(delta), *SMALL, "--guidance", "2"]
    run(*guided, "--out", "plain.png")
    run(*guided, "--out", "away.png", "--negative", "a photo of a star on a pink background")
    assert (pixels("plain.png") != pixels("away.png")).mean() > 0.1


def test_a_picture_is_drawn_over_and_kept_where_the_mask_is_black(folder: Path, delta: Path) -> None:
    image, mask = picture(folder / "in.png", color="teal"), Image.new("L", (48, 32))
    mask.paste(255, (24, 0, 48, 32))
    mask.save("mask.png")
    common = ["--model", str(delta), "--steps", "4", "--image", image]
    run(*common, "--strength", "0.5", "--out", "over.png")
    run(*common, "--mask", "mask.png", "--out", "kept.png")
    assert pixels("over.png").shape == (32, 48, 3), "the size of the picture"
    np.testing.assert_array_equal(pixels("kept.png")[:, :24], pixels(image)[:, :24])
    assert (pixels("kept.png")[:, 24:] != pixels(image)[:, 24:]).mean() > 0.5
    written = facts("over.png")
    assert (written["strength"], written["image_sha256"]) == ("0.5", sha256_file(Path(image)))
    assert facts("kept.png")["mask_sha256"] == sha256_file(Path("mask.png"))


def test_a_lora_changes_the_image_and_is_named_by_its_digest(folder: Path, delta: Path) -> None:
    pytest.importorskip("peft")
    generator = torch.Generator().manual_seed(0)
    shapes = {"A": (4, 64), "B": (64, 4)}
    name = "transformer.layers.0.attention.to_v.lora_{}.weight"
    save_file({name.format(k): torch.randn(*v, generator=generator) for k, v in shapes.items()}, "lora.safetensors")
    run("--model", str(delta), *SMALL, "--out", "plain.png")
    run("--model", str(delta), *SMALL, "--out", "lora.png", "--lora", "lora.safetensors")
    assert (pixels("plain.png") != pixels("lora.png")).mean() > 0.1
    assert facts("lora.png")["lora_sha256"] == sha256_file(Path("lora.safetensors"))


def test_every_step_can_be_looked_at(folder: Path, delta: Path) -> None:
    run("--model", str(delta), "--size", "48x32", "--steps", "3", "--out", "x.png", "--save-steps", "steps")
    names = sorted(path.name for path in Path("steps").iterdir())
    assert names == ["x-step-001.png", "x-step-002.png", "x-step-003.png"]
    last = pixels("steps/x-step-003.png").astype(int)
    assert abs(last - pixels("x.png").astype(int)).max() <= 1, "the last guess is the image"
    assert abs(last - pixels("steps/x-step-001.png").astype(int)).max() > 1


# what is written


def test_the_png_says_what_it_was_drawn_from(folder: Path, delta: Path) -> None:
    run("--model", str(delta), *SMALL, "--seed", "3", "--guidance", "1.5", "--negative", "Größe 木", "--out", "x.png")
    card = read_delta_card(delta)
    assert facts("x.png") == {
        "prompt": PROMPT,
        "negative_prompt": "Größe 木",
        "seed": "3",
        "steps": "2",
        "guidance_scale": "1.5",
        "size": "48x32",
        "model_digest": sha256_json([card["source"]["digest"], card["weights_sha256"]]),
        "l2p_version": l2p.__version__,
    }


def test_the_same_request_writes_the_same_bytes(folder: Path, delta: Path) -> None:
    for name in ("x.png", "y.png"):
        run("--model", str(delta), *SMALL, "--seed", "3", "--out", name)
    assert Path("x.png").read_bytes() == Path("y.png").read_bytes()


def test_the_png_names_the_models_own_steps_and_guidance_when_none_are_given(folder: Path, delta: Path) -> None:
    run("--model", str(delta), "--size", "48x32", "--out", "x.png")
    written = facts("x.png")
    assert (written["steps"], written["guidance_scale"]) == ("2", "0.0")


def test_the_digest_of_a_saved_pipeline_covers_all_its_weights(folder: Path) -> None:
    for name in ("transformer/a.safetensors", "text_encoder/b.safetensors"):
        Path(name).parent.mkdir()
        Path(name).write_bytes(b"weights")
    before = model_digest(Path())
    Path("text_encoder/b.safetensors").write_bytes(b"others")
    assert model_digest(Path()) != before


def test_an_interrupted_write_leaves_nothing_under_the_name(
    folder: Path, delta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(image: Image.Image, file: Any, **_: Any) -> None:
        Path(file).write_bytes(b"half an image")
        raise OSError("no space")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        run("--model", str(delta), *SMALL, "--out", "x.png")
    assert not Path("x.png").exists()


# mistakes


@pytest.mark.parametrize("spelling", ["64", "64x", "x64", "64*64", "64x64x3", "-64x64", "64.0x64", "axb", ""])
def test_a_wrong_spelling_of_the_size_is_refused(spelling: str) -> None:
    with pytest.raises(ConfigError, match=rf"--size {spelling.replace('*', '.')}: expected WIDTHxHEIGHT"):
        parse_size(spelling)


def test_the_size_is_width_times_height() -> None:
    assert parse_size("1024x768") == parse_size("1024X768") == (768, 1024)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "50x32"], "50x32 pixels: both sides must be multiples of 16; nearest: 48x32, 64x32"),
        (["--size", "64"], "--size 64: expected WIDTHxHEIGHT"),
        ([], "--size: missing, and there is no params.yaml"),
        (["--size", "48x32", "--image", "none.png"], "--image none.png: no such file"),
        (["--size", "48x32", "--image", "damaged.png"], "--image damaged.png: cannot be read as a picture"),
        (["--size", "48x32", "--image", "cut.png"], "--image cut.png: cannot be read as a picture"),
        (["--size", "64x32", "--image", "in.png"], "image is 48x32 pixels and 64x32 are asked for"),
        (["--image", "in.png", "--mask", "small.png"], "mask_image is 16x16 pixels and image is 48x32"),
        (["--size", "48x32", "--mask", "in.png"], "--mask: changes a given picture. Give --image too"),
        (["--size", "48x32", "--strength", "0.5"], "--strength: changes a given picture. Give --image too"),
        (["--size", "48x32", "--negative", "blue"], "negative_prompt: no effect"),
        (["--size", "48x32", "--lora", "none.safetensors"], "none.safetensors: no such"),
        (["--size", "48x32", "--lora", "damaged.png"], "damaged.png: cannot be read as a LoRA"),
        (["--size", "48x32", "--guidance", "inf"], "guidance_scale = inf: expected a finite number"),
        (["--size", "48x32", "--model", "."], "delta.json: not found"),
    ],
)
def test_a_mistake_is_told_and_nothing_is_written(
    folder: Path, delta: Path, arguments: list[str], message: str
) -> None:
    picture(folder / "in.png")
    picture(folder / "small.png", size=(16, 16))
    Path("damaged.png").write_bytes(b"not a picture")
    Path("cut.png").write_bytes(Path("in.png").read_bytes()[:60])
    with pytest.raises(L2PError) as error:
        run("--model", str(delta), "--out", "x.png", *arguments)
    assert message in str(error.value)
    assert not Path("x.png").exists()


def test_weights_that_put_out_no_numbers_are_told(folder: Path, delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = generate._load

    def damaged(*arguments: Any) -> Any:
        pipeline = load(*arguments)
        pipeline.transformer.readout.linear.weight.data[0, 0] = float("nan")
        return pipeline

    monkeypatch.setattr(generate, "_load", damaged)
    with pytest.raises(L2PError, match="numbers that are not finite"):
        run("--model", str(delta), *SMALL, "--out", "x.png")


def test_a_user_gets_one_line_and_exit_code_2_or_a_path_and_silence(folder: Path, delta: Path) -> None:
    wrong = as_user("--model", str(delta), "--size", "50x32", "--out", "x.png", folder=folder)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert wrong.stderr.startswith("error: image of 50x32 pixels")
    right = as_user("--model", str(delta), *SMALL, "--out", "x.png", folder=folder)
    assert (right.returncode, right.stdout, right.stderr) == (0, "x.png\n", "")


def test_the_corpus_decides_the_size_in_a_project(workspace: Path, delta: Path) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["synthesize"] |= {"height_px": 32, "width_px": 80}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run("--model", str(delta), "--steps", "1", "--out", "x.png")
    assert pixels("x.png").shape == (32, 80, 3)
