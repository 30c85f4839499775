"""Drawing over images: how much of them is kept, where, and which forms they may have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler
from PIL import Image
from torch import Tensor

from l2p.errors import DataError
from l2p.models.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.models.pipeline_images import read_known
from tests.models.pipeline_parts import differ, lively_delta

PROMPT = "a photo of a red circle"
HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="module")
def delta(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_delta(tiny_source, tmp_path_factory.mktemp("delta"))


@pytest.fixture(scope="module")
def pipeline(delta: Path) -> L2PPipeline:
    return load_pixel_pipeline(delta)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def mask() -> Image.Image:
    """White, to be redrawn, in the right half."""
    pixels = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    pixels[:, WIDTH // 2 :] = 255
    return Image.fromarray(pixels)


def draw(pipeline: L2PPipeline, **settings: Any) -> Any:
    usual = {"num_inference_steps": 10, "generator": torch.Generator().manual_seed(1), "output_type": "latent"}
    return pipeline(PROMPT, **(usual | settings)).images


def pixels_of(picture: Image.Image) -> Tensor:
    """[1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1


# image to image


def test_full_strength_draws_from_noise(pipeline: L2PPipeline, picture: Image.Image) -> None:
    from_noise = draw(pipeline, height=HEIGHT, width=WIDTH)
    assert torch.equal(draw(pipeline, image=picture, strength=1.0), from_noise)


def test_the_start_is_the_image_at_the_noise_level_of_its_step(pipeline: L2PPipeline, picture: Image.Image) -> None:
    noise = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    seen: dict[str, Tensor] = {}

    def look(running: Any, index: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if index == 0:
            sigma = running.scheduler.sigmas[6]
            seen.update(start=tensors["x0"] + sigma * tensors["velocity"], sigma=sigma)
        return {}

    draw(
        pipeline,
        image=picture,
        strength=0.4,
        latents=noise,
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["x0", "velocity"],
    )
    assert pipeline.num_timesteps == 4
    expected = (1 - seen["sigma"]) * pixels_of(picture) + seen["sigma"] * noise
    torch.testing.assert_close(seen["start"], expected, atol=1e-4, rtol=1e-4)


def test_an_image_without_a_mask_is_redrawn_with_the_usual_strength(
    pipeline: L2PPipeline, picture: Image.Image
) -> None:
    usual = draw(pipeline, image=picture)
    assert pipeline.num_timesteps == 6
    assert torch.equal(usual, draw(pipeline, image=picture, strength=0.6))
    assert differ(usual, draw(pipeline, image=picture, strength=0.3))


def test_all_forms_of_an_image_are_read_as_one(picture: Image.Image) -> None:
    array = np.array(picture, dtype=np.float32) / 255
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [picture, [picture], array, array[None], [array], tensor, tensor[None], [tensor]]
    for form in forms:
        known = read_known(form, None, None)
        assert known is not None
        torch.testing.assert_close(known.pixels, pixels_of(picture))


def test_all_forms_of_a_mask_are_read_as_one(picture: Image.Image, mask: Image.Image) -> None:
    array = np.array(mask, dtype=np.float32) / 255
    tensor = torch.from_numpy(array)
    forms = [mask, mask.convert("RGB"), mask.convert("1"), [mask], array, array[..., None], tensor, tensor[None]]
    for form in [*forms, tensor[None, None], tensor > 0.5]:
        known = read_known(picture, form, None)
        assert known is not None
        assert known.redraw is not None
        assert known.redraw.shape == (1, 1, HEIGHT, WIDTH)
        assert torch.equal(known.redraw[0, 0], tensor > 0.5)


def test_each_prompt_may_have_its_own_image(pipeline: L2PPipeline, picture: Image.Image) -> None:
    other = Image.new("RGB", (WIDTH, HEIGHT), "white")
    noise = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5)).expand(4, -1, -1, -1)
    settings: dict[str, Any] = {"strength": 0.5, "num_inference_steps": 2, "output_type": "latent"}
    both = pipeline([PROMPT] * 2, image=[picture, other], num_images_per_prompt=2, latents=noise, **settings).images
    for rows, image in ((slice(0, 2), picture), (slice(2, 4), other)):
        alone = pipeline(PROMPT, image=image, num_images_per_prompt=2, latents=noise[:2], **settings).images
        torch.testing.assert_close(both[rows], alone, atol=2e-4, rtol=1e-4)
    with pytest.raises(DataError, match="image: 2 given for 3 images"):
        pipeline([PROMPT] * 3, image=[picture, other], **settings)


# inpainting


@pytest.mark.parametrize("solver", ["own", "Heun", "UniPC"])
@pytest.mark.parametrize("strength", [None, 0.5])
def test_what_is_masked_black_stays_bit_for_bit(
    pipeline: L2PPipeline, picture: Image.Image, mask: Image.Image, solver: str, strength: float | None
) -> None:
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    solvers = {"own": pipeline.scheduler, "Heun": FlowMatchHeunDiscreteScheduler()}
    scheduler = solvers.get(solver) or UniPCMultistepScheduler(**flow)
    drawer = L2PPipeline(**{**pipeline.components, "scheduler": scheduler})
    drawer.set_progress_bar_config(disable=True)
    drawn = draw(drawer, image=picture, mask_image=mask, strength=strength, output_type="pil")[0]
    black = np.array(mask) == 0
    np.testing.assert_array_equal(np.array(drawn)[black], np.array(picture)[black])
    assert (np.array(drawn)[~black] != np.array(picture)[~black]).mean() > 0.9


def test_the_kept_part_is_at_the_noise_level_of_every_step(
    pipeline: L2PPipeline, picture: Image.Image, mask: Image.Image
) -> None:
    noise = torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    steps: list[dict[str, Tensor]] = []

    def look(_running: Any, _index: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        steps.append(dict(tensors))
        return {}

    draw(
        pipeline,
        image=picture,
        mask_image=mask,
        latents=noise,
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["latents", "x0"],
    )
    left, whole = slice(0, WIDTH // 2), pixels_of(picture)
    assert len(steps) == 10
    for tensors, sigma in zip(steps, pipeline.scheduler.sigmas[1:], strict=True):
        expected = (1 - sigma) * whole + sigma * noise
        torch.testing.assert_close(tensors["latents"][..., left], expected[..., left])
        torch.testing.assert_close(tensors["x0"][..., left], whole[..., left])
        assert not torch.allclose(tensors["latents"][..., WIDTH // 2 :], expected[..., WIDTH // 2 :])


def test_the_kept_part_is_seen_when_the_rest_is_drawn(
    pipeline: L2PPipeline, picture: Image.Image, mask: Image.Image
) -> None:
    right = slice(WIDTH // 2, None)
    beside_noise = draw(pipeline, image=picture, mask_image=mask)
    beside_white = draw(pipeline, image=Image.new("RGB", (WIDTH, HEIGHT), "white"), mask_image=mask)
    assert differ(beside_noise[..., right], beside_white[..., right])


def test_a_white_mask_keeps_nothing_and_a_black_one_everything(pipeline: L2PPipeline, picture: Image.Image) -> None:
    white, black = (Image.new("L", (WIDTH, HEIGHT), level) for level in (255, 0))
    assert torch.equal(
        draw(pipeline, image=picture, mask_image=white, strength=0.5), draw(pipeline, image=picture, strength=0.5)
    )
    torch.testing.assert_close(draw(pipeline, image=picture, mask_image=black), pixels_of(picture))


# mistakes


def unit(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.5}, "strength is given without an image"),
        ({"mask_image": unit(1, 32, 32)}, "mask_image is given without an image"),
        ({"image": unit(3, 32, 32), "strength": 0.0}, "strength = 0.0"),
        ({"image": unit(3, 32, 32), "strength": 1.5}, "strength = 1.5"),
        ({"image": unit(3, 32, 32), "mask_image": unit(1, 32, 48)}, "mask_image is 48x32 pixels and image is 32x32"),
        ({"image": unit(3, 32, 32), "width": 48, "height": 32}, "image is 32x32 pixels and 48x32 are asked for"),
        ({"image": [unit(3, 32, 32), unit(3, 32, 48)]}, "one is 32x32 pixels, another 48x32"),
        ({"image": unit(4, 32, 32)}, r"image has shape \[4, 32, 32\]: expected 3 channels"),
        ({"image": unit(3, 32, 32), "mask_image": unit(2, 32, 32)}, "expected 1 or 3 channels"),
        ({"image": 2 * unit(3, 32, 32) - 1}, r"expected floats in \[0, 1\]"),
        ({"image": np.zeros((32, 32, 3), dtype=np.uint8)}, r"uint8.*expected floats in \[0, 1\]"),
        ({"image": "picture.png"}, "image is a str: expected a PIL image"),
        ({"image": []}, "image is an empty list"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: L2PPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw(pipeline, **({"height": None, "width": None} | settings))
