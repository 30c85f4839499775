"""The conformance suite: each family's adapter against tiny models and pipelines of its real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from l2p.errors import ModelError, SourceError
from l2p.models.adapters import ADAPTERS, get_adapter
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.graft import graft
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.sampling import draw_images
from l2p.models.source import load_source_pipeline, pin_source
from l2p.training.compilation import compile_regions
from tests.families.tiny import DRAW, FAMILIES, PX_PER_TOKEN, TEXTS, build_tiny_family, tiny_transformer
from tests.models.conformance import (
    CAPTIONS,
    MASKS,
    UNSTEADY,
    both_ends,
    calls_of,
    guidance_of,
    latent_graft,
    latents_of,
    pipeline_of,
    rows_of_captions,
    text_of,
    tiny_pixel_model,
    tokens_before_the_tail,
)

GRIDS = [(3, 5), (4, 8), (1, 7)]  # 15, 32 and 7 tokens
SIGMAS = torch.tensor([0.3, 0.9, 0.55])
ROUNDED_TIMES = {"SanaTransformer2DModel": 1.0}  # its scheduler rounds 1000 sigma to whole numbers
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda name: name.removesuffix("Transformer2DModel"))


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_family(request.param, tmp_path_factory.mktemp("family"))


every_folder = pytest.mark.parametrize(
    ("family", "folder"),
    [(name, name) for name in FAMILIES],
    ids=[name.removesuffix("Transformer2DModel") for name in FAMILIES],
    indirect=["folder"],
)


def pixels_of(family: str, count: int, grid: tuple[int, int]) -> Tensor:
    """Noisy pixels whose tokens form `grid` at the family's native patch."""
    height, width = (PX_PER_TOKEN[family] * side for side in grid)
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(7))


def part(text: dict[str, Any], row: int) -> dict[str, Any]:
    """One sample of a batch, without the padding that the others made necessary."""
    alone = {key: None if value is None else value[row : row + 1] for key, value in text.items()}
    if alone.get("mask") is not None:
        length = int(alone["mask"].sum())
        alone = {key: value[:, :length] for key, value in alone.items()}
    return alone


def gradients(model: PixelTransformer, family: str) -> dict[str, Tensor]:
    """Gradients of a loss over a batch of different captions."""
    model.zero_grad()
    count = len(TEXTS)
    out = model.predict(pixels_of(family, count, (3, 5)), SIGMAS[:count], text_of(family))
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_every_family_has_an_adapter_and_an_unknown_class_is_told_where_to_read() -> None:
    assert set(FAMILIES) == set(ADAPTERS)
    with pytest.raises(SourceError, match=r"XModel.*AuraFlow.*ZImage.*Adding a source"):
        get_adapter("XModel")


@every_family
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fidelity_the_graft_returns_the_tokens_that_enter_the_sources_last_layer(
    family: str, grid: tuple[int, int]
) -> None:
    source, adapter, count = tiny_transformer(family), ADAPTERS[family], len(TEXTS)
    texts = [TEXTS[1]] * count if family == "CogView4Transformer2DModel" else TEXTS  # its own mask masks nothing
    text = adapter.collate(adapter.encode(pipeline_of(family), list(texts)))
    latents, sigma = latents_of(source, count, grid), SIGMAS[:count]
    patches = F.pixel_unshuffle(latents, adapter.latent_patch(source.config))
    twin = latent_graft(source)
    with torch.no_grad():
        tokens = adapter.call(twin, patches, sigma, text, guidance_of(source, count))
    expected = tokens_before_the_tail(source, latents, sigma, text)
    assert expected.std() > 0.05
    torch.testing.assert_close(tokens, expected, atol=2e-5, rtol=2e-5)


@every_family
def test_latent_tokens_and_the_source_embedding_are_what_the_source_makes_of_its_latents(family: str) -> None:
    """What the fitted start builds on."""
    source, adapter = tiny_transformer(family), ADAPTERS[family]
    latents, text, outs = latents_of(source, 2, (3, 5)), text_of(family, 2), []
    name = "all_x_embedder.2-1" if family == "ZImageTransformer2DModel" else adapter.source_embedder or adapter.embedder
    hook = source.get_submodule(name).register_forward_hook(lambda module, args, out: outs.append(out))
    tokens_before_the_tail(source, latents, SIGMAS[:2], text)
    hook.remove()
    embedded = F.linear(adapter.latent_tokens(latents, source.config), *adapter.source_embedding(source.state_dict()))
    made = outs[0].flatten(2).transpose(1, 2) if outs[0].ndim == 4 else outs[0]
    if made.ndim == 2:  # Z-Image joins the padded sequences of all images
        made = made.unflatten(0, (2, -1))[:, :15]
    torch.testing.assert_close(made, embedded, atol=1e-5, rtol=1e-5)


@every_family
def test_spy_the_sources_own_pipeline_passes_what_the_adapter_passes(family: str) -> None:
    pipeline, adapter = pipeline_of(family), ADAPTERS[family]
    side, prompt = PX_PER_TOKEN[family], TEXTS[1]
    settings = {key: value for key, value in DRAW[family].items() if key == "use_resolution_binning"}
    if not pipeline.transformer.config.get("guidance_embeds"):
        settings[adapter.guidance_argument] = adapter.no_guidance
    with calls_of(pipeline) as calls:
        pipeline(
            prompt=prompt, height=3 * side, width=5 * side, num_inference_steps=3, output_type="latent", **settings
        )
    embedding = adapter.encode(pipeline, [prompt])
    for step, recorded in enumerate(calls[:2]):
        sigma = pipeline.scheduler.sigmas[step : step + 1].float()
        guidance = recorded.get("guidance")
        expected = adapter.arguments(
            torch.zeros(1, 12, 3, 5),
            sigma,
            adapter.collate(embedding),
            config=pipeline.transformer.config,
            guidance_B=guidance,
        )
        given = {name: value for name, value in recorded.items() if value is not None} | {}
        wanted = {name: value for name, value in expected.items() if value is not None}
        masked = {*CAPTIONS, *MASKS}
        assert set(given) - UNSTEADY - masked == set(wanted) - UNSTEADY - masked
        for ours, theirs in zip(rows_of_captions(wanted), rows_of_captions(given), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        for name in set(wanted) - UNSTEADY - masked:
            same(name, wanted[name], given[name], ROUNDED_TIMES.get(family, 1e-5) if "time" in name else 1e-5)


def same(name: str, ours: Any, theirs: Any, tolerance: float) -> None:
    """Equal values; position ids may have a batch axis on one side only."""
    if not isinstance(ours, Tensor):
        assert ours == theirs, name
        return
    if name.endswith("_ids") and ours.ndim != theirs.ndim:
        ours, theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
    if name == "txt_ids":  # of padding that our embeddings leave out
        theirs = theirs[: len(ours)] if ours.ndim == 2 else theirs
    torch.testing.assert_close(
        ours.float(), theirs.float(), atol=tolerance, rtol=1e-5, msg=lambda text: f"{name}: {text}"
    )


@every_family
def test_the_pipeline_guides_away_from_what_the_adapter_calls_the_negative_prompt(family: str) -> None:
    pipeline, adapter, side = pipeline_of(family), ADAPTERS[family], PX_PER_TOKEN[family]
    settings = dict(DRAW[family])
    if pipeline.transformer.config.get("guidance_embeds"):
        if family == "Flux2Transformer2DModel":
            pytest.skip("FLUX.2's pipeline knows no negative prompt")
        settings["true_cfg_scale"] = 2.0
    rows: dict[str, list[Tensor]] = {}
    for negative in ("", TEXTS[2]):
        with calls_of(pipeline) as calls:
            pipeline(
                prompt=TEXTS[0],
                height=side,
                width=side,
                num_inference_steps=1,
                output_type="latent",
                **{**settings, "negative_prompt": negative},
            )
        rows[negative] = [row for call in calls for row in rows_of_captions(call)]
    for negative, found in rows.items():
        (wanted,) = rows_of_captions(_captions_alone(adapter, adapter.encode_negative(pipeline, [negative])))
        assert any(row.shape == wanted.shape and torch.allclose(row, wanted, atol=1e-5) for row in found), negative
    (empty,) = rows_of_captions(_captions_alone(adapter, adapter.encode(pipeline, [""])))
    assert any(row.shape == empty.shape and torch.allclose(row, empty, atol=1e-5) for row in rows[""])


def _captions_alone(adapter: Any, embeddings: list[Any]) -> dict[str, Any]:
    config = pipeline_of(adapter.transformer_class).transformer.config
    patches = torch.zeros(len(embeddings), 12, 1, 1)
    text = adapter.collate(embeddings)
    return adapter.arguments(patches, torch.ones(len(embeddings)), text, config=config, guidance_B=None)


@every_family
def test_the_text_reaches_the_pixels(family: str) -> None:
    model = tiny_pixel_model(family)
    pixels = pixels_of(family, 1, (2, 3)).expand(len(TEXTS), -1, -1, -1)
    with torch.no_grad():
        out = model.tokens(pixels, torch.full((len(TEXTS),), 0.7), text_of(family))
    assert not torch.allclose(out[0], out[1], atol=1e-6)


@every_family
def test_a_batch_of_different_captions_equals_one_by_one(family: str) -> None:
    model, text, count = tiny_pixel_model(family), text_of(family), len(TEXTS)
    pixels, sigma = pixels_of(family, count, (3, 5)), SIGMAS[:count]
    with torch.no_grad():
        together = model.tokens(pixels, sigma, text)
        for row in range(count):
            alone = model.tokens(pixels[row : row + 1], sigma[row : row + 1], part(text, row))
            torch.testing.assert_close(together[row : row + 1], alone, atol=5e-5, rtol=1e-4)


@every_family
def test_gradients_pass_the_frozen_middle_unchanged_and_reach_every_trained_tensor(family: str) -> None:
    model = tiny_pixel_model(family)
    whole = gradients(model.requires_grad_(True), family)
    names = model.set_trainable(both_ends(1))
    found = gradients(model, family)
    assert set(found) == set(names)
    for name in names:
        assert found[name].abs().sum() > 0, f"{name} is trained for nothing"
        torch.testing.assert_close(found[name], whole[name], atol=1e-5, rtol=1e-4, msg=lambda t, n=name: f"{n}: {t}")
    middle = [name for name, _ in model.named_parameters() if name not in names]
    assert any(f".{block}." in name for name in middle for block in ("1", "2"))


@every_family
def test_an_optimizer_step_leaves_frozen_tensors_bitwise_as_they_were(family: str) -> None:
    model = tiny_pixel_model(family)
    names = model.set_trainable(both_ends(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    gradients(model, family)
    optimizer.step()
    states = sum(state["exp_avg"].numel() for state in optimizer.state.values())
    assert states == sum(model.get_parameter(name).numel() for name in names)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in names), name


@every_family
def test_checkpointing_changes_no_gradient(family: str) -> None:
    model = tiny_pixel_model(family).train()
    model.set_trainable(both_ends(1))
    plain = gradients(model, family)
    model.enable_gradient_checkpointing()
    recomputed = gradients(model, family)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, atol=1e-6, rtol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


@every_family
def test_checkpointing_does_compute_blocks_twice(family: str) -> None:
    model = tiny_pixel_model(family).train()
    model.set_trainable(both_ends(1))
    model.enable_gradient_checkpointing()
    block, calls = model.dit.get_submodule(ADAPTERS[family].image_blocks[0])[1], []
    child = next(module for module in block.modules() if isinstance(module, torch.nn.Linear))
    child.register_forward_hook(lambda *_: calls.append(1))
    gradients(model, family)
    assert calls
    assert len(calls) % 2 == 0


@every_family
def test_blocks_are_captured_whole_by_torch_compile_and_compute_the_same(family: str) -> None:
    model, count = tiny_pixel_model(family), len(TEXTS)
    model.adapter.prepare_training(model.dit)
    inputs = pixels_of(family, count, (3, 5)), SIGMAS[:count], text_of(family)
    with torch.no_grad():
        plain = model(*inputs)
        torch._dynamo.reset()
        for block in (*model.repeated_blocks(), model.head):
            block.compile(backend="eager", fullgraph=True, dynamic=False)
        torch.testing.assert_close(model(*inputs), plain, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()


@pytest.mark.slow
@every_family
def test_compiled_blocks_compute_the_same_and_learn_the_same(family: str) -> None:
    """As training compiles them: with code generation, forwards and backwards."""
    model = tiny_pixel_model(family).train()
    model.adapter.prepare_training(model.dit)
    model.set_trainable(both_ends(1))
    plain = gradients(model, family)
    torch._dynamo.reset()
    compile_regions(model)
    compiled = gradients(model, family)
    torch._dynamo.reset()
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, atol=1e-4, rtol=1e-3, msg=lambda t, n=name: f"{n}: {t}")


@every_folder
def test_kept_weights_equal_the_sources_key_for_key_and_a_delta_loads_back(
    family: str, folder: Path, tmp_path: Path
) -> None:
    pin = pin_source(str(folder))
    patch = ADAPTERS[family].native_patch_px
    widths = (4, 4, 8, 8, 8)[: patch.bit_length() - 1]
    model = graft(pin, seed=0, patch_size=patch, head_widths=widths)
    adapter, source = model.adapter, tiny_transformer(family).state_dict()
    kept = {name for name in source if not adapter.left_behind(name)}
    assert {name for name in model.dit.state_dict() if not name.startswith(f"{adapter.embedder}.")} == kept
    for name in kept:
        assert torch.equal(model.dit.state_dict()[name], source[name]), name
    sampler = {"num_steps": 2, "guidance_scale": adapter.no_guidance, "shift": None}
    save_delta(model, tmp_path, pin=pin, names=model.new_tensors(), sampler=sampler)
    loaded = load_pixel_model(tmp_path)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    inputs = pixels_of(family, 2, (2, 3)), SIGMAS[:2], text_of(family, 2)
    with torch.no_grad():
        assert torch.equal(model(*inputs), loaded(*inputs))


@every_folder
def test_the_source_draws_from_ready_embeddings_what_it_draws_from_the_prompt(family: str, folder: Path) -> None:
    """Synthesis, benchmarks and training all go through embeddings; the image must be the pipeline's own."""
    pipeline, adapter, side = load_source_pipeline(pin_source(str(folder))), ADAPTERS[family], PX_PER_TOKEN[family]
    settings = dict(DRAW[family])
    scale = settings[adapter.guidance_argument]
    settings.setdefault("negative_prompt", "")
    if family == "Flux2Transformer2DModel":
        del settings["negative_prompt"]
    expected = pipeline(
        prompt=TEXTS[1],
        height=3 * side,
        width=5 * side,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
        **settings,
    ).images[0]
    (embedding,) = adapter.encode(pipeline, [TEXTS[1]])
    (empty,) = adapter.encode_negative(pipeline, [settings.get("negative_prompt", "")])
    drawn = draw_images(
        pipeline,
        [embedding],
        empty=empty,
        size_px=(3 * side, 5 * side),
        num_steps=2,
        guidance_scale=scale,
        seeds=[4],
    )[0]
    if family == "ChromaTransformer2DModel":  # its own mask masks nothing: see the adapter
        assert abs(drawn / 255 - expected).max() > 0
        return
    assert abs(drawn / 255 - expected).max() < 0.01


def test_chromas_own_pipeline_lets_padding_through_and_ours_does_not() -> None:
    """The upstream fault that the adapter works around; when this fails, the work-around can go."""
    family = "ChromaTransformer2DModel"
    source, adapter, text = tiny_transformer(family), ADAPTERS[family], text_of(family)
    latents = latents_of(source, len(TEXTS), (2, 3))
    arguments = adapter.arguments(F.pixel_unshuffle(latents, 2), SIGMAS, text, config=source.config, guidance_B=None)
    hidden = ~text["mask"]
    assert hidden.any()
    other = arguments["encoder_hidden_states"] + 5 * hidden[..., None]
    with torch.no_grad():
        for mask, leaks in ((arguments["attention_mask"], False), (arguments["attention_mask"].float(), True)):
            outs = [
                source(**{**arguments, "encoder_hidden_states": captions, "attention_mask": mask}, return_dict=False)[0]
                for captions in (arguments["encoder_hidden_states"], other)
            ]
            assert torch.allclose(*outs, atol=1e-6) != leaks


def test_chromas_own_checkpointing_loses_the_mask() -> None:
    """The second upstream fault: checkpointed single-stream blocks run without the mask."""
    family = "ChromaTransformer2DModel"
    model = tiny_pixel_model(family).train()
    model.set_trainable(both_ends(1))
    plain = gradients(model, family)
    model.dit.enable_gradient_checkpointing()
    name = "dit.single_transformer_blocks.2.proj_mlp.weight"
    assert not torch.allclose(gradients(model, family)[name], plain[name], rtol=1e-3)


def test_cogview4s_own_attention_lets_padding_through_and_ours_does_not() -> None:
    """The upstream fault for which the graft brings its own attention."""
    from diffusers.models.transformers.transformer_cogview4 import CogView4AttnProcessor

    family = "CogView4Transformer2DModel"
    model, text = tiny_pixel_model(family), text_of(family)
    hidden = ~text["mask"]
    other = {**text, "prompt_embeds": text["prompt_embeds"] + 5 * hidden[..., None]}
    pixels = pixels_of(family, len(TEXTS), (2, 3))
    with torch.no_grad():
        assert torch.allclose(model(pixels, SIGMAS, text), model(pixels, SIGMAS, other), atol=1e-6)
        for block in model.dit.transformer_blocks:
            block.attn1.set_processor(CogView4AttnProcessor())
        outs = [model.tokens(pixels, SIGMAS, captions) for captions in (text, other)]
        assert not torch.allclose(*outs, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "sides"),
    [
        ("ZImageTransformer2DModel", 64),
        ("SD3Transformer2DModel", 24),
        ("AuraFlowTransformer2DModel", 16),
        ("Lumina2Transformer2DModel", 512),
    ],
)
def test_a_grid_beyond_the_sources_positions_is_refused_with_the_largest_size(family: str, sides: int) -> None:
    model = tiny_pixel_model(family)
    model.check_size(16 * sides, 16)
    with pytest.raises(ModelError, match=rf"{sides} tokens a side, so at most {16 * sides} pixels"):
        model.check_size(16, 16 * sides + 16)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("QwenImageTransformer2DModel", {"zero_cond_t": True}, "zero_cond_t"),
        ("QwenImageTransformer2DModel", {"use_layer3d_rope": True}, "use_layer3d_rope"),
        ("Flux2Transformer2DModel", {"guidance_embeds": False}, "klein"),
        ("SanaTransformer2DModel", {"guidance_embeds": True}, "Sprint"),
    ],
)
def test_variants_that_would_be_wrong_silently_are_refused(family: str, change: dict[str, Any], said: str) -> None:
    config = {**tiny_transformer(family).config, **change}
    with pytest.raises(SourceError, match=said):
        ADAPTERS[family].check_source(config)


@pytest.mark.parametrize(("patch", "head_type", "widths"), [(32, "unet", (4, 8)), (64, "official", (4, 4, 4, 4, 8, 8))])
def test_patches_above_the_native_one_give_the_same_grid_at_a_larger_size(
    patch: int, head_type: str, widths: tuple[int, ...]
) -> None:
    family = "FluxTransformer2DModel"
    model = tiny_pixel_model(family, patch, head_type=head_type, head_widths=widths, embedder_rank=8)
    pixels = torch.randn(1, 3, 2 * patch, 3 * patch)
    with torch.no_grad():
        assert model.tokens(pixels, SIGMAS[:1], text_of(family, 1)).shape == (1, 64, 2, 3)
        assert model(pixels, SIGMAS[:1], text_of(family, 1)).shape == pixels.shape


def test_a_pipeline_of_another_purpose_is_refused_when_it_is_pinned(tmp_path: Path) -> None:
    folder = build_tiny_family("CogView4Transformer2DModel", tmp_path / "source")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CogView4Pipeline", "CogView4ControlPipeline"))
    with pytest.raises(SourceError, match=r"CogView4ControlPipeline.*only.*CogView4Pipeline"):
        pin_source(str(folder))
    index.write_text(index.read_text().replace("CogView4ControlPipeline", "CogView4Pipeline"))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace('"max_shift": 0.75', '"max_shift": 0.9'))
    with pytest.raises(SourceError, match="max_shift"):
        pin_source(str(folder))
