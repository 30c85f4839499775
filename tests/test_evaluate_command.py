"""`l2p evaluate`: any model, ready images in every layout, subsets, resuming, and what is said of wrong input."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from l2p.cli import app
from l2p.errors import ConfigError, EvaluationError, MissingFileError
from l2p.evaluation.images import join_tiles
from l2p.files import read_json
from l2p.shapes.benchmarks import DPG_FILE, dpg_prompts, geneval_prompts, write_dpg, write_geneval
from l2p.shapes.render import render
from l2p.shapes.world import draw_scene

ROOT = Path(__file__).parents[1]
SHAPES = ["--data", "shapes", "--judge", "shapes"]
SMALL = ["--size", "64x64", "--steps", "1", "--images-per-prompt", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory: no project is needed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> str:
    """What `l2p evaluate` prints; an error comes through."""
    done = CliRunner().invoke(app, ["evaluate", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def scores(folder: str) -> dict:
    return read_json(Path(folder) / "scores.json", written_by="l2p evaluate")


def rows(folder: str, name: str = "results.jsonl") -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / name).read_text(encoding="utf-8").splitlines()]


def geneval_folder(folder: Path, *, per_prompt: int = 2) -> Path:
    """Renders of all shapes prompts in the official layout, as another program would have written them."""
    lines = write_geneval(folder.parent / "data").read_text(encoding="utf-8").splitlines()
    rng = random.Random(0)
    for index, (line, prompt) in enumerate(zip(lines, geneval_prompts(), strict=True)):
        samples = folder / f"{index:05d}" / "samples"
        samples.mkdir(parents=True)
        (samples.parent / "metadata.jsonl").write_text(line, encoding="utf-8")
        for number in range(per_prompt):
            Image.fromarray(render(draw_scene(prompt, rng))).save(samples / f"{number:05d}.png")
        Image.new("RGB", (8, 8)).save(samples.parent / "grid.png")
    return folder


def dpg_folder(folder: Path, form: str) -> Path:
    """Renders of all dense prompts as grids or as separate images of two names."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    for index, prompt in enumerate(dpg_prompts()):
        tiles = [render(draw_scene(prompt, rng)) for _ in range(4)]
        name = f"shapes{index:03d}"
        if form == "grid":
            Image.fromarray(join_tiles(tiles)).save(folder / f"{name}.png")
            continue
        for number, tile in enumerate(tiles):
            path = folder / (f"{name}/{number}.png" if form == "folders" else f"{name}_{number}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(tile).save(path)
    return folder


# --- ready images ---------------------------------------------------------------------------------------------------


def test_a_folder_of_another_program_is_scored_by_its_own_metadata(folder: Path):
    images = geneval_folder(folder / "theirs" / "images")
    told = run("geneval", "--images", "theirs/images", "--judge", "shapes")
    assert "222 images, 0 of them drawn now, 0 failed" in told
    out = "evaluations/theirs-images/geneval"
    found = scores(out)
    assert found["overall"] > 0.97
    assert found["card"]["images_per_prompt"] == 2
    assert found["card"]["first_seed"] is None
    assert rows(out)[0]["filename"] == "theirs/images/00000/samples/00000.png"
    run("geneval", "--images", str(images), *SHAPES, "--out", "again")
    assert scores("again")["card"]["prompts_sha256"] == found["card"]["prompts_sha256"]


def test_a_missing_image_is_a_failure_and_not_a_smaller_benchmark(folder: Path):
    images = geneval_folder(folder / "images")
    (images / "00003" / "samples" / "00001.png").unlink()
    (images / "00005" / "samples" / "00000.png").write_bytes(b"no image")
    told = run("geneval", "--images", "images", "--judge", "shapes", "--out", "out")
    assert "222 images, 0 of them drawn now, 2 failed" in told
    assert "failed: images/00003/samples/0001.png" in told
    assert "not readable as an image" in told
    assert scores("out")["card"]["n_failures"] == 2
    with pytest.raises(
        EvaluationError, match=r"2 of 222 images could not be judged, more than max_failed_share = 0.001"
    ):
        run("geneval", "--images", "images", "--judge", "shapes", "--out", "out", "--max-failed-share", "0.001")
    assert not Path("out/scores.json").exists()


@pytest.mark.parametrize("form", ["grid", "folders", "names"])
def test_dense_images_are_read_as_grids_or_separately(folder: Path, form: str):
    dpg_folder(folder / "images", form)
    (folder / "images" / "notes.txt").write_text("not an image", encoding="utf-8")
    Image.new("RGB", (64, 64)).save(folder / "images" / "stray.png")
    told = run("dpg", "--images", "images", *SHAPES, "--out", "out")
    assert "160 images, 0 of them drawn now, 0 failed" in told
    found = scores("out")
    assert found["overall"] > 99
    assert (found["card"]["height_px"], found["card"]["images_per_prompt"]) == (64, 4)
    assert found["card"]["protocol"] == "fixed"
    assert set(rows("out", "answers.jsonl")[0]["categories"].values()) >= {"entity - whole"}


def test_grids_and_separate_images_give_the_same_scores(folder: Path):
    for form in ("grid", "names"):
        dpg_folder(folder / form, form)
        run("dpg", "--images", form, *SHAPES, "--out", f"out-{form}", "--protocol", "official")
    one, other = scores("out-grid"), scores("out-names")
    assert {name: one[name] for name in ("overall", "interval", "categories")} == {
        name: other[name] for name in ("overall", "interval", "categories")
    }
    assert one["card"]["n_dropped"] == 1


def test_a_grid_of_another_size_is_a_failure_that_says_so(folder: Path):
    images = dpg_folder(folder / "images", "grid")
    Image.new("RGB", (100, 128)).save(images / "shapes001.png")
    told = run("dpg", "--images", "images", *SHAPES, "--out", "out", "--max-failed-share", "0.1")
    assert "a grid of 4 images of 64x64 px has 128x128 px" in told


# --- models ---------------------------------------------------------------------------------------------------------


def test_a_pixel_model_and_its_source_are_scored_and_nothing_is_drawn_twice(folder: Path, tiny_source, tiny_delta):
    for model in (tiny_source, tiny_delta):
        told = run("geneval", "--model", str(model), *SHAPES, *SMALL, "--out", "out")
        assert "111 images, 111 of them drawn now" in told
    assert "111 images, 0 of them drawn now" in run(
        "geneval", "--model", str(tiny_delta), *SHAPES, *SMALL, "--out", "out"
    )
    assert scores("out")["card"]["sampler"] == {"num_steps": 1, "guidance_scale": 0.0, "shift": 3.0}


def test_a_subset_is_stratified_said_and_part_of_the_whole(folder: Path, tiny_delta: Path):
    told = run("geneval", "--model", str(tiny_delta), *SHAPES, *SMALL, "--out", "out", "--subset", "0.1")
    assert "a sample of 10% of the prompts" in told
    card = scores("out")["card"]
    assert card["subset"] == 0.1
    assert len(scores("out")["tags"]) == 6
    drawn = {path.relative_to("out").as_posix() for path in Path("out/images").rglob("*.png")}
    assert len(drawn) == card["n_images"] < 15
    assert f"111 images, {111 - len(drawn)} of them drawn now" in run(
        "geneval", "--model", str(tiny_delta), *SHAPES, *SMALL, "--out", "out"
    )
    assert scores("out")["card"]["prompts_sha256"] != card["prompts_sha256"]
    run("geneval", "--model", str(tiny_delta), *SHAPES, *SMALL, "--out", "out", "--subset", "0.1")
    assert len(list(Path("out/images").rglob("*.png"))) == 111


def test_a_diffusers_pipeline_of_no_family_of_ours_is_scored(folder: Path):
    tiny_stable_diffusion(folder / "sd")
    told = run("dpg", "--model", "sd", *SHAPES, "--steps", "1", "--images-per-prompt", "1", "--subset", "0.1")
    assert "DPG-Bench of sd:" in told
    card = scores("evaluations/sd/dpg")["card"]
    assert (card["height_px"], card["sampler"]["guidance_scale"]) == (64, 7.5)


def tiny_stable_diffusion(folder: Path) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=32,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    folder.mkdir()
    vocabulary = [
        "<|startoftext|>",
        "<|endoftext|>",
        *(chr(ord("a") + n) + end for n in range(26) for end in ("", "</w>")),
    ]
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocabulary), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


# --- resuming -------------------------------------------------------------------------------------------------------


def test_a_killed_evaluation_goes_on_and_equals_an_uninterrupted_one_bit_for_bit(folder: Path, tiny_delta: Path):
    asked = ["--model", str(tiny_delta), *SHAPES, *SMALL, "--batch-size", "4", "--subset", "0.5"]
    command = [sys.executable, "-m", "l2p.cli", "evaluate", "geneval", *asked, "--out", "cut"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(Path("cut").rglob("samples/*.png"))) < 8:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = len(list(Path("cut").rglob("samples/*.png")))
    assert not Path("cut/scores.json").exists()
    told = run("geneval", *asked, "--out", "cut")
    assert f"{len(rows('cut')) - there} of them drawn now" in told
    run("geneval", *asked, "--out", "whole")
    for name in ("results.jsonl", "scores.json"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes()
    for path in Path("whole").rglob("*.png"):
        assert path.read_bytes() == (Path("cut") / path.relative_to("whole")).read_bytes()


# --- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (["geneval"], ConfigError, "either --model or --images"),
        (["geneval", "--model", "a", "--images", "b"], ConfigError, "either --model or --images"),
        (["geneval", "--images", "nowhere"], MissingFileError, "nowhere: no such folder"),
        (["geneval", "--images", "empty"], EvaluationError, "not in GenEval's layout"),
        (["dpg", "--images", "empty", *SHAPES], EvaluationError, "no image of an item"),
        (["geneval", "--images", "empty", "--subset", "0"], ConfigError, "`subset` = 0"),
        (["geneval", "--images", "empty", "--protocol", "fixed"], ConfigError, "GenEval has only one"),
        (["geneval", "--images", "empty", "--judge-option", "x"], ConfigError, "expected KEY=VALUE"),
        (["geneval", "--model", "empty", *SHAPES], MissingFileError, "neither delta.json"),
        (["geneval", "--model", "empty", "--data", "nothing.jsonl", *SMALL], MissingFileError, "nothing.jsonl|neither"),
    ],
)
def test_wrong_input_is_told(folder: Path, arguments: list[str], error: type[Exception], said: str):
    (folder / "empty").mkdir()
    with pytest.raises(error, match=said):
        run(*arguments)


def test_an_unknown_judge_option_is_told(folder: Path):
    geneval_folder(folder / "images", per_prompt=1)
    with pytest.raises(ConfigError, match=r"geneval\.judge_options: unknown key `batch`"):
        run("geneval", "--images", "images", "--judge", "shapes", "--judge-option", "batch=3")


def test_a_pixel_model_without_a_size_is_told(folder: Path, tiny_delta: Path):
    with pytest.raises(EvaluationError, match="--size: missing"):
        run("geneval", "--model", str(tiny_delta), *SHAPES)


def test_the_official_file_layout_of_dense_prompts_can_be_given_by_path(folder: Path):
    table = write_dpg(folder / "bench")
    assert table.name == DPG_FILE
    shutil.copytree(dpg_folder(folder / "images", "grid"), folder / "copy")
    run("dpg", "--images", "copy", "--data", str(table), "--judge", "shapes", "--out", "out", "--subset", "0.2")
    assert scores("out")["card"]["n_prompts"] == 8
    assert np.isfinite(scores("out")["interval"]).all()
