"""The tiny sources are whole, load back as they were saved, and let the text reach the image."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from tests.families.tiny import (
    DRAW,
    FAMILIES,
    PX_PER_TOKEN,
    TEXTS,
    family_folder,
    tiny_pipeline,
    tiny_transformer,
)

ROWS, COLUMNS = 3, 5
BLOCKS = ("noise_refiner", "layers", "joint_transformer_blocks", "transformer_blocks", "single_transformer_blocks")

each_family = pytest.mark.parametrize("transformer_class", FAMILIES)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@cache
def loaded(transformer_class: str, base: Path) -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(family_folder(transformer_class, base))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline: DiffusionPipeline, prompt: str, *, rows: int = ROWS, columns: int = COLUMNS) -> np.ndarray:
    """One image as the pipeline returns it: [1, H, W, 3] in [0, 1]."""
    transformer_class = type(pipeline.transformer).__name__
    side_px = PX_PER_TOKEN[transformer_class]
    return pipeline(
        prompt=prompt,
        height=rows * side_px,
        width=columns * side_px,
        num_inference_steps=2,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
        **DRAW[transformer_class],
    ).images


@each_family
def test_a_saved_family_draws_what_it_drew_before(transformer_class: str, base: Path) -> None:
    image = draw(loaded(transformer_class, base), TEXTS[0])
    side_px = PX_PER_TOKEN[transformer_class]
    assert image.shape == (1, ROWS * side_px, COLUMNS * side_px, 3)
    assert np.isfinite(image).all()
    np.testing.assert_array_equal(image, draw(tiny_pipeline(transformer_class), TEXTS[0]))


@each_family
def test_every_prompt_draws_another_image(transformer_class: str, base: Path) -> None:
    images = [draw(loaded(transformer_class, base), text) for text in TEXTS]
    differences = [np.abs(images[one] - images[other]).mean() for one, other in ((0, 1), (0, 2), (1, 2))]
    assert min(differences) > 1e-4, differences


@each_family
def test_one_token_is_an_image(transformer_class: str, base: Path) -> None:
    image = draw(loaded(transformer_class, base), TEXTS[0], rows=1, columns=1)
    assert image.shape[1:3] == (PX_PER_TOKEN[transformer_class],) * 2
    assert np.isfinite(image).all()


@each_family
def test_every_tokenizer_splits_the_texts_into_different_counts(transformer_class: str, base: Path) -> None:
    parts = loaded(transformer_class, base).components
    names = [name for name in parts if name.startswith("tokenizer")]
    assert names
    for name in names:
        tokenizer = getattr(parts[name], "tokenizer", parts[name])  # a processor holds one
        counts = [len(tokenizer(text).input_ids) for text in TEXTS]
        assert counts == sorted(set(counts)), (name, counts)


@each_family
def test_a_tiny_transformer_is_always_the_same_and_nowhere_zero(transformer_class: str) -> None:
    one, other = tiny_transformer(transformer_class), tiny_transformer(transformer_class)
    assert not one.training
    assert type(one).__name__ == transformer_class
    for (name, tensor), again in zip(one.named_parameters(), other.parameters(), strict=True):
        assert tensor.any(), name
        assert torch.equal(tensor, again), name


@each_family
def test_a_tiny_transformer_has_four_image_blocks_or_more(transformer_class: str) -> None:
    transformer = tiny_transformer(transformer_class)
    assert sum(len(getattr(transformer, name, ())) for name in BLOCKS) >= 4


@each_family
def test_every_part_is_in_eval_mode(transformer_class: str) -> None:
    parts = tiny_pipeline(transformer_class).components.values()
    assert not [type(part).__name__ for part in parts if isinstance(part, torch.nn.Module) and part.training]


def test_building_leaves_the_random_state_as_it_was() -> None:
    state = torch.random.get_rng_state()
    tiny_pipeline(FAMILIES[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_folder_is_built_once(base: Path) -> None:
    index = family_folder(FAMILIES[0], base) / "model_index.json"
    written_at = index.stat().st_mtime_ns
    family_folder(FAMILIES[0], base)
    assert index.stat().st_mtime_ns == written_at


def test_qwen_image_keeps_the_prompt_when_it_drops_its_template(base: Path) -> None:
    pipeline = loaded("QwenImageTransformer2DModel", base)
    before, after = pipeline.prompt_template_encode.split("{}")
    assert len(pipeline.tokenizer(before).input_ids) == pipeline.prompt_template_encode_start_idx
    kept = len(pipeline.tokenizer(TEXTS[0] + after).input_ids)
    with torch.no_grad():
        embeddings, _ = pipeline.encode_prompt(TEXTS[0])
    assert embeddings.shape[1] == kept
