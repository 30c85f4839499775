"""The recipe of the embedded source: its fast forward is the real one, it resumes exactly, its product draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import load_source_pipeline, pin_source
from l2p.shapes.captions import training_prompts
from l2p.shapes.detector import background_name, detect
from l2p.shapes.recipe import autoencoder, denoiser
from l2p.shapes.recipe.batched import BatchedForward
from l2p.shapes.recipe.renders import draw_renders
from l2p.shapes.recipe.text import build_text_encoder, build_tokenizer, encode, tokenize

ROOT = Path(__file__).parents[2]


def _small(seed: int) -> tuple:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return denoiser.build(4), denoiser.TextModel(tokenizer, build_text_encoder(len(tokenizer)))


def test_every_word_of_every_caption_is_in_the_vocabulary() -> None:
    import random

    tokenizer = build_tokenizer()
    ids, mask = tokenize(tokenizer, [prompt.text for prompt in training_prompts(500, random.Random(0))])
    assert not (ids == tokenizer.unk_token_id).any()
    assert mask.sum(1).max() < ids.shape[1], "a caption fills the whole window: it may be truncated"


def test_the_batched_forward_equals_the_forward_of_diffusers() -> None:
    model, text = _small(0)
    for parameter in model.parameters():  # the zero-initialised output would hide every error
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.05)
    ids, mask = tokenize(text.tokenizer, ["a photo of a star", "a red circle in the top left, on a gray background"])
    latents, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        features = encode(text.encoder.eval(), ids)
        ragged = [feature[keep] for feature, keep in zip(features, mask, strict=True)]
        expected = model(
            list(latents.unsqueeze(2)), 1 - sigma, ragged, patch_size=2, f_patch_size=1, return_dict=False
        )[0]
        fast = BatchedForward(model, 8, 8)(latents, 1 - sigma, features, mask)
    torch.testing.assert_close(fast, torch.stack(list(expected)).squeeze(2), atol=1e-4, rtol=1e-4)


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(denoiser, "SAVE_EVERY", 2)
    renders = draw_renders(16, seed=0)
    latents = torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def run(folder: Path, stop_at: int | None) -> list[torch.Tensor]:
        model, text = _small(1)
        original = denoiser.checkpoint.save

        def save_then_stop(path: Path, state: dict) -> None:
            original(path, state)
            if state["step"] == stop_at:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(denoiser.checkpoint, "save", save_then_stop)
            denoiser.train(model, text, latents, renders.captions, steps=4, seed=0, folder=folder, compile_model=False)
        return list(model.parameters())

    whole = run(tmp_path / "whole", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", 2)
    for resumed, expected in zip(run(tmp_path / "cut", None), whole, strict=True):
        assert torch.equal(resumed, expected)


def test_a_few_steps_teach_the_autoencoder_something(tmp_path: Path) -> None:
    torch.manual_seed(0)
    renders, vae = draw_renders(32, seed=0), autoencoder.build()

    def error() -> float:
        autoencoder.register_statistics(vae, renders.images)
        decoded = autoencoder.decode(vae, autoencoder.normalise(vae, autoencoder.encode(vae, renders.images)))
        return float(np.abs(decoded.transpose(0, 3, 1, 2).astype(int) - renders.images.numpy()).mean())

    before = error()
    autoencoder.train(vae, renders, steps=12, seed=0, folder=tmp_path)
    assert error() < 0.8 * before


def test_the_embedded_source_loads_with_diffusers_and_draws_what_is_asked() -> None:
    pipeline = load_source_pipeline(pin_source(str(ROOT / "sources" / "shapes")))
    prompts = ["a photo of a circle and a square on a gray background", "a photo of two triangles on a pink background"]
    empty, *embeddings = encode_prompts(pipeline, ["", *prompts])
    images = draw_images(
        pipeline, embeddings, empty=empty, size_px=(64, 64), num_steps=8, guidance_scale=0.0, seeds=[1, 2]
    )
    assert {detection.shape for detection in detect(images[0])} == {"circle", "square"}
    assert [detection.shape for detection in detect(images[1])] == ["triangle"] * 2
    assert [background_name(image) for image in images] == ["gray", "pink"]
