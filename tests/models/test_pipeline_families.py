"""One pipeline for every family: its text encoders, its meaning of guidance, its solver; saved and loaded."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from l2p.errors import ModelError
from l2p.models.adapters import ADAPTERS
from l2p.models.delta import save_delta
from l2p.models.graft import graft
from l2p.models.pipeline import TEXT_PARTS, L2PPipeline, load_pixel_pipeline
from l2p.models.source import load_source_pipeline, pin_source
from tests.families.tiny import DRAW, FAMILIES, PX_PER_TOKEN, TEXTS, family_folder
from tests.models.conformance import pipeline_of
from tests.models.pipeline_parts import differ, seeds

DISTILLED = ("FluxTransformer2DModel", "Flux2Transformer2DModel")
GUIDED = [family for family in FAMILIES if family not in DISTILLED]
SCALE = {family: call.get("true_cfg_scale", call.get("guidance_scale")) for family, call in DRAW.items()}
STRONG = 5.0  # times the usual scale: untrained models hardly differ with the prompt

each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda name: name.removesuffix("Transformer2DModel"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@cache
def loaded(family: str, base: Path) -> L2PPipeline:
    """Untrained pixel pipeline of a family, with visible tokens."""
    pin = pin_source(str(family_folder(family, base)))
    model = graft(
        pin, seed=0, patch_size=PX_PER_TOKEN[family], head_widths=(4, 4, 8, 8), prediction="x0", linear_readout=True
    )
    sampler = {"num_steps": 2, "guidance_scale": SCALE[family], "shift": None}
    save_delta(model, base / f"{family}-delta", pin=pin, names=model.new_tensors(), sampler=sampler)
    return load_pixel_pipeline(base / f"{family}-delta")


def draw(pipeline: L2PPipeline, *prompts: str, **settings: Any) -> Tensor:
    """One image, two tokens high and three wide."""
    side_px = pipeline.transformer.config.patch_size
    usual = {"height": 2 * side_px, "width": 3 * side_px, "generator": seeds(1)[0], "output_type": "latent"}
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(*prompts, **(usual | settings)).images


@each_family
def test_prompts_are_encoded_as_the_sources_own_pipeline_does(family: str, base: Path) -> None:
    source = load_source_pipeline(pin_source(str(family_folder(family, base))))
    pipeline, adapter = loaded(family, base), ADAPTERS[family]
    for name in TEXT_PARTS:
        assert (getattr(pipeline, name) is None) == (getattr(source, name, None) is None), name
    for own, theirs in zip(pipeline.encode_prompts(list(TEXTS)), adapter.encode(source, list(TEXTS)), strict=True):
        assert own.keys() == theirs.keys()
        for key, tensor in own.items():
            torch.testing.assert_close(tensor, theirs[key])


@each_family
def test_the_sources_own_solver_and_defaults_draw_an_image_of_the_prompt(family: str, base: Path) -> None:
    pipeline = loaded(family, base)
    source = load_source_pipeline(pin_source(str(family_folder(family, base))))
    assert type(pipeline.scheduler) is type(source.scheduler)
    image = draw(pipeline, TEXTS[0])
    assert image.isfinite().all()
    assert (pipeline.num_timesteps, pipeline.guidance_scale) == (2, SCALE[family])
    assert pipeline.do_classifier_free_guidance == (family not in DISTILLED)
    difference = (image - draw(pipeline, TEXTS[1])).abs().mean()
    assert difference > 1e-3, "the prompt must matter"


@each_family
def test_a_batch_is_drawn_as_one_by_one(family: str, base: Path) -> None:
    pipeline = loaded(family, base)
    prompts: Any = list(TEXTS[:2])
    both = draw(pipeline, prompts, generator=seeds(1, 2))
    for image, prompt, generator in zip(both, prompts, seeds(1, 2), strict=True):
        torch.testing.assert_close(image[None], draw(pipeline, prompt, generator=generator), atol=1e-3, rtol=1e-3)


def first_output(source: Any, inputs: dict[str, Any], patch: pytest.MonkeyPatch, **guidance: float) -> Tensor:
    """What the source's own pipeline hands to its solver at pure noise."""
    handed: list[Tensor] = []
    step, side_px = source.scheduler.step, PX_PER_TOKEN[type(source.transformer).__name__]
    size = {"height": 2 * side_px, "width": 3 * side_px, "num_inference_steps": 2, "output_type": "latent"}
    with patch.context() as within:
        within.setattr(
            source.scheduler, "step", lambda out, *rest, **more: handed.append(out) or step(out, *rest, **more)
        )
        source(prompt=None, **inputs, **size, **guidance, generator=seeds(1)[0])
    return handed[0]


@pytest.mark.parametrize(
    "family", ["FluxTransformer2DModel", *GUIDED], ids=lambda name: name.removesuffix("Transformer2DModel")
)
def test_the_sources_own_pipeline_guides_as_its_adapter_says(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source, adapter, w = pipeline_of(family), ADAPTERS[family], STRONG * SCALE[family]
    prompt, away = adapter.encode(source, [TEXTS[0]]), adapter.encode_negative(source, [TEXTS[1]])
    config, distilled = source.transformer.config, family in DISTILLED
    argument = "true_cfg_scale" if distilled else adapter.guidance_argument
    none = {argument: 1.0 if distilled else adapter.no_guidance}
    told = adapter.guidance(3.5, config, true_cfg_scale=w) if distilled else adapter.guidance(w, config)
    with_text = first_output(source, adapter.pipeline_inputs(prompt, away), monkeypatch, **none)
    without = first_output(source, adapter.pipeline_inputs(away, away), monkeypatch, **none)
    guided = first_output(source, adapter.pipeline_inputs(prompt, away), monkeypatch, **{argument: w})
    expected = with_text + told.scale * (with_text - without)
    assert not torch.allclose(expected, with_text, atol=1e-2)
    if adapter.rescales_guidance:
        expected = expected * with_text.norm(dim=-1, keepdim=True) / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(guided, expected, atol=1e-3, rtol=1e-3)


def first_velocity(pipeline: L2PPipeline, *prompts: str, **settings: Any) -> Tensor:
    """Velocity at pure noise, as a callback sees it."""
    seen: list[Tensor] = []

    def look(_pipeline: Any, _index: int, _timestep: Tensor, tensors: dict[str, Tensor]) -> None:
        seen.append(tensors["velocity"])

    listening = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": ["velocity"]}
    draw(pipeline, *prompts, **listening, **settings)
    return seen[0]


@pytest.mark.parametrize("family", GUIDED, ids=lambda name: name.removesuffix("Transformer2DModel"))
def test_the_sources_scale_is_translated_once(family: str, base: Path) -> None:
    pipeline, adapter, scale = loaded(family, base), ADAPTERS[family], STRONG * SCALE[family]
    away = adapter.encode_negative(pipeline._text_pipeline(), [TEXTS[1]])
    with_text = first_velocity(pipeline, TEXTS[0], guidance_scale=adapter.no_guidance)
    assert not pipeline.do_classifier_free_guidance
    without = first_velocity(pipeline, embeddings=away, guidance_scale=adapter.no_guidance)
    guided = first_velocity(pipeline, TEXTS[0], TEXTS[1], guidance_scale=scale)
    assert differ(guided, with_text)
    g = scale if adapter.guidance_form == "g" else scale - 1
    expected = with_text + g * (with_text - without)
    if adapter.rescales_guidance:
        norms = [F.pixel_unshuffle(v.square(), pipeline.transformer.config.patch_size) for v in (with_text, expected)]
        ratio = (norms[0].sum(1, keepdim=True) / norms[1].sum(1, keepdim=True)).sqrt()
        assert float((ratio - 1).abs().max()) > 0.01
        expected = expected * F.interpolate(ratio, scale_factor=float(pipeline.transformer.config.patch_size))
    torch.testing.assert_close(guided, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("family", DISTILLED, ids=lambda name: name.removesuffix("Transformer2DModel"))
def test_a_distilled_source_is_told_its_scale_and_guided_by_true_cfg_only(
    family: str, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline, told = loaded(family, base), []
    forward = pipeline.transformer.forward
    monkeypatch.setattr(
        pipeline.transformer, "forward", lambda *given: (told.append(given[3].tolist()), forward(*given))[1]
    )
    weak, strong = (draw(pipeline, TEXTS[0], guidance_scale=scale) for scale in (1.0, 30.0))
    assert told == [[1.0]] * 2 + [[30.0]] * 2
    assert not torch.equal(weak, strong)
    told.clear()
    draw(pipeline, TEXTS[0], TEXTS[1], guidance_scale=4.0, true_cfg_scale=2.0)
    assert told == [[4.0, 4.0]] * 2
    assert pipeline.do_classifier_free_guidance


@each_family
def test_a_lora_on_the_sources_own_embedder_is_refused_by_name(family: str, base: Path) -> None:
    pytest.importorskip("peft")
    pipeline, adapter = loaded(family, base), ADAPTERS[family]
    name = f"transformer.{adapter.source_embedder or adapter.embedder}.lora_A.weight"
    weight = pipeline.transformer.dit.get_submodule(adapter.embedder).weight
    with pytest.raises(ModelError, match=f"1 of 1 tensors have no place.*{name}"):
        pipeline.load_lora_weights({name: torch.zeros(4, *weight.shape[1:])})


@each_family
def test_a_saved_pipeline_is_loaded_by_diffusers_and_draws_the_same(family: str, base: Path, tmp_path: Path) -> None:
    pipeline = loaded(family, base)
    pipeline.save_pretrained(tmp_path / "whole")
    again = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    assert torch.equal(draw(again, TEXTS[0]), draw(pipeline, TEXTS[0]))
