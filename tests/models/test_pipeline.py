"""The pipeline is called as diffusers' own are: prompts, guidance, generators, callbacks, forms of its output."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image
from torch import Tensor

from l2p.errors import ModelError, SourceError
from l2p.models.adapters.base import Guidance
from l2p.models.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.models.pipeline_guidance import guided_velocity
from tests.models.pipeline_parts import differ, lively_delta, seeds

PROMPTS = ["a photo of a red circle", "a photo of a star left of a square on a pink background"]
SIZE = {"height": 32, "width": 48}


@pytest.fixture(scope="module")
def delta(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_delta(tiny_source, tmp_path_factory.mktemp("delta"))


@pytest.fixture(scope="module")
def pipeline(delta: Path) -> L2PPipeline:
    return load_pixel_pipeline(delta)


def draw(pipeline: L2PPipeline, *arguments: Any, **settings: Any) -> Any:
    """Raw pixels of a small drawing, in two guided steps."""
    usual = {**SIZE, "num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "latent"}
    return pipeline(*arguments, **(usual | settings)).images


# prompts and batches


def test_images_of_one_prompt_lie_together(pipeline: L2PPipeline) -> None:
    both = draw(pipeline, PROMPTS, num_images_per_prompt=2, generator=seeds(1, 2, 3, 4))
    assert both.shape == (4, 3, 32, 48)
    for prompt, rows, own in ((PROMPTS[0], slice(0, 2), (1, 2)), (PROMPTS[1], slice(2, 4), (3, 4))):
        alone = draw(pipeline, prompt, num_images_per_prompt=2, generator=seeds(*own))
        torch.testing.assert_close(both[rows], alone, atol=2e-4, rtol=1e-4)
    assert differ(both[0], both[2])


def test_an_image_with_its_own_generator_does_not_depend_on_its_batch(pipeline: L2PPipeline) -> None:
    both = draw(pipeline, PROMPTS, generator=seeds(5, 6))
    second = draw(pipeline, PROMPTS[1], generator=seeds(6))
    torch.testing.assert_close(both[1:], second, atol=2e-4, rtol=1e-4)
    assert torch.equal(second, draw(pipeline, PROMPTS[1], generator=seeds(6)[0]))
    assert differ(second, draw(pipeline, PROMPTS[1], generator=seeds(7)))


def test_the_prompt_and_the_negative_prompt_change_the_image(pipeline: L2PPipeline) -> None:
    images = [
        draw(pipeline, PROMPTS[0], generator=seeds(1)),
        draw(pipeline, PROMPTS[1], generator=seeds(1)),
        draw(pipeline, PROMPTS[0], PROMPTS[1], generator=seeds(1)),
    ]
    assert differ(images[0], images[1])
    assert differ(images[0], images[2])


def test_each_prompt_may_have_its_own_negative_prompt(pipeline: L2PPipeline) -> None:
    both = draw(pipeline, [PROMPTS[0]] * 2, [PROMPTS[1], ""], generator=seeds(1, 1))
    for image, negative in zip(both, (PROMPTS[1], ""), strict=True):
        alone = draw(pipeline, PROMPTS[0], negative, generator=seeds(1))
        torch.testing.assert_close(image[None], alone, atol=2e-4, rtol=1e-4)
    assert differ(both[0], both[1])


def test_ready_embeddings_draw_what_prompts_draw(pipeline: L2PPipeline) -> None:
    settings: dict[str, Any] = {"embeddings": pipeline.encode_prompts(PROMPTS), "generator": seeds(1, 2)}
    text = draw(pipeline, PROMPTS, generator=seeds(1, 2))
    assert torch.equal(text, draw(pipeline, **settings))
    settings["generator"] = seeds(1, 2)
    assert torch.equal(text, draw(pipeline, negative_embeddings=pipeline.encode_prompts([""]), **settings))


def test_the_starting_noise_may_be_given(pipeline: L2PPipeline) -> None:
    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(9))
    assert torch.equal(draw(pipeline, PROMPTS[0], latents=noise), draw(pipeline, PROMPTS[0], generator=seeds(9)))


def test_a_pipeline_without_text_parts_draws_from_embeddings_and_says_so(pipeline: L2PPipeline) -> None:
    bare = L2PPipeline(pipeline.transformer, pipeline.scheduler)
    bare.set_progress_bar_config(disable=True)
    embeddings, empty = pipeline.encode_prompts(PROMPTS), pipeline.encode_prompts([""])
    drawn = draw(bare, embeddings=embeddings, negative_embeddings=empty, generator=seeds(1, 2))
    assert torch.equal(drawn, draw(pipeline, PROMPTS, generator=seeds(1, 2)))
    with pytest.raises(ModelError, match="no text encoder"):
        draw(bare, PROMPTS[0])
    with pytest.raises(ModelError, match="negative_embeddings"):
        draw(bare, embeddings=embeddings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one or more prompts"),
        ({"prompt": []}, "one or more prompts"),
        ({"prompt": "a", "embeddings": [{}]}, "one or more prompts"),
        ({"prompt": "a", "num_images_per_prompt": 0}, "num_images_per_prompt = 0"),
        ({"prompt": ["a", "b"], "negative_prompt": ["c", "d", "e"]}, "3 negative prompts for 2 prompts"),
        ({"prompt": "a", "negative_prompt": "b", "negative_embeddings": [{}]}, "negative_embeddings"),
        ({"prompt": "a", "negative_prompt": "b", "guidance_scale": 0.0}, "guidance_scale = 0 is no guidance"),
        ({"prompt": "a", "guidance_scale": math.nan}, "guidance_scale = nan: expected a finite number"),
        ({"prompt": "a", "guidance_scale": math.inf}, "guidance_scale = inf: expected a finite number"),
        ({"prompt": "a", "generator": seeds(1, 2)}, "2 given for 1 images"),
        ({"prompt": "a", "latents": torch.zeros(1, 3, 32, 32)}, r"\[1, 3, 32, 32\] given, expected \[1, 3, 32, 48\]"),
        ({"prompt": "a", "output_type": "jpg"}, "output_type = 'jpg'"),
        ({"prompt": "a", "height": None}, "height and width are not given"),
        ({"prompt": "a", "height": 40}, "48x40 pixels.*nearest: 48x32, 48x48"),
    ],
)
def test_what_does_not_fit_is_refused(pipeline: L2PPipeline, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        draw(pipeline, **settings)


# output


def test_the_forms_of_the_output_show_one_image(pipeline: L2PPipeline) -> None:
    forms = {
        kind: pipeline(PROMPTS[0], **SIZE, num_inference_steps=2, generator=seeds(1), output_type=kind).images
        for kind in ("latent", "pt", "np", "pil")
    }
    raw, unit = forms["latent"], forms["pt"]
    assert raw.shape == unit.shape == (1, 3, 32, 48)
    torch.testing.assert_close(unit, (raw / 2 + 0.5).clamp(0, 1))
    assert forms["np"].shape == (1, 32, 48, 3)
    np.testing.assert_array_equal(forms["np"], unit.permute(0, 2, 3, 1).numpy())
    assert isinstance(forms["pil"][0], Image.Image)
    np.testing.assert_array_equal(np.asarray(forms["pil"][0]), (forms["np"][0] * 255).round().astype(np.uint8))


def test_a_tuple_is_returned_on_request(pipeline: L2PPipeline) -> None:
    settings: dict[str, Any] = {**SIZE, "num_inference_steps": 1, "output_type": "pt"}
    (images,) = pipeline(PROMPTS[0], return_dict=False, generator=seeds(1), **settings)
    assert torch.equal(images, pipeline(PROMPTS[0], generator=seeds(1), **settings).images)


# guidance


def recorded(pipeline: L2PPipeline, patch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The arguments of every call of the model from here on."""
    calls: list[tuple[Any, ...]] = []
    forward = pipeline.transformer.forward

    def listen(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return forward(*arguments)

    patch.setattr(pipeline.transformer, "forward", listen)
    return calls


def test_guidance_is_one_doubled_batch_and_none_is_none(pipeline: L2PPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(pipeline, monkeypatch)
    draw(pipeline, PROMPTS, guidance_scale=2.0)
    assert [len(call[0]) for call in calls] == [4, 4]
    assert pipeline.do_classifier_free_guidance
    calls.clear()
    draw(pipeline, PROMPTS, guidance_scale=0.0)
    assert [len(call[0]) for call in calls] == [2, 2]
    assert not pipeline.do_classifier_free_guidance
    assert all(call[3] is None for call in calls)


def test_real_guidance_beside_guidance_that_is_real_is_refused(pipeline: L2PPipeline) -> None:
    with pytest.raises(SourceError, match=r"true_cfg_scale = 2\.0: ZImageTransformer2DModel is not guidance-distilled"):
        draw(pipeline, PROMPTS[0], true_cfg_scale=2.0)


def test_guidance_follows_its_formula(pipeline: L2PPipeline) -> None:
    """One Euler step from noise is linear in the velocity: x0 = noise - v."""
    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    one: dict[str, Any] = {"latents": noise, "num_inference_steps": 1}
    with_text = noise - draw(pipeline, PROMPTS[0], guidance_scale=0.0, **one)
    without = noise - draw(pipeline, PROMPTS[1], guidance_scale=0.0, **one)
    assert differ(with_text, without)
    guided = noise - draw(pipeline, PROMPTS[0], PROMPTS[1], guidance_scale=3.0, **one)
    torch.testing.assert_close(guided, with_text + 3 * (with_text - without), atol=1e-3, rtol=1e-3)


def test_rescaled_guidance_keeps_the_norm_of_every_patch() -> None:
    with_text, without = torch.randn(2, 2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    plain = guided_velocity(with_text, without, Guidance(2.0), patch_size=4)
    v = guided_velocity(with_text, without, Guidance(2.0, rescale=True), patch_size=4)
    for row, column in ((0, 0), (1, 2)):
        patch = (slice(None), slice(None), slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        ratio = v[patch] / plain[patch]
        torch.testing.assert_close(ratio, ratio[:, :1, :1, :1].expand_as(ratio))
        torch.testing.assert_close(v[patch].flatten(1).norm(dim=1), with_text[patch].flatten(1).norm(dim=1))


def test_a_patch_without_velocity_stays_without() -> None:
    zero = torch.zeros(1, 3, 4, 4)
    assert torch.equal(guided_velocity(zero, zero, Guidance(2.0, rescale=True), patch_size=4), zero)


def test_steps_and_guidance_of_the_pipeline_are_used_when_a_call_gives_none(pipeline: L2PPipeline) -> None:
    own = L2PPipeline(**pipeline.components, num_inference_steps=3, guidance_scale=2.0)
    own.set_progress_bar_config(disable=True)
    drawn = own(PROMPTS[0], **SIZE, generator=seeds(1), output_type="latent").images
    assert (own.num_timesteps, own.guidance_scale) == (3, 2.0)
    assert torch.equal(drawn, draw(pipeline, PROMPTS[0], generator=seeds(1), num_inference_steps=3, guidance_scale=2.0))
    unsaid = L2PPipeline(**pipeline.components)
    unsaid.set_progress_bar_config(disable=True)
    unsaid(PROMPTS[0], **SIZE, num_inference_steps=1)
    assert (unsaid.guidance_scale, unsaid.do_classifier_free_guidance) == (0.0, False)


def test_a_deltas_sampler_becomes_the_defaults_of_its_pipeline(pipeline: L2PPipeline) -> None:
    assert (pipeline.config.num_inference_steps, pipeline.config.guidance_scale) == (2, 0.0)
    assert pipeline.scheduler.config.shift == 3.0


# callbacks


def test_a_callback_sees_the_tensors_it_asks_for(pipeline: L2PPipeline) -> None:
    seen: list[tuple[int, float, dict[str, Tensor]]] = []

    def look(_pipeline: Any, index: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((index, float(timestep), dict(tensors)))
        return tensors

    noise = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    wanted = ["latents", "x0", "velocity"]
    image = draw(
        pipeline,
        PROMPTS[0],
        latents=noise,
        num_inference_steps=3,
        callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=wanted,
    )
    sigmas, before = pipeline.scheduler.sigmas, noise
    assert [step[0] for step in seen] == [0, 1, 2]
    assert [step[1] for step in seen] == pytest.approx([float(1000 * sigma) for sigma in sigmas[:-1]])
    for index, _, tensors in seen:
        assert list(tensors) == wanted
        torch.testing.assert_close(tensors["x0"], before - sigmas[index] * tensors["velocity"])
        expected = before + (sigmas[index + 1] - sigmas[index]) * tensors["velocity"]
        torch.testing.assert_close(tensors["latents"], expected)
        before = tensors["latents"]
    assert torch.equal(image, seen[-1][2]["latents"])
    torch.testing.assert_close(image, seen[-1][2]["x0"], atol=1e-5, rtol=1e-5)


def test_what_a_callback_returns_as_latents_is_honoured(pipeline: L2PPipeline) -> None:
    def blank_at(step: int) -> Callable[..., dict[str, Tensor]]:
        def blank(_pipeline: Any, index: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"latents": torch.zeros_like(tensors["latents"])} if index == step else {}

        return blank

    untouched = draw(pipeline, PROMPTS[0], generator=seeds(1))
    last = draw(pipeline, PROMPTS[0], generator=seeds(1), callback_on_step_end=blank_at(1))
    first = draw(pipeline, PROMPTS[0], generator=seeds(1), callback_on_step_end=blank_at(0))
    assert torch.equal(last, torch.zeros_like(last))
    assert differ(first, untouched)
    other = draw(pipeline, PROMPTS[0], generator=seeds(2), callback_on_step_end=blank_at(0))
    assert torch.equal(first, other), "after blank pixels nothing is left of the noise"


def test_a_callback_that_asks_for_nothing_gets_the_latents(pipeline: L2PPipeline) -> None:
    names: list[list[str]] = []

    def look(_pipeline: Any, _index: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        names.append(list(tensors))

    draw(pipeline, PROMPTS[0], callback_on_step_end=look)
    assert names == [["latents"]] * 2


def test_a_callback_that_returns_nothing_changes_nothing(pipeline: L2PPipeline) -> None:
    silent = draw(pipeline, PROMPTS[0], generator=seeds(1), callback_on_step_end=lambda *_: None)
    assert torch.equal(silent, draw(pipeline, PROMPTS[0], generator=seeds(1)))


def test_a_callback_of_diffusers_names_its_tensors_itself(pipeline: L2PPipeline) -> None:
    class Halve(PipelineCallback):
        tensor_inputs = ["x0", "latents"]

        def callback_fn(
            self, _pipeline: Any, _index: int, _timestep: Tensor, tensors: dict[str, Any]
        ) -> dict[str, Any]:
            return {"latents": tensors["x0"] / 2}

    halved = draw(pipeline, PROMPTS[0], generator=seeds(1), num_inference_steps=1, callback_on_step_end=Halve())
    whole = draw(pipeline, PROMPTS[0], generator=seeds(1), num_inference_steps=1)
    torch.testing.assert_close(halved, whole / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "no tensor 'prompt_embeds'.*latents, x0, velocity"),
        ({"callback_on_step_end": lambda *_: {"pixels": 0}}, "returned: no tensor 'pixels'"),
        ({"callback_on_step_end": lambda *_: {"latents": torch.zeros(3)}}, r"latents of shape \[3\]"),
    ],
)
def test_unknown_tensors_of_a_callback_are_refused(
    pipeline: L2PPipeline, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        draw(pipeline, PROMPTS[0], **settings)


def test_a_callback_can_stop_the_drawing(pipeline: L2PPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(running: Any, *_: Any) -> dict[str, Any]:
        running._interrupt = True
        return {}

    calls = recorded(pipeline, monkeypatch)
    draw(pipeline, PROMPTS[0], num_inference_steps=4, callback_on_step_end=stop)
    assert (len(calls), pipeline.num_timesteps, pipeline.interrupt) == (1, 4, True)
    calls.clear()
    draw(pipeline, PROMPTS[0], num_inference_steps=4)
    assert len(calls) == 4, "the next drawing is not stopped"


def test_progress_is_shown_unless_it_is_switched_off(
    pipeline: L2PPipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loud = L2PPipeline(**pipeline.components)
    draw(loud, PROMPTS[0], num_inference_steps=3)
    assert "3/3" in capsys.readouterr().err
    draw(pipeline, PROMPTS[0])
    assert capsys.readouterr().err == ""


# parts and precision


def test_a_transformer_that_is_no_pixel_model_is_refused(pipeline: L2PPipeline) -> None:
    with pytest.raises(ModelError, match="a Linear: expected a PixelTransformer"):
        L2PPipeline(torch.nn.Linear(1, 1), pipeline.scheduler)


def test_weights_in_bfloat16_draw_nearly_the_same_image_and_solve_in_float32(
    delta: Path, pipeline: L2PPipeline
) -> None:
    half, noise = load_pixel_pipeline(delta, dtype="bfloat16"), torch.randn(1, 3, 32, 48)
    parts = (half.transformer, half.text_encoder)
    assert {tensor.dtype for part in parts for tensor in part.parameters()} == {torch.bfloat16}
    seen: list[Tensor] = []
    image = draw(half, PROMPTS[0], latents=noise, callback_on_step_end=lambda *given: seen.append(given[3]["latents"]))
    exact = draw(pipeline, PROMPTS[0], latents=noise)
    assert {tensor.dtype for tensor in (*seen, image)} == {torch.float32}
    assert not torch.equal(image, exact)
    assert float((image - exact).abs().mean()) < 0.03


# memory


def test_the_text_encoders_leave_the_device_before_the_model_comes(pipeline: L2PPipeline) -> None:
    assert L2PPipeline.model_cpu_offload_seq == "text_encoder->text_encoder_2->text_encoder_3->transformer"
    for name in L2PPipeline.model_cpu_offload_seq.split("->"):
        assert name in pipeline.components


def test_offloading_draws_the_same_image_and_is_ready_for_the_next(
    delta: Path, pipeline: L2PPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On this machine the accelerator is the CPU itself; hooks are set, moved through and set again all the same."""
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.empty_device_cache", lambda *_: None)
    offloaded, onto = load_pixel_pipeline(delta), []
    offloaded.enable_model_cpu_offload(device="cpu")
    for name in ("text_encoder", "transformer"):
        hook = offloaded.components[name]._hf_hook
        monkeypatch.setattr(hook, "pre_forward", _noting(hook.pre_forward, name, onto))
    before = offloaded._all_hooks
    drawn = draw(offloaded, PROMPTS[0], num_inference_steps=2, generator=seeds(1))
    assert offloaded._all_hooks is not before, "all parts must be back in memory before the next drawing"
    assert onto[0] == "text_encoder"
    assert onto[-2:] == ["transformer", "transformer"]
    assert torch.equal(drawn, draw(pipeline, PROMPTS[0], generator=seeds(1)))
    assert [hook.model for hook in offloaded._all_hooks] == [offloaded.text_encoder, offloaded.transformer]
    assert torch.equal(draw(offloaded, PROMPTS[0], generator=seeds(1)), drawn)


def _noting(method: Callable[..., Any], name: str, noted: list[str]) -> Callable[..., Any]:
    def note(*arguments: Any, **settings: Any) -> Any:
        noted.append(name)
        return method(*arguments, **settings)

    return note
