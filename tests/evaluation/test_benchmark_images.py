"""Benchmark images: seeds, official layouts, resuming, and never reusing what was drawn otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2p.config import SamplerParams
from l2p.errors import EvaluationError
from l2p.evaluation import images as module
from l2p.evaluation.images import (
    DrawingCard,
    Grid,
    ImageFile,
    Painter,
    PipelinePainter,
    dpg_files,
    draw_missing,
    geneval_files,
    image_seed,
    is_drawn,
    join_tiles,
    remove_leftovers,
    split_tiles,
    write_image,
)
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.source import load_source_pipeline, pin_source

PROMPTS = ["a photo of a circle", "a photo of a star on a pink background", "a photo of three circles"]
SAMPLER = SamplerParams(num_steps=2, guidance_scale=1.0)
CARD = DrawingCard("model", SAMPLER.model_dump(), 64, 64, "float32", "cpu")


@pytest.fixture(scope="module")
def source_painter(tiny_source: Path) -> PipelinePainter:
    return PipelinePainter(lambda: load_source_pipeline(pin_source(str(tiny_source))), SAMPLER, (64, 64))


class Interrupted(Exception):
    """Stands for a kill."""


def interrupted_after(painter: Painter, batches: int) -> Painter:
    done: list[int] = []

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        if len(done) == batches:
            raise Interrupted
        done.append(len(seeds))
        return painter(prompts, seeds)

    return paint


def never(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
    raise AssertionError(f"drew {prompts} again")


def draw(files: list[ImageFile], painter: Painter, card: DrawingCard = CARD, batch_size: int = 4) -> int:
    return draw_missing(files, painter, card, batch_size=batch_size, title="test")


def pixels(files: list[ImageFile]) -> list[np.ndarray]:
    return [np.asarray(Image.open(file.path)) for file in files]


def layout(folder: Path, count: int = 2) -> list[ImageFile]:
    return geneval_files(folder, PROMPTS, images_per_prompt=count, first_seed=5)


def test_every_image_has_the_seed_of_its_prompt_and_number():
    assert image_seed(5, 0, 0) == 5
    assert image_seed(5, 3, 2) == 3007
    seeds = [image_seed(0, prompt, number) for prompt in range(553) for number in range(4)]
    assert len(set(seeds)) == len(seeds)


def test_geneval_files_lie_in_the_official_folders(tmp_path: Path):
    files = layout(tmp_path)
    assert [str(file.path.relative_to(tmp_path)) for file in files[:3]] == [
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/samples/0000.png",
    ]
    assert [file.seeds for file in files[:3]] == [(5,), (6,), (1005,)]


def test_dpg_files_are_one_grid_an_item(tmp_path: Path):
    files = dpg_files(tmp_path, {"x": "a", "y": "b"}, images_per_prompt=4, first_seed=0)
    assert [file.path.name for file in files] == ["x.png", "y.png"]
    assert files[1].seeds == (1000, 1001, 1002, 1003)
    with pytest.raises(EvaluationError, match="at most 4"):
        dpg_files(tmp_path, {"x": "a"}, images_per_prompt=5, first_seed=0)


@pytest.mark.parametrize(("count", "shape"), [(1, (8, 6)), (2, (8, 12)), (3, (16, 12)), (4, (16, 12))])
def test_a_grid_gives_back_its_tiles(count: int, shape: tuple[int, int]):
    tiles = list(np.random.default_rng(0).integers(0, 256, (count, 8, 6, 3), np.uint8))
    joined = join_tiles(tiles)
    assert joined.shape == (*shape, 3)
    for tile, back in zip(tiles, split_tiles(joined, Grid(count, 8, 6)), strict=True):
        np.testing.assert_array_equal(tile, back)


def test_images_do_not_depend_on_their_batch(tmp_path: Path, source_painter: PipelinePainter):
    one_by_one, together = layout(tmp_path / "a"), layout(tmp_path / "b")
    assert draw(one_by_one, source_painter, batch_size=1) == 6
    assert draw(together, source_painter, batch_size=100) == 6
    for a, b in zip(pixels(one_by_one), pixels(together), strict=True):
        assert a.shape == (64, 64, 3)
        assert np.abs(a.astype(int) - b).max() <= 1  # float rounding only
    assert not np.array_equal(*pixels(together)[:2])


def test_the_pixel_pipeline_draws_through_the_same_call(tmp_path: Path, tiny_delta: Path):
    painter = PipelinePainter(lambda: load_pixel_pipeline(tiny_delta), SAMPLER, (64, 64))
    files = layout(tmp_path, 1)
    assert draw(files, painter) == 3
    assert {image.shape for image in pixels(files)} == {(64, 64, 3)}


def test_an_interrupted_drawing_goes_on_where_it_was(tmp_path: Path, source_painter: PipelinePainter):
    cut, whole = layout(tmp_path / "cut"), layout(tmp_path / "whole")
    with pytest.raises(Interrupted):
        draw(cut, interrupted_after(source_painter, 2), batch_size=2)
    assert sum(is_drawn(file, CARD) for file in cut) == 4
    assert draw(cut, source_painter, batch_size=2) == 2
    assert draw(whole, source_painter, batch_size=2) == 6
    for a, b in zip(pixels(cut), pixels(whole), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_grid_is_not_written_and_redrawn_whole(tmp_path: Path, source_painter: PipelinePainter):
    files = dpg_files(tmp_path, dict(zip("xyz", PROMPTS, strict=True)), images_per_prompt=4, first_seed=0)
    with pytest.raises(Interrupted):
        draw(files, interrupted_after(source_painter, 2), batch_size=3)
    assert [file.path.exists() for file in files] == [True, False, False]
    assert draw(files, source_painter, batch_size=3) == 8
    assert {image.shape for image in pixels(files)} == {(128, 128, 3)}


def test_what_is_there_is_not_drawn_again(tmp_path: Path, source_painter: PipelinePainter):
    files = layout(tmp_path, 1)
    draw(files, source_painter)
    assert draw(files, never) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda card: replace(card, model_digest="another model"),
        lambda card: replace(card, sampler={**card.sampler, "num_steps": 3}),
        lambda card: replace(card, dtype="bfloat16"),
    ],
)
def test_a_file_of_another_model_or_sampler_is_never_reused(
    tmp_path: Path, change: Callable[[DrawingCard], DrawingCard], source_painter: PipelinePainter
):
    files = layout(tmp_path, 1)
    draw(files, source_painter)
    assert draw(files, source_painter, card=change(CARD)) == 3
    assert draw(files, source_painter, card=CARD) == 3


def test_another_prompt_or_seed_in_the_same_place_is_drawn_anew(tmp_path: Path, source_painter: PipelinePainter):
    files = layout(tmp_path, 1)
    draw(files, source_painter)
    other_prompt, other_seed = replace(files[0], prompt=PROMPTS[1]), replace(files[1], seeds=(77,))
    assert draw([other_prompt, other_seed, files[2]], source_painter) == 2


@pytest.mark.parametrize("keep_bytes", [0, 40, 1000])
def test_a_damaged_file_is_drawn_anew(tmp_path: Path, keep_bytes: int, source_painter: PipelinePainter):
    files = layout(tmp_path, 1)
    draw(files, source_painter)
    before = files[0].path.read_bytes()
    files[0].path.write_bytes(before[:keep_bytes])
    assert draw(files, source_painter) == 1
    assert is_drawn(files[0], CARD)


def test_a_foreign_image_in_our_place_is_not_taken_for_ours(tmp_path: Path):
    (file,) = geneval_files(tmp_path, PROMPTS[:1], images_per_prompt=1, first_seed=0)
    file.path.parent.mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(file.path)
    assert not is_drawn(file, CARD)


def test_leftovers_of_another_prompt_set_are_removed_but_foreign_files_stay(tmp_path: Path):
    files = layout(tmp_path, 1)
    for file in files:
        write_image(file, np.zeros((64, 64, 3), np.uint8), CARD)
    Image.new("RGB", (64, 64)).save(tmp_path / "00000" / "grid.png")
    (tmp_path / "00001" / "samples" / "0000.png.partial").write_bytes(b"half")
    assert remove_leftovers(tmp_path, files[:2]) == 2
    assert not list(tmp_path.rglob("*.partial"))
    assert [file.path.exists() for file in files] == [True, True, False]
    assert (tmp_path / "00000" / "grid.png").exists()


def test_each_prompt_is_encoded_once(tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch):
    encoded: list[str] = []
    real = module.encode_prompts

    def listen(pipeline: Any, prompts: list[str]) -> Any:
        encoded.extend(prompts)
        return real(pipeline, prompts)

    monkeypatch.setattr(module, "encode_prompts", listen)
    painter = PipelinePainter(lambda: load_source_pipeline(pin_source(str(tiny_source))), SAMPLER, (64, 64))
    draw(layout(tmp_path, 4), painter, batch_size=3)
    assert encoded == ["", *PROMPTS]


def test_a_pipeline_without_an_adapter_gets_the_prompts_themselves(tiny_source: Path, monkeypatch: pytest.MonkeyPatch):
    painters = [
        PipelinePainter(lambda: load_source_pipeline(pin_source(str(tiny_source))), SAMPLER, (64, 64)) for _ in range(2)
    ]
    ready = painters[0](PROMPTS, [1, 2, 3])
    monkeypatch.setattr(module, "ADAPTERS", {})
    plain = painters[1](PROMPTS, [1, 2, 3])
    assert np.abs(ready.astype(int) - plain).max() <= 1
