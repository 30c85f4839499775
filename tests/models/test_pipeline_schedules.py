"""Schedulers are exchangeable: each asks the model at the right noise level, and what does not fit is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.cogview4 import pipeline_cogview4
from diffusers.pipelines.flux import pipeline_flux
from diffusers.pipelines.flux2 import pipeline_flux2
from torch import Tensor

from l2p.errors import ModelError, SourceError
from l2p.models.adapters import ADAPTERS
from l2p.models.pipeline import L2PPipeline, build_scheduler, load_pixel_pipeline
from l2p.models.pipeline_schedule import make_schedule
from l2p.models.source import SourcePin, pin_source
from tests.families.tiny import DRAW, PX_PER_TOKEN, SHIFTS, TEXTS, tiny_scheduler
from tests.models.conformance import pipeline_of, tiny_pixel_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.schedulers")

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
BY_SIZE = {"base_image_seq_len": 16, "max_image_seq_len": 64, "base_shift": 0.5, "max_shift": 1.15}
SIZE = {"height": 32, "width": 32}
# Families whose pipelines space the noise levels evenly before the shift, as ours does (decision 0005).
SPACED_EVENLY = (
    "ZImageTransformer2DModel",
    "FluxTransformer2DModel",
    "Flux2Transformer2DModel",
    "QwenImageTransformer2DModel",
    "Lumina2Transformer2DModel",
    "SanaTransformer2DModel",
    "ChromaTransformer2DModel",
)
OWN_SHIFTS: dict[str, Callable[[int, int], float]] = {
    "FluxTransformer2DModel": lambda tokens, _: pipeline_flux.calculate_shift(tokens),
    "QwenImageTransformer2DModel": lambda tokens, _: pipeline_flux.calculate_shift(tokens, 256, 8192, 0.5, 0.9),
    "Flux2Transformer2DModel": pipeline_flux2.compute_empirical_mu,
    "CogView4Transformer2DModel": lambda tokens, _: pipeline_cogview4.calculate_shift(tokens),
}
MEAN, SPREAD = 0.4, 0.3  # of a world in which every pixel is drawn from one normal distribution
SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 1.0}),
    "Euler, shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "Euler, shifted by size": ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
    "Heun": ("FlowMatchHeunDiscreteScheduler", {"shift": 1.0}),
    "Heun, shifted": ("FlowMatchHeunDiscreteScheduler", {"shift": 2.0}),
    "DPM++": ("DPMSolverMultistepScheduler", FLOW),
    "DPM++, shifted": ("DPMSolverMultistepScheduler", FLOW | {"flow_shift": 3.0}),
    "DPM++, shifted by size": ("DPMSolverMultistepScheduler", FLOW | {"use_dynamic_shifting": True}),
    "DPM++, third order": ("DPMSolverMultistepScheduler", FLOW | {"solver_order": 3}),
    "DPM++, one step at a time": ("DPMSolverSinglestepScheduler", FLOW),
    "UniPC": ("UniPCMultistepScheduler", FLOW),
    "UniPC, shifted": ("UniPCMultistepScheduler", FLOW | {"flow_shift": 3.0}),
    "DEIS": ("DEISMultistepScheduler", FLOW),
}


@pytest.fixture(scope="module")
def pipeline(tiny_delta: Path) -> L2PPipeline:
    return load_pixel_pipeline(tiny_delta)


@pytest.fixture(scope="module")
def texts(pipeline: L2PPipeline) -> list[Any]:
    return pipeline.encode_prompts(["a photo of a red circle"])


def normal_world(pixels: Tensor, sigma: Tensor, *_: Any) -> Tensor:
    """Exact velocity where images are N(MEAN, SPREAD^2): v = (x - E[x0 | x]) / sigma."""
    s = sigma.view(-1, 1, 1, 1)
    variance = ((1 - s) * SPREAD) ** 2 + s**2
    x0 = MEAN + (1 - s) * SPREAD**2 / variance * (pixels - (1 - s) * MEAN)
    return (pixels - x0) / s


def draw(pipeline: L2PPipeline, texts: list[Any], scheduler: Any, **settings: Any) -> Tensor:
    """Draw with the exact velocity in place of the model's; checks at which sigmas it was asked for."""
    asked: list[Tensor] = []

    def field(pixels: Tensor, sigma: Tensor, *rest: Any) -> Tensor:
        asked.append(sigma)
        return normal_world(pixels, sigma, *rest)

    drawer = L2PPipeline(pipeline.transformer, scheduler)
    drawer.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.transformer, "forward", field)
        size = {} if "image" in settings else SIZE
        image = drawer(embeddings=texts, output_type="latent", guidance_scale=0.0, **size, **settings).images
    assert len(asked) == drawer.num_timesteps
    assert torch.equal(torch.cat(asked), scheduler.sigmas[-1 - len(asked) : -1].float())
    return image


def build(name: str) -> Any:
    """One of `SOLVERS`."""
    class_name, settings = SOLVERS[name]
    scheduler = getattr(diffusers, class_name)(**settings)
    if settings.get("use_dynamic_shifting"):
        scheduler.register_to_config(**BY_SIZE)
    return scheduler


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_ends_at_the_exact_image_of_a_known_velocity_field(
    name: str, pipeline: L2PPipeline, texts: list[Any]
) -> None:
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    errors = {}
    for num_steps in (10, 20, 80):
        image = draw(pipeline, texts, build(name), latents=noise, num_inference_steps=num_steps)
        errors[num_steps] = float((image - (MEAN + SPREAD * noise)).abs().max())
    assert errors[80] < 0.07
    assert errors[80] < errors[10] / 5, "more steps must help"
    if name.startswith("Heun"):
        assert errors[20] < 0.01, "a second-order solver must be one"


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_can_start_in_the_middle_of_its_schedule(
    name: str, pipeline: L2PPipeline, texts: list[Any]
) -> None:
    """From sigma on, a point keeps its distance from the mean, in units of the deviation at its noise level."""
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    given, scheduler = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)), build(name)
    image = draw(pipeline, texts, scheduler, latents=noise, image=given, strength=0.5, num_inference_steps=80)
    calls = 79 if name.startswith("Heun") else 40
    start = scheduler.sigmas[-1 - calls]
    at_start = (1 - start) * (2 * given - 1) + start * noise
    distance = (at_start - (1 - start) * MEAN) / (((1 - start) * SPREAD) ** 2 + start**2).sqrt()
    torch.testing.assert_close(image, MEAN + SPREAD * distance, atol=0.08, rtol=0)
    assert 0.2 < start < 0.95


def test_equal_rounded_timesteps_do_not_confuse_the_solver(pipeline: L2PPipeline, texts: list[Any]) -> None:
    """DPM++ counts time in whole thousandths, and a strong shift crowds its first steps."""
    scheduler = diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=8.0)
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image = draw(pipeline, texts, scheduler, latents=noise, num_inference_steps=200)
    assert scheduler.timesteps[0] == scheduler.timesteps[1]
    assert (image - (MEAN + SPREAD * noise)).abs().max() < 0.07


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("DDIMScheduler", {}),
        ("EulerDiscreteScheduler", {}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}),
    ],
)
def test_a_scheduler_of_another_process_is_refused(
    class_name: str, settings: dict[str, Any], pipeline: L2PPipeline, texts: list[Any]
) -> None:
    scheduler = getattr(diffusers, class_name)(**settings)
    with pytest.raises(ModelError, match=f"{class_name} does not solve flow matching.*use_flow_sigmas=True"):
        draw(pipeline, texts, scheduler)


def test_sigmas_beyond_noise_are_refused(pipeline: L2PPipeline, texts: list[Any]) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**FLOW, use_karras_sigmas=True)
    with pytest.raises(ModelError, match="its sigmas go from"):
        draw(pipeline, texts, scheduler)


def test_own_sigmas_are_taken_where_the_scheduler_takes_them(pipeline: L2PPipeline, texts: list[Any]) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    draw(pipeline, texts, scheduler, sigmas=[1.0, 0.7, 0.1], latents=torch.zeros(1, 3, 32, 32))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([1.0, 0.7, 0.1, 0.0]))
    with pytest.raises(ModelError, match="sigmas: FlowMatchHeunDiscreteScheduler spaces its own"):
        draw(pipeline, texts, diffusers.FlowMatchHeunDiscreteScheduler(), sigmas=[1.0, 0.5])


@pytest.mark.parametrize("sigmas", [[0.5, 1.0], [1.0, 1.0, 0.5], [1.2, 0.5], [1.0, 0.0], [1.0, float("nan")]])
def test_own_sigmas_that_do_not_fall_from_noise_are_refused(
    sigmas: list[float], pipeline: L2PPipeline, texts: list[Any]
) -> None:
    with pytest.raises(ModelError, match="expected falling noise levels, at most 1 and above 0"):
        draw(pipeline, texts, build("Euler"), sigmas=sigmas)


def test_no_steps_are_refused(pipeline: L2PPipeline, texts: list[Any]) -> None:
    with pytest.raises(ModelError, match="num_inference_steps = 0: expected at least 1"):
        draw(pipeline, texts, build("Euler"), num_inference_steps=0)


def test_a_schedule_with_a_terminal_noise_level_needs_two_steps(pipeline: L2PPipeline, texts: list[Any]) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift_terminal=0.02)
    with pytest.raises(ModelError, match="num_inference_steps = 1: expected at least 2"):
        draw(pipeline, texts, scheduler, num_inference_steps=1)
    draw(pipeline, texts, scheduler, num_inference_steps=2)
    assert scheduler.sigmas[-2] == pytest.approx(0.02)


def test_the_shift_by_size_reads_the_schedulers_own_numbers_and_counts_tokens(
    pipeline: L2PPipeline, texts: list[Any]
) -> None:
    scheduler = build("Euler, shifted by size")
    draw(pipeline, texts, scheduler, latents=torch.zeros(1, 3, 32, 32), num_inference_steps=4)
    twin = build("Euler, shifted by size")
    mu = pipeline_flux.calculate_shift(4, *(BY_SIZE[key] for key in BY_SIZE))  # 32 x 32 pixels are 2 x 2 patches of 16
    twin.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    torch.testing.assert_close(scheduler.sigmas, twin.sigmas)


@pytest.mark.parametrize("family", ["FluxTransformer2DModel", "CogView4Transformer2DModel"])
def test_a_shift_by_size_without_its_numbers_is_refused(family: str) -> None:
    incomplete = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5}
    with pytest.raises(ModelError, match="max_shift is not set"):
        ADAPTERS[family].dynamic_shift(incomplete, 4, 10)


@pytest.mark.parametrize("family", SPACED_EVENLY, ids=lambda name: name.removesuffix("Transformer2DModel"))
def test_noise_levels_are_those_of_the_sources_own_pipeline(family: str) -> None:
    """Both pipelines draw, on one grid of tokens; the source's first, on a scheduler of its own."""
    source, side_px = pipeline_of(family), PX_PER_TOKEN[family]
    size = {"height": 3 * side_px, "width": 5 * side_px, "num_inference_steps": 4, "output_type": "latent"}
    source(prompt=TEXTS[0], **size, **DRAW[family])
    drawer = L2PPipeline(tiny_pixel_model(family, linear_readout=True), tiny_scheduler(family))
    drawer.set_progress_bar_config(disable=True)
    drawer(embeddings=ADAPTERS[family].encode(source, [TEXTS[0]]), **size)
    assert len(drawer.scheduler.sigmas) == 5
    torch.testing.assert_close(drawer.scheduler.sigmas, source.scheduler.sigmas, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tokens", [15, 1024, 4096, 4400])
@pytest.mark.parametrize("num_steps", [4, 50])
def test_the_shift_by_size_is_the_formula_of_the_familys_own_pipeline(tokens: int, num_steps: int) -> None:
    shifts = {family: ADAPTERS[family].dynamic_shift(SHIFTS[family], tokens, num_steps) for family in OWN_SHIFTS}
    assert shifts == pytest.approx({family: own(tokens, num_steps) for family, own in OWN_SHIFTS.items()})


def test_cogview4s_shift_of_the_noise_is_the_one_its_transformer_is_told_the_time_before() -> None:
    family, tokens = "CogView4Transformer2DModel", (3, 5)
    adapter, text = ADAPTERS[family], {"prompt_embeds": torch.zeros(1, 16, 4), "mask": None}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**SHIFTS[family])
    evenly = [1.0, 0.6, 0.2]
    scheduler.set_timesteps(sigmas=evenly, mu=adapter.dynamic_shift(scheduler.config, 15, 3))
    for sigma, before in zip(scheduler.sigmas, evenly, strict=False):
        told = adapter.arguments(torch.zeros(1, 12, *tokens), sigma[None], text, config={}, guidance_B=None)
        assert float(told["timestep"]) == pytest.approx(1000 * before, rel=1e-4)


def test_stochastic_solvers_draw_from_the_generator_that_is_given(pipeline: L2PPipeline, texts: list[Any]) -> None:
    def image(seed: int) -> Tensor:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.zeros(1, 3, 32, 32)
        return draw(pipeline, texts, scheduler, latents=noise, generator=generator, num_inference_steps=4)

    assert torch.equal(image(1), image(1))
    assert not torch.equal(image(1), image(2))


@pytest.fixture
def pin_with(tiny_source: Path, tmp_path: Path) -> Callable[[Any], SourcePin]:
    """The pin of a source that has this scheduler."""

    def pin(scheduler: Any) -> SourcePin:
        scheduler.save_pretrained(tmp_path / "scheduler")
        return dataclasses.replace(pin_source(str(tiny_source)), path=str(tmp_path))

    return pin


def test_the_source_keeps_its_own_solver_and_its_shift(pin_with: Callable[[Any], SourcePin]) -> None:
    pin = pin_with(diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=3.0, solver_order=3))
    own, shifted = build_scheduler(pin, None), build_scheduler(pin, 5.0)
    assert [type(own).__name__, type(shifted).__name__] == ["DPMSolverMultistepScheduler"] * 2
    assert [own.config.flow_shift, shifted.config.flow_shift] == [3.0, 5.0]
    assert own.config.solver_order == shifted.config.solver_order == 3


def test_a_given_shift_replaces_the_shift_by_size(pin_with: Callable[[Any], SourcePin]) -> None:
    pin = pin_with(diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.25))
    own, shifted = build_scheduler(pin, None), build_scheduler(pin, 5.0)
    assert own.config.use_dynamic_shifting
    assert own.config.base_shift == 0.25
    assert (shifted.config.use_dynamic_shifting, shifted.config.shift) == (False, 5.0)


def test_a_source_that_is_no_flow_model_needs_a_shift(pin_with: Callable[[Any], SourcePin]) -> None:
    pin = pin_with(diffusers.DDPMScheduler())
    with pytest.raises(SourceError, match=r"DDPMScheduler does not solve flow matching.*sampling\.pixel\.shift"):
        build_scheduler(pin, None)
    scheduler = build_scheduler(pin, 2.0)
    assert (type(scheduler).__name__, scheduler.config.shift) == ("FlowMatchEulerDiscreteScheduler", 2.0)


def test_the_first_step_of_a_strength_is_never_before_the_schedule() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    settings: dict[str, Any] = {"sigmas": None, "dynamic_shift": None, "device": torch.device("cpu")}
    lengths = [
        len(make_schedule(scheduler, num_steps=10, strength=strength, **settings))
        for strength in (1.0, 0.7, 0.29, 0.01)
    ]
    assert lengths == [10, 7, 3, 1]
