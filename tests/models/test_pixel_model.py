"""The graft keeps the source: fidelity, freezing, head layout, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812

from l2p.config import TrainableParams
from l2p.errors import ModelError, SourceError
from l2p.models.adapters import ADAPTERS, get_adapter
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.graft import graft
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import SourcePin, load_source_pipeline, pin_source, verify_source
from l2p.models.weights import index_folder

SETTINGS: dict[str, Any] = {"patch_size": 16, "head_widths": (4, 8, 8, 16), "prediction": "x0", "snr_scale": 1.0}
PROMPTS = ["a photo of a red circle", "a photo of a star left of a square on a pink background"]


@pytest.fixture(scope="module")
def pipeline(tiny_source: Path) -> Any:
    return load_source_pipeline(pin_source(str(tiny_source)))


def trainable(end_blocks: int, **parts: bool) -> TrainableParams:
    on = {"embedder": True, "head": True, "refiners": True, "pad_tokens": True}
    return TrainableParams(first_blocks=end_blocks, last_blocks=end_blocks, **{**on, **parts})


def _text(pipeline: Any) -> Any:
    return get_adapter("ZImageTransformer2DModel").collate(encode_prompts(pipeline, PROMPTS))


def test_the_grafted_transformer_returns_the_tokens_that_enter_the_sources_last_layer(pipeline: Any) -> None:
    """Fidelity: built over latents with the source's own embedder, the graft computes what the source computes."""
    import diffusers

    source, adapter, seen = pipeline.transformer, ADAPTERS["ZImageTransformer2DModel"], {}
    config = {k: v for k, v in source.config.items() if not k.startswith("_")}
    twin = diffusers.ZImageTransformer2DModel(
        **{**config, **adapter.overrides(config, 4 * source.config["in_channels"])}
    )
    adapter.graft(twin, adapter.token_dim(config))
    state = source.state_dict()
    kept = {k: v for k, v in state.items() if not k.startswith(("all_x_embedder", "all_final_layer"))}
    # source tokens are laid out (row, column, channel), pixel_unshuffle's (channel, row, column)
    weight = state["all_x_embedder.2-1.weight"].unflatten(1, (2, 2, 4)).permute(0, 3, 1, 2).flatten(1)
    kept |= {"all_x_embedder.1-1.weight": weight, "all_x_embedder.1-1.bias": state["all_x_embedder.2-1.bias"]}
    twin.load_state_dict(kept, strict=True)
    hook = source.all_final_layer["2-1"].register_forward_pre_hook(lambda module, args: seen.update(tokens=args[0]))
    latents, sigma, text = torch.randn(2, 4, 8, 12), torch.tensor([0.3, 0.9]), _text(pipeline)
    with torch.no_grad():
        source(list(latents.unsqueeze(2)), 1 - sigma, text["cap_feats"], patch_size=2, f_patch_size=1)
        tokens = adapter.call(twin, F.pixel_unshuffle(latents, 2), sigma, text)
    hook.remove()
    expected = seen["tokens"][:, : 4 * 6].transpose(1, 2).unflatten(2, (4, 6))
    torch.testing.assert_close(tokens, expected, atol=1e-5, rtol=1e-5)


def test_a_batch_of_different_captions_equals_one_by_one(tiny_source: Path, pipeline: Any) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    pixels, sigma = torch.randn(2, 3, 32, 48), torch.tensor([0.2, 1.0])
    embeddings = encode_prompts(pipeline, PROMPTS)
    with torch.no_grad():
        together = model(pixels, sigma, model.adapter.collate(embeddings))
        for i in range(2):
            alone = model(pixels[i : i + 1], sigma[i : i + 1], model.adapter.collate(embeddings[i : i + 1]))
            torch.testing.assert_close(together[i : i + 1], alone, atol=2e-4, rtol=1e-4)


def test_kept_weights_equal_the_source_and_only_the_ends_learn(tiny_source: Path, pipeline: Any) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    source = pipeline.transformer.state_dict()
    for name, tensor in model.dit.state_dict().items():
        if not name.startswith("all_x_embedder"):
            assert torch.equal(tensor, source[name]), name
    names = model.set_trainable(trainable(1, refiners=False))
    model.predict(torch.randn(2, 3, 64, 64), torch.tensor([0.3, 0.8]), _text(pipeline)).square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in names)
        assert (parameter.grad is not None) == (name in names), name
    assert not any(name.startswith("dit.layers.1.") for name in names)
    assert {"dit.layers.0", "dit.layers.2"} <= {".".join(name.split(".")[:3]) for name in names}


def test_ends_that_overlap_are_refused_and_so_is_training_nothing(tiny_source: Path) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    with pytest.raises(ModelError, match=r"first_blocks = 2, last_blocks = 2.*3 blocks"):
        model.set_trainable(trainable(2))
    nothing = {"embedder": False, "head": False, "refiners": False, "pad_tokens": False}
    with pytest.raises(ModelError, match="nothing is trained"):
        model.set_trainable(trainable(0, **nothing))


def test_each_part_of_the_trainable_set_switches_its_own_tensors(tiny_source: Path) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    off = {"embedder": False, "head": False, "refiners": False, "pad_tokens": False}
    parts = {
        "embedder": ("dit.all_x_embedder.",),
        "head": ("head.",),
        "refiners": ("dit.noise_refiner.", "dit.context_refiner.", "dit.cap_embedder.", "dit.t_embedder."),
        "pad_tokens": ("dit.x_pad_token", "dit.cap_pad_token"),
    }
    for part, prefixes in parts.items():
        names = model.set_trainable(trainable(0, **{**off, part: True}))
        assert all(name.startswith(prefixes) for name in names), part
        assert all(any(name.startswith(prefix) for name in names) for prefix in prefixes), part
    first_only = model.set_trainable(trainable(0, **off).model_copy(update={"first_blocks": 2}))
    assert {name.split(".")[2] for name in first_only} == {"0", "1"}


def test_an_image_that_is_no_multiple_of_the_patch_is_refused(tiny_source: Path, pipeline: Any) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    with pytest.raises(ModelError, match="40x64 pixels"):
        model.predict(torch.randn(2, 3, 64, 40), torch.ones(2), _text(pipeline))


def test_the_noise_match_tells_the_backbone_the_lower_noise_and_keeps_the_input_scale(tiny_source: Path) -> None:
    """At s the backbone sees sigma' = s sigma / (1 - sigma + s sigma) and pixels times (1 - sigma') / (1 - sigma)."""
    model = graft(pin_source(str(tiny_source)), seed=0, **{**SETTINGS, "snr_scale": 0.25})
    seen: dict[str, torch.Tensor] = {}
    model.adapter = type(
        "Spy", (), {"call": lambda self, dit, patches, sigma, text, guidance: seen.update(p=patches, s=sigma)}
    )()
    pixels, sigma = torch.randn(1, 3, 16, 16), torch.tensor([0.5])
    model.tokens(pixels, sigma, {})
    assert seen["s"].item() == pytest.approx(0.2)
    torch.testing.assert_close(seen["p"], F.pixel_unshuffle(pixels, 16) * (0.8 / 0.5))


def test_a_delta_loads_back_to_the_same_model(tiny_source: Path, tiny_delta: Path, pipeline: Any) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    loaded = load_pixel_model(tiny_delta)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert set(read_delta_card(tiny_delta)["tensors"]) == set(model.new_tensors())


def test_an_image_does_not_depend_on_its_batch(tiny_delta: Path) -> None:
    pixel = load_pixel_pipeline(tiny_delta)
    embeddings, empty = encode_prompts(pixel, PROMPTS), encode_prompts(pixel, [""])[0]
    settings: dict[str, Any] = {"empty": empty, "size_px": (32, 32), "num_steps": 2, "guidance_scale": 1.0}
    both = draw_images(pixel, embeddings, seeds=[5, 6], **settings)
    second = draw_images(pixel, embeddings[1:], seeds=[6], **settings)
    assert abs(both[1].astype(int) - second[0].astype(int)).max() <= 1
    assert abs(both[0].astype(int) - both[1].astype(int)).max() > 1


def test_damaged_or_incomplete_deltas_are_refused(tiny_delta: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_delta, tmp_path / "copy"))
    weights = folder / "delta.safetensors"
    tensors = load_file(weights)
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"delta\.safetensors"):
        load_pixel_model(folder)
    tensors.pop("head.out_conv.bias")
    save_file(tensors, weights)
    card = read_delta_card(folder)
    from l2p.files import sha256_file, write_json

    write_json(folder / "delta.json", {**card, "weights_sha256": sha256_file(weights)})
    with pytest.raises(ModelError, match=r"head\.out_conv\.bias"):
        load_pixel_model(folder)


def test_a_changed_source_is_refused_by_name(tiny_source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    pin = pin_source(str(folder))
    pin.save(tmp_path / "source.json")
    verify_source(SourcePin.load(tmp_path / "source.json"))
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(SourceError, match=r"transformer/config\.json"):
        verify_source(pin)


def test_folders_that_are_no_source_get_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        pin_source("./nowhere")
    with pytest.raises(SourceError, match="revision"):
        pin_source("someone/some-model")
    with pytest.raises(SourceError, match=r"model_index\.json"):
        pin_source(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "XPipeline", "transformer": ["diffusers", "XModel"]}')
    with pytest.raises(SourceError, match=r"XModel.*ZImageTransformer2DModel"):
        pin_source(str(tmp_path))


def test_variants_and_whole_models_beside_the_parts_are_neither_pinned_nor_read(
    tiny_source: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    before = pin_source(str(folder))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16-00001-of-00002.safetensors"):
        shutil.copy(weights, weights.with_name(name))
    weights.with_name("diffusion_pytorch_model.safetensors.index.fp16.json").write_text(
        '{"weight_map": {"x": "gone.safetensors"}}'
    )
    shutil.copy(weights, folder / "whole-model.safetensors")
    assert pin_source(str(folder)).digest == before.digest
    graft(pin_source(str(folder)), seed=0, **SETTINGS)
    weights.unlink()
    with pytest.raises(SourceError, match=r"transformer: holds no \.safetensors weights"):
        pin_source(str(folder))
    with pytest.raises(ModelError, match="variants"):
        index_folder(folder / "transformer")


def test_a_repository_is_fetched_part_by_part_at_its_pinned_commit(
    tiny_source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fnmatch import fnmatch

    asked: dict[str, Any] = {}

    def snapshot_download(name: str, **settings: Any) -> str:
        asked.update(settings, name=name)
        return str(tiny_source)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert pin_source("someone/some-model", "abc123").revision == "abc123"
    assert (asked["name"], asked["revision"]) == ("someone/some-model", "abc123")

    def fetched(file: str) -> bool:
        return any(fnmatch(file, p) for p in asked["allow_patterns"]) and not any(
            fnmatch(file, p) for p in asked["ignore_patterns"]
        )

    wanted = ["model_index.json", "README.md", "transformer/model-00001-of-00002.safetensors", "tokenizer/vocab.txt"]
    assert all(fetched(file) for file in wanted)
    assert not any(fetched(file) for file in ("aura_flow_0.3.safetensors", "transformer/model.fp16.safetensors"))


def test_a_bfloat16_model_takes_its_image_off_the_pixels_as_they_are(tiny_source: Path, pipeline: Any) -> None:
    """v = (x - x0) / sigma: pixels rounded to bfloat16 first would err by half a grey level, and more at low noise."""
    model = graft(pin_source(str(tiny_source)), seed=0, dtype="bfloat16", **SETTINGS)
    pixels, sigma = torch.randn(2, 3, 32, 32), torch.tensor([0.05, 0.5])
    text = {"cap_feats": [caption.bfloat16() for caption in _text(pipeline)["cap_feats"]]}
    with torch.no_grad():
        x0 = model.predict(pixels.bfloat16(), sigma, text).float()
        expected = (pixels - x0) / sigma.view(2, 1, 1, 1)
        torch.testing.assert_close(model(pixels, sigma, text), expected)


def test_a_checkpointing_function_of_ones_own_is_refused_instead_of_ignored(tiny_source: Path) -> None:
    model = graft(pin_source(str(tiny_source)), seed=0, **SETTINGS)
    with pytest.raises(ModelError, match="gradient_checkpointing_func"):
        model.enable_gradient_checkpointing(torch.utils.checkpoint.checkpoint)
