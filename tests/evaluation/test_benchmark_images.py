"""Benchmark images: seeds, official layouts, resuming, and never reusing what was drawn otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from l2p.config import EvaluationParams, SamplerParams
from l2p.errors import EvaluationError
from l2p.evaluation import drawing as module
from l2p.evaluation.benchmark_data import DpgItem
from l2p.evaluation.drawing import DrawingPlan, Drawn, Painter, PipelinePainter, draw_missing
from l2p.evaluation.images import (
    DrawingCard,
    Grid,
    ImageFile,
    dpg_files,
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


def draw_some(
    files: list[ImageFile], painter: Painter, card: DrawingCard = CARD, batch_size: int = 4, max_failed_share: float = 0
) -> Drawn:
    machine = EvaluationParams(judge_batch_size=4, engine="local", num_workers=1)
    return draw_missing(files, lambda: painter, DrawingPlan(card, batch_size, machine, max_failed_share), "test")


def draw(files: list[ImageFile], painter: Painter, card: DrawingCard = CARD, batch_size: int = 4) -> int:
    return draw_some(files, painter, card, batch_size).count


def pixels(files: list[ImageFile]) -> list[np.ndarray]:
    return [np.asarray(Image.open(file.path)) for file in files]


def layout(folder: Path, count: int = 2) -> list[ImageFile]:
    return geneval_files(folder, dict(enumerate(PROMPTS)), images_per_prompt=count, first_seed=5)


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


def items(names: str) -> list[DpgItem]:
    return [DpgItem(index, name, PROMPTS[index], ()) for index, name in enumerate(names)]


def test_dpg_files_are_one_grid_an_item(tmp_path: Path):
    files = dpg_files(tmp_path, items("xy"), images_per_prompt=4, first_seed=0)
    assert [file.path.name for file in files] == ["x.png", "y.png"]
    assert files[1].seeds == (1000, 1001, 1002, 1003)
    with pytest.raises(EvaluationError, match="at most 4"):
        dpg_files(tmp_path, items("x"), images_per_prompt=5, first_seed=0)


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


def test_an_interrupted_grid_keeps_the_images_it_has(tmp_path: Path, source_painter: PipelinePainter):
    cut, whole = (
        dpg_files(tmp_path / name, items("xyz"), images_per_prompt=4, first_seed=0) for name in ("cut", "whole")
    )
    with pytest.raises(Interrupted):
        draw(cut, interrupted_after(source_painter, 2), batch_size=3)
    assert draw(cut, source_painter, batch_size=3) == 6
    assert draw(whole, source_painter, batch_size=3) == 12
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["x.png", "y.png", "z.png"]
    for a, b in zip(pixels(cut), pixels(whole), strict=True):
        assert a.shape == (128, 128, 3)
        np.testing.assert_array_equal(a, b)


def faulty(painter: Painter, seed: int) -> Painter:
    """Cannot draw one seed, nor any batch with it."""

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        if seed in seeds:
            raise RuntimeError("out of\nmemory")
        return painter(prompts, seeds)

    return paint


def test_an_image_that_cannot_be_drawn_is_counted_and_the_rest_is_drawn(
    tmp_path: Path, source_painter: PipelinePainter
):
    files = layout(tmp_path)
    drawn = draw_some(files, faulty(source_painter, 6), max_failed_share=0.2)
    assert drawn.count == 5
    assert [failure.image for failure in drawn.failures] == [files[1].path.as_posix()]
    assert drawn.failures[0].reason == "not drawn: RuntimeError: out of memory"
    assert [is_drawn(file, CARD) for file in files] == [True, False, True, True, True, True]


def test_too_many_images_that_cannot_be_drawn_stop_the_run(tmp_path: Path, source_painter: PipelinePainter):
    with pytest.raises(EvaluationError, match=r"1 images could not be drawn.*0001\.png: RuntimeError: out of memory"):
        draw_some(layout(tmp_path), faulty(source_painter, 6), max_failed_share=0.1)


def test_a_model_that_puts_out_nan_fails_and_does_not_draw_black(tmp_path: Path, tiny_source: Path):
    def load() -> Any:
        pipeline = load_source_pipeline(pin_source(str(tiny_source)))
        next(pipeline.vae.decoder.parameters()).data.fill_(float("nan"))
        return pipeline

    painter = PipelinePainter(load, SAMPLER, (64, 64))
    drawn = draw_some(layout(tmp_path, 1), painter, max_failed_share=1)
    assert drawn.count == 0
    assert "not finite" in drawn.failures[0].reason


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
    (file,) = geneval_files(tmp_path, {0: PROMPTS[0]}, images_per_prompt=1, first_seed=0)
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
