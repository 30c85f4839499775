"""The fitted start: the linear encoder is white, the readout explains the images, the whole is one ordinary delta."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from l2p.diffusion.path import interpolate
from l2p.errors import ModelError
from l2p.models.adapters import ADAPTERS
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.fitting import Calibration, evenly, fit_encoder, fit_graft
from l2p.models.graft import graft, source_tensors
from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import load_source_pipeline, pin_source
from l2p.shapes.detector import detect
from l2p.shapes.recipe.renders import draw_renders

ROOT = Path(__file__).parents[2]
SHAPE = {"patch_size": 16, "head_widths": (4, 8, 8, 16)}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """300 renders, embedded by the shipped source."""
    renders = draw_renders(300, seed=4)
    pipeline = load_source_pipeline(pin_source(str(ROOT / "sources" / "shapes")))
    return Calibration(renders.images, encode_prompts(pipeline, renders.captions))


def test_latent_tokens_are_what_the_sources_own_patchify_makes(tiny_source: Path) -> None:
    pipeline = load_source_pipeline(pin_source(str(tiny_source)))
    latents = torch.randn(2, 4, 6, 8)
    expected = torch.stack([pipeline.transformer._patchify_image(z.unsqueeze(1), 2, 1)[0] for z in latents])
    tokens = ADAPTERS["ZImageTransformer2DModel"].latent_tokens(latents, pipeline.transformer.config)
    assert torch.equal(tokens, expected)


def test_the_encoder_explains_the_latents_and_maps_white_noise_to_white_noise(calibration: Calibration) -> None:
    pixels = calibration.images.float() / 127.5 - 1
    fit = fit_encoder(pin_source(str(ROOT / "sources" / "shapes")), pixels, patch_size=16, ridge=0.05)
    assert fit.r2 > 0.8
    identity = torch.eye(len(fit.weight), dtype=torch.float64)
    torch.testing.assert_close(fit.weight @ fit.weight.T, fit.noise_gain**2 * identity, atol=1e-6, rtol=1e-6)


def test_a_fitted_model_denoises_before_any_training_and_a_random_one_does_not(calibration: Calibration) -> None:
    pin = pin_source(str(ROOT / "sources" / "shapes"))
    fitted, _ = fit_graft(pin, calibration, ridge=0.05, seed=0, **SHAPE)
    plain = graft(pin, seed=0, prediction="x0", **SHAPE)
    x0 = calibration.images[:16].float() / 127.5 - 1
    sigma = torch.full((16,), 0.8)
    noisy = interpolate(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)), sigma)
    text = fitted.adapter.collate(calibration.embeddings[:16])
    with torch.no_grad():
        errors = [F.mse_loss(model.predict(noisy, sigma, text), x0).item() for model in (fitted, plain)]
    assert errors[0] < 0.3 * x0.var().item() < errors[1]


def test_a_fitted_model_draws_the_right_shapes_untrained_and_survives_saving(
    calibration: Calibration, tmp_path: Path
) -> None:
    from l2p.models.pipeline import L2PPipeline, build_scheduler

    pin = pin_source(str(ROOT / "sources" / "shapes"))
    fitted, _ = fit_graft(pin, calibration, ridge=0.05, seed=0, **SHAPE)
    sampler = {"num_steps": 20, "guidance_scale": 0.0, "shift": 2.0}
    save_delta(fitted, tmp_path, pin=pin, names=fitted.new_tensors(), sampler=sampler)
    text = load_source_pipeline(pin)
    loaded = L2PPipeline(load_pixel_model(tmp_path), build_scheduler(pin, 2.0), text.text_encoder, text.tokenizer)
    empty, *prompts = encode_prompts(loaded, ["", "a photo of a circle", "a photo of a square"])
    images = draw_images(loaded, prompts, empty=empty, size_px=(64, 64), num_steps=20, guidance_scale=0.0, seeds=[1, 2])
    assert [detect(image)[0].shape for image in images] == ["circle", "square"]


def test_a_patch_too_large_to_fit_is_refused_with_the_way_out(tiny_source: Path) -> None:
    with pytest.raises(ModelError, match=r"patch_size_px = 64.*init: random"):
        fit_encoder(pin_source(str(tiny_source)), torch.zeros(1, 3, 64, 64), patch_size=64, ridge=0.1)


def test_calibration_rows_are_spread_evenly_and_never_repeat() -> None:
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(10, 5) == [0, 2, 4, 6, 8]


def test_the_source_embedding_is_found_whatever_its_patch_size(tiny_source: Path) -> None:
    tensors = {name: stored.read() for name, stored in source_tensors(pin_source(str(tiny_source))).items()}
    weight, bias = ADAPTERS["ZImageTransformer2DModel"].source_embedding(tensors)
    assert (weight.shape, bias.shape) == ((64, 16), (64,))
