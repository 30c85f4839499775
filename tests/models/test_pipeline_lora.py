"""LoRA: of the pixel model and of its source, from a file or from memory, weighed, and taken out again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from l2p.errors import ModelError
from l2p.models.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.models.source import load_source_pipeline, pin_source
from tests.models.pipeline_parts import differ, lively_delta

peft = pytest.importorskip("peft")
LORA_FILE = "pytorch_lora_weights.safetensors"
TARGET = "layers.0.attention.to_q"


@pytest.fixture(scope="module")
def delta(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lively_delta(tiny_source, tmp_path_factory.mktemp("delta"))


@pytest.fixture
def pipeline(delta: Path) -> L2PPipeline:
    return load_pixel_pipeline(delta)


def draw(pipeline: L2PPipeline) -> Tensor:
    settings: dict[str, Any] = {"height": 32, "width": 32, "output_type": "latent"}
    return pipeline("a photo of a red circle", generator=torch.Generator().manual_seed(1), **settings).images


def config(*targets: str, alpha: int = 8) -> Any:
    return peft.LoraConfig(r=4, lora_alpha=alpha, target_modules=list(targets))


def fill(model: Any) -> None:
    """Give all LoRA weights values; PEFT starts them at no effect."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.3, generator=generator)


def source_tensors(width: int = 64) -> dict[str, Tensor]:
    """A LoRA of the source's transformer in diffusers' format."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"transformer.{TARGET}.lora_A.weight": torch.randn(4, width, generator=generator),
        f"transformer.{TARGET}.lora_B.weight": torch.randn(width, 4, generator=generator),
    }


def merged(pipeline: L2PPipeline, tensors: dict[str, Tensor], scale: float = 1.0) -> L2PPipeline:
    """The pipeline with B A added to the weight itself."""
    twin = L2PPipeline(**{**pipeline.components, "transformer": copy.deepcopy(pipeline.transformer)})
    twin.register_to_config(num_inference_steps=2, guidance_scale=0.0)
    twin.set_progress_bar_config(disable=True)
    down, up = (tensors[f"transformer.{TARGET}.lora_{part}.weight"] for part in "AB")
    twin.transformer.get_parameter(f"dit.{TARGET}.weight").data += scale * up @ down
    return twin


def test_an_adapter_changes_images_once_it_has_weights(pipeline: L2PPipeline) -> None:
    plain = draw(pipeline)
    pipeline.transformer.add_adapter(config("to_q", "to_v", "out_conv"))
    assert torch.equal(draw(pipeline), plain), "B starts at zero"
    fill(pipeline.transformer)
    assert differ(draw(pipeline), plain)


def test_a_saved_adapter_loads_into_a_fresh_model(pipeline: L2PPipeline, delta: Path, tmp_path: Path) -> None:
    pipeline.transformer.add_adapter(config("to_q", "out_conv", alpha=16))
    fill(pipeline.transformer)
    pipeline.transformer.save_lora_adapter(tmp_path)
    drawn = draw(pipeline)
    by_model, by_pipeline, by_file = (load_pixel_pipeline(delta) for _ in range(3))
    by_model.transformer.load_lora_adapter(tmp_path, prefix=None, weight_name=LORA_FILE)
    by_pipeline.load_lora_weights(tmp_path)
    by_file.load_lora_weights(tmp_path / LORA_FILE, adapter_name="style")
    for loaded in (by_model, by_pipeline, by_file):
        assert torch.equal(draw(loaded), drawn)
    assert by_file.get_list_adapters() == {"transformer": ["style"]}


def test_a_lora_of_the_source_finds_its_place(pipeline: L2PPipeline) -> None:
    expected = draw(merged(pipeline, source_tensors()))
    assert differ(expected, draw(pipeline))
    pipeline.load_lora_weights(source_tensors())
    torch.testing.assert_close(draw(pipeline), expected, atol=1e-4, rtol=1e-4)


def test_a_lora_saved_by_the_sources_own_pipeline_keeps_its_scale(
    pipeline: L2PPipeline, tiny_source: Path, tmp_path: Path
) -> None:
    """alpha / r is not in the tensors but in the file's metadata."""
    source = load_source_pipeline(pin_source(str(tiny_source)))
    source.transformer.add_adapter(config("to_q", "to_k", alpha=12))
    fill(source.transformer)
    layers = peft.get_peft_model_state_dict(source.transformer)
    card = {"transformer_lora_adapter_metadata": source.transformer.peft_config["default"].to_dict()}
    source.save_lora_weights(tmp_path, transformer_lora_layers=layers, **card)
    assert all(name.startswith("transformer.") for name in load_file(tmp_path / LORA_FILE))
    expected = copy.deepcopy(pipeline.transformer)
    for module in {name.split(".lora_")[0] for name in layers}:
        up, down = layers[f"{module}.lora_B.weight"], layers[f"{module}.lora_A.weight"]
        expected.get_parameter(f"dit.{module}.weight").data += 12 / 4 * up @ down
    twin = L2PPipeline(**{**pipeline.components, "transformer": expected})
    twin.register_to_config(num_inference_steps=2, guidance_scale=0.0)
    twin.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(tmp_path)
    torch.testing.assert_close(draw(pipeline), draw(twin), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["", "base_model.model.", "transformer.dit.", "dit."])
def test_other_spellings_of_the_same_modules_are_understood(pipeline: L2PPipeline, prefix: str) -> None:
    expected = draw(merged(pipeline, source_tensors()))
    pipeline.load_lora_weights({prefix + k.removeprefix("transformer."): v for k, v in source_tensors().items()})
    torch.testing.assert_close(draw(pipeline), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_can_be_weighed_switched_off_and_taken_out(pipeline: L2PPipeline) -> None:
    plain, half = draw(pipeline), draw(merged(pipeline, source_tensors(), scale=0.5))
    pipeline.load_lora_weights(source_tensors(), adapter_name="style")
    pipeline.set_adapters("style", 0.5)
    torch.testing.assert_close(draw(pipeline), half, atol=1e-4, rtol=1e-4)
    pipeline.disable_lora()
    assert torch.equal(draw(pipeline), plain)
    pipeline.enable_lora()
    assert differ(draw(pipeline), plain)
    pipeline.unload_lora_weights()
    assert torch.equal(draw(pipeline), plain)
    assert not any("lora" in name for name, _ in pipeline.transformer.named_parameters())


def test_a_fused_adapter_draws_the_same_from_the_weights_themselves(pipeline: L2PPipeline) -> None:
    plain, expected = draw(pipeline), draw(merged(pipeline, source_tensors(), scale=0.5))
    weight = pipeline.transformer.get_parameter(f"dit.{TARGET}.weight").clone()
    pipeline.load_lora_weights(source_tensors())
    pipeline.fuse_lora(lora_scale=0.5)
    torch.testing.assert_close(draw(pipeline), expected, atol=1e-4, rtol=1e-4)
    assert not torch.equal(pipeline.transformer.get_parameter(f"dit.{TARGET}.base_layer.weight"), weight)
    pipeline.unfuse_lora()
    pipeline.unload_lora_weights()
    torch.testing.assert_close(draw(pipeline), plain, atol=1e-4, rtol=1e-4)


def test_two_adapters_add_up(pipeline: L2PPipeline) -> None:
    pipeline.load_lora_weights(source_tensors(), adapter_name="one")
    pipeline.load_lora_weights(source_tensors(), adapter_name="two")
    pipeline.set_adapters(["one", "two"], [1.0, -1.0])
    both = draw(pipeline)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(both, draw(pipeline), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "module",
    ["all_x_embedder.2-1", "all_final_layer.2-1.linear", "layers.99.attention.to_q", "text_encoder.layers.0.q_proj"],
)
def test_modules_that_the_pixel_model_lacks_are_refused_by_name(pipeline: L2PPipeline, module: str) -> None:
    plain = draw(pipeline)
    name = f"transformer.{module}.lora_A.weight"
    with pytest.raises(ModelError, match=f"1 of 3 tensors have no place.*{name}"):
        pipeline.load_lora_weights(source_tensors() | {name: torch.zeros(4, 64)})
    assert torch.equal(draw(pipeline), plain), "nothing is loaded of it"


def test_another_format_is_refused(pipeline: L2PPipeline) -> None:
    with pytest.raises(ModelError, match=r"no place.*lora_unet_layers_0\.lora_down\.weight"):
        pipeline.load_lora_weights({"lora_unet_layers_0.lora_down.weight": torch.zeros(4, 64)})
    with pytest.raises(ModelError, match="0 of 0 tensors"):
        pipeline.load_lora_weights({})


def test_tensors_of_another_width_are_refused_by_name(pipeline: L2PPipeline) -> None:
    with pytest.raises(ModelError, match=rf"dit\.{TARGET}\.lora_A\.weight has shape \[4, 32\]"):
        pipeline.load_lora_weights(source_tensors(width=32))


def test_half_a_pair_or_two_ranks_are_refused(pipeline: L2PPipeline) -> None:
    """PEFT would draw the missing half at random."""
    down, up = source_tensors().items()
    for tensors, found in (
        ([down], "lora_A 4, lora_B missing"),
        ([up], "lora_A missing, lora_B 4"),
        ([down, (up[0], up[1][:, :2])], "lora_A 4, lora_B 2"),
    ):
        with pytest.raises(ModelError, match=rf"LoRA: dit\.{TARGET} has rank {found}"):
            pipeline.load_lora_weights(dict(tensors))
    assert not any("lora" in name for name, _ in pipeline.transformer.named_parameters())


def test_a_file_that_is_none_is_refused(pipeline: L2PPipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such LoRA"):
        pipeline.load_lora_weights(tmp_path)
    file = tmp_path / "x.safetensors"
    save_file(source_tensors(), file)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"x\.safetensors: cannot be read as a LoRA"):
        pipeline.load_lora_weights(file)


def test_without_peft_the_error_names_it(pipeline: L2PPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2p.models.pipeline_lora.is_peft_available", lambda: False)
    with pytest.raises(ModelError, match="pip install peft"):
        pipeline.load_lora_weights(source_tensors())
