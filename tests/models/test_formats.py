"""Layouts of others: the published names and shapes, both directions bit for bit, and what a foreign file is told.

One long file, because all of its parts work on the same exported model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from l2p.errors import L2PError, MissingFileError, ModelError, SourceError
from l2p.files import read_json, write_json
from l2p.models.delta import load_pixel_model, open_delta, read_delta_card, save_delta
from l2p.models.families import read_known
from l2p.models.formats.entries import Entry
from l2p.models.formats.exporting import export_file, plan_file
from l2p.models.formats.importing import import_file
from l2p.models.formats.official import from_official, to_official
from l2p.models.formats.pipeline_folder import export_pipeline
from l2p.models.formats.stream import write_tensors
from l2p.models.graft import build_empty, graft
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.sampling import draw_images, encode_prompts
from l2p.models.source import SourcePin, pin_source
from tests.models.test_official_numerics import to_comfyui

SAMPLER = {"num_steps": 2, "guidance_scale": 1.0, "shift": 3.0}
HEAD_1K, HEAD_4K = (64, 128, 256, 512), (16, 32, 64, 128, 256, 512)
PREFIX = "model.diffusion_model."

Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def pin(tiny_source: Path) -> SourcePin:
    return pin_source(str(tiny_source))


@pytest.fixture(scope="module")
def delta(pin: SourcePin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pixel model that the official layout can express, with a trained block."""
    return save_trained(pin, tmp_path_factory.mktemp("delta") / "pixel")


@pytest.fixture(scope="module")
def official(delta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its export in the official layout."""
    return export(delta, tmp_path_factory.mktemp("official") / "model.safetensors")


@pytest.fixture(scope="module")
def bfloat16_source(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> SourcePin:
    """The tiny source with its transformer in bfloat16, as Z-Image-Turbo has it."""
    folder = Path(shutil.copytree(tiny_source, tmp_path_factory.mktemp("source") / "bfloat16"))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    return pin_source(str(folder))


def save_trained(pin: SourcePin, folder: Path, **settings: Any) -> Path:
    given: dict[str, Any] = {"patch_size": 16, "head_widths": (4, 8, 8, 16), "prediction": "velocity"}
    model = graft(pin, seed=0, **(given | settings))
    trained = [name for name in model.state_dict() if name.startswith("dit.layers.0.")]
    for name in trained:
        model.get_parameter(name).data += 0.01
    save_delta(model, folder, pin=pin, names=trained, sampler=SAMPLER)
    return folder


def export(delta: Path, path: Path, *, comfyui: bool = False, dtype: torch.dtype | None = None) -> Path:
    stored = open_delta(delta)
    export_file(stored, path, plan_file(stored.model, stored.tensors, comfyui=comfyui, dtype=dtype))
    return path


def velocity(delta: Path) -> Tensor:
    """Of one noisy image whose 15 tokens are no multiple of 32."""
    model, generator = load_pixel_model(delta), torch.Generator().manual_seed(0)
    pixels, caption = torch.randn(1, 3, 48, 80, generator=generator), torch.randn(7, 32, generator=generator)
    with torch.no_grad():
        return model(pixels, torch.tensor([0.6]), model.adapter.collate([{"cap_feats": caption}]))


def same(first: Tensors, second: Tensors) -> bool:
    """Same names, and the same dtype, shape and bytes for each."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and torch.equal(tensor.flatten().view(torch.uint8), second[name].flatten().view(torch.uint8))
        for name, tensor in first.items()
    )


# the published layout


def published_shapes(patch: int, head: dict[str, list[int]]) -> dict[str, list[int]]:
    """All names and shapes of an official checkpoint on Z-Image, block by block as they are published."""
    shapes: dict[str, list[int]] = {
        f"all_x_embedder.{patch}-1.weight": [3840, 3 * patch**2],
        f"all_x_embedder.{patch}-1.bias": [3840],
        "cap_embedder.0.weight": [2560],
        "cap_embedder.1.weight": [3840, 2560],
        "cap_embedder.1.bias": [3840],
        "t_embedder.mlp.0.weight": [1024, 256],
        "t_embedder.mlp.0.bias": [1024],
        "t_embedder.mlp.2.weight": [256, 1024],
        "t_embedder.mlp.2.bias": [256],
        "x_pad_token": [1, 3840],
        "cap_pad_token": [1, 3840],
    }
    lists = {"noise_refiner": 2, "context_refiner": 2, "layers": 30}
    for block in (f"{name}.{index}" for name, count in lists.items() for index in range(count)):
        shapes |= {f"{block}.attention.{part}.weight": [3840, 3840] for part in ("to_q", "to_k", "to_v", "to_out.0")}
        shapes |= {f"{block}.attention.norm_{part}.weight": [128] for part in "qk"}
        shapes |= {f"{block}.feed_forward.{part}.weight": [10240, 3840] for part in ("w1", "w3")}
        shapes |= {f"{block}.feed_forward.w2.weight": [3840, 10240]}
        shapes |= {f"{block}.{norm}.weight": [3840] for norm in ("attention_norm1", "attention_norm2")}
        shapes |= {f"{block}.{norm}.weight": [3840] for norm in ("ffn_norm1", "ffn_norm2")}
        if not block.startswith("context_refiner"):
            shapes |= {f"{block}.adaLN_modulation.0.weight": [15360, 256], f"{block}.adaLN_modulation.0.bias": [15360]}
    for name, shape in head.items():
        shapes |= {f"local_decoder.{name}.weight": shape, f"local_decoder.{name}.bias": shape[:1]}
    return shapes


DECODER_1K = {
    "enc1.0": [64, 3, 3, 3],
    "enc2.0": [128, 64, 3, 3],
    "enc3.0": [256, 128, 3, 3],
    "enc4.0": [512, 256, 3, 3],
    "bottleneck.0": [512, 4352, 1, 1],
    "up4.1": [512, 512, 3, 3],
    "dec4.0": [256, 1024, 3, 3],
    "up3.1": [256, 256, 3, 3],
    "dec3.0": [128, 512, 3, 3],
    "up2.1": [128, 128, 3, 3],
    "dec2.0": [64, 256, 3, 3],
    "up1.1": [64, 64, 3, 3],
    "dec1.0": [64, 128, 3, 3],
    "out_conv": [3, 64, 1, 1],
}
DECODER_4K = DECODER_1K | {
    "enc0.0": [16, 3, 3, 3],
    "enc0b.0": [32, 16, 3, 3],
    "enc1.0": [64, 32, 3, 3],
    "dec1.0": [32, 128, 3, 3],
    "up0b.1": [32, 32, 3, 3],
    "dec0b.0": [16, 64, 3, 3],
    "up0.1": [16, 16, 3, 3],
    "dec0.0": [16, 32, 3, 3],
    "out_conv": [3, 16, 1, 1],
}


def full_size(*, patch: int, widths: tuple[int, ...], comfyui: bool = False) -> list[Entry]:
    known = read_known("z-image")
    config = {"source_class": known.transformer_class, "source_config": known.settings}
    with torch.device("meta"):
        model = build_empty(config | {"patch_size": patch, "head_widths": widths, "prediction": "velocity"})
    return plan_file(model, model.state_dict(), comfyui=comfyui)


def test_the_full_size_export_has_the_545_published_tensors() -> None:
    entries = full_size(patch=16, widths=HEAD_1K)
    assert {entry.name: list(entry.shape) for entry in entries} == published_shapes(16, DECODER_1K)
    assert len(entries) == 545
    assert sum(entry.parameters for entry in entries) == 6_166_464_515


def test_the_full_size_4k_export_has_the_published_names_of_its_outer_levels() -> None:
    entries = full_size(patch=64, widths=HEAD_4K)
    assert {entry.name: list(entry.shape) for entry in entries} == published_shapes(64, DECODER_4K)


def test_the_full_size_comfyui_export_fuses_the_projections_and_renames_what_comfyui_renames() -> None:
    entries = full_size(patch=16, widths=HEAD_1K, comfyui=True)
    shapes = {entry.name: list(entry.shape) for entry in entries}
    assert all(name.startswith(PREFIX) for name in shapes)
    assert len(shapes) == 545 - 2 * 34
    assert sum(entry.parameters for entry in entries) == 6_166_464_515
    assert shapes[f"{PREFIX}x_embedder.weight"] == [3840, 768]
    assert shapes[f"{PREFIX}layers.29.attention.qkv.weight"] == [11520, 3840]
    assert shapes[f"{PREFIX}layers.29.attention.out.weight"] == [3840, 3840]
    assert shapes[f"{PREFIX}context_refiner.1.attention.q_norm.weight"] == [128]
    assert shapes[f"{PREFIX}noise_refiner.0.attention.k_norm.weight"] == [128]
    assert shapes[f"{PREFIX}local_decoder.enc1.0.weight"] == [64, 3, 3, 3]  # by which ComfyUI knows the model
    assert not [name for name in shapes if "to_q" in name or "norm_q" in name or "all_x" in name]


def test_the_exported_embedder_reads_patches_channels_last_and_the_head_puts_out_the_opposite_sign(
    delta: Path, official: Path
) -> None:
    published, ours = load_file(official), load_pixel_model(delta).state_dict()
    pixels = torch.randn(3, 16, 16)
    tokens = F.linear(F.pixel_unshuffle(pixels, 16).flatten(), ours["dit.all_x_embedder.1-1.weight"])
    in_official_order = pixels.permute(1, 2, 0).flatten()  # (ph, pw, c)
    torch.testing.assert_close(published["all_x_embedder.16-1.weight"] @ in_official_order, tokens)
    for part in ("weight", "bias"):
        assert torch.equal(published[f"local_decoder.out_conv.{part}"], -ours[f"head.out_conv.{part}"])
    assert torch.equal(published["layers.0.attention.to_q.weight"], ours["dit.layers.0.attention.to_q.weight"])


# both directions


@pytest.mark.parametrize("comfyui", [False, True], ids=["official", "comfyui"])
@pytest.mark.parametrize("dtype", [None, torch.float32], ids=["keep", "float32"])
def test_export_import_export_gives_the_same_bytes_and_the_same_velocity(
    delta: Path, pin: SourcePin, tmp_path: Path, comfyui: bool, dtype: torch.dtype | None
) -> None:
    first = export(delta, tmp_path / "first" / "model.safetensors", comfyui=comfyui, dtype=dtype)
    found = import_file(first, tmp_path / "imported", pin=pin)
    again = export(tmp_path / "imported", tmp_path / "again" / "model.safetensors", comfyui=comfyui, dtype=dtype)
    assert first.read_bytes() == again.read_bytes()
    assert (tmp_path / "first" / "config.json").read_bytes() == (tmp_path / "again" / "config.json").read_bytes()
    assert torch.equal(velocity(delta), velocity(tmp_path / "imported"))
    assert (found.new, found.changed) == (30, 15)
    assert found.spelling == ("ComfyUI's spelling" if comfyui else "official layout")
    assert read_delta_card(tmp_path / "imported") == read_delta_card(delta)


def test_comfyuis_spelling_and_the_official_layout_hold_the_same_model(
    delta: Path, official: Path, tmp_path: Path
) -> None:
    comfyui = load_file(export(delta, tmp_path / "comfyui.safetensors", comfyui=True))
    assert same(to_comfyui(load_file(official)), comfyui)


def unprefixed(tensors: Tensors) -> Tensors:
    return {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}


def embedder_as_published(tensors: Tensors) -> Tensors:
    return {name.replace("x_embedder", "all_x_embedder.16-1"): tensor for name, tensor in tensors.items()}


def half_fused(tensors: Tensors) -> Tensors:
    fused = unprefixed(to_comfyui(tensors))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("layers.1.")} | {
        name: tensor for name, tensor in fused.items() if name.startswith("layers.1.")
    }


@pytest.mark.parametrize(
    "respell",
    [
        to_comfyui,
        lambda tensors: unprefixed(to_comfyui(tensors)),
        lambda tensors: embedder_as_published(to_comfyui(tensors)),
        lambda tensors: {PREFIX + name: tensor for name, tensor in tensors.items()},
        half_fused,
    ],
    ids=["comfyui", "without prefix", "numbered embedder", "prefix only", "some fused"],
)
def test_every_spelling_in_the_wild_is_read_as_the_same_model(
    official: Path, delta: Path, pin: SourcePin, tmp_path: Path, respell: Callable[[Tensors], Tensors]
) -> None:
    save_file(respell(load_file(official)), tmp_path / "wild.safetensors")
    import_file(tmp_path / "wild.safetensors", tmp_path / "imported", pin=pin)
    weights = "delta.safetensors"
    assert same(load_file(tmp_path / "imported" / weights), load_file(delta / weights))


def test_a_file_whose_fused_projections_changed_places_is_another_model(
    official: Path, delta: Path, pin: SourcePin, tmp_path: Path
) -> None:
    tensors = to_comfyui(load_file(official))
    name = f"{PREFIX}layers.1.attention.qkv.weight"
    q, k, v = tensors[name].chunk(3)
    save_file(tensors | {name: torch.cat([v, q, k])}, tmp_path / "turned.safetensors")
    found = import_file(tmp_path / "turned.safetensors", tmp_path / "imported", pin=pin)
    assert found.changed == 15 + 3
    assert not torch.equal(velocity(tmp_path / "imported"), velocity(delta))


def test_a_4k_model_comes_back_with_its_six_levels_and_the_4k_sampler(pin: SourcePin, tmp_path: Path) -> None:
    delta = save_trained(pin, tmp_path / "pixel", patch_size=64, head_widths=(4, 4, 4, 8, 8, 8))
    path = export(delta, tmp_path / "exported" / "4k.safetensors")
    assert load_file(path)["local_decoder.enc0b.0.weight"].shape == (4, 4, 3, 3)
    path.with_name("config.json").unlink()
    import_file(path, tmp_path / "imported", pin=pin)
    assert same(load_file(tmp_path / "imported" / "delta.safetensors"), load_file(delta / "delta.safetensors"))
    assert read_delta_card(tmp_path / "imported")["sampler"] == {"num_steps": 50, "guidance_scale": 3.0, "shift": 5.0}


# precision


def test_keep_leaves_frozen_tensors_as_in_the_source_and_trained_ones_as_in_the_delta(
    bfloat16_source: SourcePin, tmp_path: Path
) -> None:
    delta = save_trained(bfloat16_source, tmp_path / "pixel")
    tensors = load_file(export(delta, tmp_path / "exported" / "model.safetensors"))
    assert tensors["layers.1.attention.to_q.weight"].dtype == torch.bfloat16
    assert tensors["layers.0.attention.to_q.weight"].dtype == torch.float32
    assert tensors["local_decoder.out_conv.bias"].dtype == torch.float32
    assert tensors["all_x_embedder.16-1.weight"].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_dtype_is_that_of_every_tensor(delta: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = load_file(export(delta, tmp_path / "model.safetensors", dtype=dtype))
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    ours = load_pixel_model(delta).state_dict()["head.bottleneck.0.weight"]
    assert torch.equal(tensors["local_decoder.bottleneck.0.weight"], ours.to(dtype))


def test_frozen_tensors_that_were_only_widened_count_as_the_sources_own(
    bfloat16_source: SourcePin, tmp_path: Path
) -> None:
    """The official release holds frozen layers in float32, and its source holds them in bfloat16."""
    delta = save_trained(bfloat16_source, tmp_path / "pixel")
    wide = export(delta, tmp_path / "wide" / "model.safetensors", dtype=torch.float32)
    found = import_file(wide, tmp_path / "imported", pin=bfloat16_source)
    assert (found.new, found.changed) == (30, 15)
    kept, again = tmp_path / "kept" / "model.safetensors", tmp_path / "again" / "model.safetensors"
    assert export(delta, kept).read_bytes() == export(tmp_path / "imported", again).read_bytes()


def test_frozen_tensors_that_were_rounded_are_changed_ones(delta: Path, pin: SourcePin, tmp_path: Path) -> None:
    narrow = export(delta, tmp_path / "narrow" / "model.safetensors", dtype=torch.bfloat16)
    found = import_file(narrow, tmp_path / "imported", pin=pin)
    assert found.changed > 50
    assert torch.allclose(velocity(tmp_path / "imported"), velocity(delta), atol=0.05)


def test_a_value_that_float16_cannot_hold_is_refused_by_name(pin: SourcePin, tmp_path: Path) -> None:
    model = graft(pin, seed=0, patch_size=16, head_widths=(4, 8, 8, 16), prediction="velocity")
    model.head.out_conv.bias.data[0] = 1e6
    save_delta(model, tmp_path / "pixel", pin=pin, names=[], sampler=SAMPLER)
    with pytest.raises(ModelError, match=r"local_decoder\.out_conv\.bias: has values beyond float16's 65,504"):
        export(tmp_path / "pixel", tmp_path / "model.safetensors", dtype=torch.float16)
    assert not (tmp_path / "model.safetensors").exists()


# the file


def test_tensors_written_one_by_one_are_a_file_that_safetensors_reads(tmp_path: Path) -> None:
    """Odd sizes of mixed width in a bad order: each must still begin where its type may."""
    written = {
        "b": torch.randn(3).bfloat16(),
        "a": torch.randn(5, 7),
        "scalar": torch.tensor(2.5, dtype=torch.float16),
        "empty": torch.zeros(0, 4),
        "d": torch.randn(3, dtype=torch.float64),
    }
    entries = [Entry(name, tuple(tensor.shape), tensor.dtype, ()) for name, tensor in written.items()]
    write_tensors(tmp_path / "x.safetensors", entries, lambda entry: written[entry.name])
    assert same(load_file(tmp_path / "x.safetensors"), written)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail(entry: Entry) -> Tensor:
        raise OSError("disk full")

    path = tmp_path / "x.safetensors"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="disk full"):
        write_tensors(path, [Entry("a", (1,), torch.float32, ())], fail)
    assert path.read_bytes() == b"before"


def test_no_more_than_one_tensor_is_read_before_the_last_is_written(tmp_path: Path) -> None:
    path, sizes = tmp_path / "x.safetensors", []
    partial = tmp_path / "x.safetensors.partial"

    def read(entry: Entry) -> Tensor:
        sizes.append(partial.stat().st_size)
        return torch.zeros(entry.shape)

    write_tensors(path, [Entry(name, (1 << 16,), torch.float32, ()) for name in "abcd"], read)
    assert sizes[-1] > 3 * (4 << 16)


def test_config_json_beside_the_file_holds_the_model_and_its_sampler(official: Path) -> None:
    config = read_json(official.with_name("config.json"), written_by="export")
    assert config["_class_name"] == "PixelTransformer"
    assert (config["patch_size"], config["head_widths"]) == (16, [4, 8, 8, 16])
    assert config["source_config"]["dim"] == 64
    assert config["sampler"] == SAMPLER


def test_a_second_model_in_one_folder_is_refused_and_a_new_version_of_the_same_file_is_not(
    delta: Path, pin: SourcePin, tmp_path: Path
) -> None:
    other = save_trained(pin, tmp_path / "pixel", head_widths=(4, 4, 4, 4))
    export(delta, tmp_path / "out" / "first.safetensors")
    export(delta, tmp_path / "out" / "comfyui.safetensors", comfyui=True)
    with pytest.raises(ModelError, match=r"config\.json: describes another model, comfyui\.safetensors"):
        export(other, tmp_path / "out" / "second.safetensors")
    export(delta, tmp_path / "alone" / "model.safetensors")
    export(other, tmp_path / "alone" / "model.safetensors")
    assert read_json(tmp_path / "alone" / "config.json", written_by="export")["head_widths"] == [4, 4, 4, 4]


# what the layout cannot express


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": "x0"}, "prediction = 'x0'"),
        ({"snr_scale": 0.5}, r"snr_scale = 0\.5"),
        ({"pixel_mean": (0.1, 0.0, 0.0)}, r"pixel_mean = \[0\.1, 0\.0, 0\.0\]"),
        ({"linear_readout": True}, "linear_readout = True"),
        ({"head_type": "unet"}, "head_type = 'unet'"),
        ({"embedder_rank": 8}, "embedder_rank = 8"),
    ],
)
def test_a_model_that_the_layout_cannot_express_is_refused_with_the_format_that_can(
    pin: SourcePin, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    delta = save_trained(pin, tmp_path / "pixel", **settings)
    for comfyui in (False, True):
        with pytest.raises(ModelError, match=f"{message}.*--format diffusers"):
            export(delta, tmp_path / "model.safetensors", comfyui=comfyui)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("lumina2", {}, "source_class = 'Lumina2Transformer2DModel'"),
        ("z-image", {"siglip_feat_dim": 1152}, r"source_config\.siglip_feat_dim"),
    ],
)
def test_a_source_that_the_layout_cannot_express_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    known = read_known(name)
    config = {"source_class": known.transformer_class, "source_config": known.settings | changes}
    with torch.device("meta"):
        model = build_empty(config | {"prediction": "velocity"})
    with pytest.raises(ModelError, match=f"{message}.*--format diffusers"):
        plan_file(model, model.state_dict(), comfyui=False)


# what a foreign file is told


def changed(path: Path, change: Callable[[Tensors], Tensors], folder: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(path)).items()}, folder / "x.safetensors")
    return folder / "x.safetensors"


def without(tensors: Tensors, *starts: str) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(starts)}


def renamed(tensors: Tensors, before: str, after: str) -> Tensors:
    return {name.replace(before, after): tensor for name, tensor in tensors.items()}


LATENT = {"all_x_embedder.2-1.weight": torch.zeros(64, 64), "all_final_layer.2-1.linear.weight": torch.zeros(64, 64)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {"layers.0.attention.to_q.lora_A.weight": torch.zeros(4, 64)}, "a LoRA.*Expected a Z-Image pixel"),
        (lambda t: without(t, "local_decoder.", "all_x") | LATENT, "a latent Z-Image model.*l2p convert"),
        (lambda t: {"unet.conv_in.weight": torch.zeros(3)}, r"not a pixel model \(first tensors \['unet\.conv_in"),
        (lambda t: {"head.out_conv.bias": torch.zeros(3)}, "weights in our own layout.*the folder they lie in"),
        (lambda t: without(t, "local_decoder.") | {"dec_net.cond_embed.weight": torch.zeros(3)}, "a head `dec_net`"),
        (lambda t: t | {"local_decoder.enc_8k.0.weight": torch.zeros(3, 3, 3, 3)}, "an 8K or 10K model"),
        (
            lambda t: t | {"layers.0.feed_forward.w1.weight": torch.zeros(2, dtype=torch.int8)},
            "stored as I8.*quantized",
        ),
        (lambda t: without(t, "all_x_embedder"), "patch embedders found: none. Expected one"),
        (
            lambda t: t | {"all_x_embedder.16-1.weight": torch.zeros(64, 64)},
            r"all_x_embedder\.16-1\.weight has shape \[64, 64\]. Expected \[D, 3 P P\]",
        ),
        (lambda t: renamed(t, "16-1", "64-1"), "768 columns, so patch 16, and patch 64 by its name"),
        (lambda t: without(t, "local_decoder.enc2"), "levels of the head are 1, 3, 4. Expected"),
        (
            lambda t: without(t, "layers.2.attention.to_k", "cap_pad_token"),
            r"2 tensors are missing, first \['cap_pad_token', 'layers\.2\.attention\.to_k\.weight'\]. Expected the 112",
        ),
        (lambda t: t | {"layers.3.ffn_norm1.weight": torch.ones(64)}, r"1 tensors are unexpected, first \['layers\.3"),
        (
            lambda t: t | {f"{PREFIX}layers.2.ffn_norm1.weight": torch.ones(64)},
            r"1 tensors are given twice, first \['layers\.2\.ffn_norm1",
        ),
        (
            lambda t: t | {"cap_embedder.1.weight": torch.zeros(64, 48)},
            r"cap_embedder\.1\.weight has shape \[64, 48\]. Expected .*64, 32.*width of 64, 3 layers.*another source",
        ),
        (
            lambda t: to_comfyui(t) | {f"{PREFIX}layers.1.attention.qkv.weight": torch.zeros(128, 64)},
            r"layers\.1\.attention\.qkv\.weight has shape \[128, 64\]. Expected",
        ),
    ],
    ids=lambda value: value.split(".*")[0][:40] if isinstance(value, str) else "",
)
def test_a_file_that_is_no_pixel_model_of_this_source_is_told_what_was_expected(
    official: Path, pin: SourcePin, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    path = changed(official, change, tmp_path)
    with pytest.raises(ModelError, match=message) as error:
        import_file(path, tmp_path / "imported", pin=pin)
    assert str(path) in str(error.value)
    assert not (tmp_path / "imported").exists()


def test_a_truncated_file_is_told_its_sizes(official: Path, pin: SourcePin, tmp_path: Path) -> None:
    path, size = tmp_path / "x.safetensors", official.stat().st_size
    path.write_bytes(official.read_bytes()[:-1000])
    with pytest.raises(ModelError, match=f"{size - 1000:,} bytes, but its header promises {size:,}"):
        import_file(path, tmp_path / "imported", pin=pin)


@pytest.mark.parametrize("content", [b"", b"PK", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146"])
def test_a_file_that_is_no_safetensors_is_refused(pin: SourcePin, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"x\.safetensors: cannot be read as safetensors"):
        import_file(tmp_path / "x.safetensors", tmp_path / "imported", pin=pin)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_without_being_opened(pin: SourcePin, tmp_path: Path, zipped: bool) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match="a pickled PyTorch file, which can run code"):
        import_file(tmp_path / "x.ckpt", tmp_path / "imported", pin=pin)


def test_a_missing_file_and_an_existing_folder_are_refused(official: Path, pin: SourcePin, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.safetensors: no such file"):
        import_file(tmp_path / "nowhere.safetensors", tmp_path / "imported", pin=pin)
    with pytest.raises(ModelError, match=r"exists\. Remove it, or give another --out"):
        import_file(official, tmp_path, pin=pin)


def test_a_source_of_another_family_is_refused(official: Path, pin: SourcePin, tmp_path: Path) -> None:
    other = replace(pin, transformer_class="Lumina2Transformer2DModel")
    with pytest.raises(ModelError, match="Lumina2Transformer2DModel: official pixel models stand on ZImageTransformer"):
        import_file(official, tmp_path / "imported", pin=other)


def test_a_config_json_that_contradicts_the_weights_is_refused(official: Path, pin: SourcePin, tmp_path: Path) -> None:
    path = Path(shutil.copy(official, tmp_path / "model.safetensors"))
    config = read_json(official.with_name("config.json"), written_by="export")
    for setting, value in (("patch_size", 8), ("head_widths", [4, 8]), ("prediction", "x0")):
        write_json(tmp_path / "config.json", config | {setting: value})
        with pytest.raises(ModelError, match=rf"config\.json: {setting} = "):
            import_file(path, tmp_path / "imported", pin=pin)
    write_json(tmp_path / "config.json", config | {"source_config": config["source_config"] | {"rope_theta": 10000.0}})
    with pytest.raises(ModelError, match=r"source_config\.rope_theta = 10000\.0"):
        import_file(path, tmp_path / "imported", pin=pin)


def test_without_a_config_of_ours_the_sampler_is_the_official_one(
    official: Path, pin: SourcePin, tmp_path: Path
) -> None:
    """The official cfg_scale 2 is v_u + 2 (v_c - v_u), which is a guidance scale of 1 here (decision 0001)."""
    path = Path(shutil.copy(official, tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "SomebodyElses"}), encoding="utf-8")
    import_file(path, tmp_path / "imported", pin=pin)
    assert read_delta_card(tmp_path / "imported")["sampler"] == {"num_steps": 30, "guidance_scale": 1.0, "shift": 3.0}


def test_a_source_that_changed_since_it_was_pinned_is_refused(
    tiny_source: Path, official: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    pin = pin_source(str(folder))
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(SourceError, match=r"scheduler_config\.json: differs from the pin"):
        import_file(official, tmp_path / "imported", pin=pin)


def test_an_imported_model_stands_on_its_source_and_refuses_another(
    official: Path, bfloat16_source: SourcePin, pin: SourcePin, tmp_path: Path
) -> None:
    import_file(official, tmp_path / "imported", pin=pin)
    card = read_delta_card(tmp_path / "imported")
    assert card["source"]["digest"] == pin.digest
    write_json(tmp_path / "imported" / "delta.json", card | {"source": card["source"] | {"path": bfloat16_source.path}})
    with pytest.raises(L2PError, match="differs from the pin"):
        load_pixel_model(tmp_path / "imported")
    with pytest.raises(L2PError, match="differs from the pin"):
        open_delta(tmp_path / "imported")


def test_to_official_is_undone_exactly(delta: Path) -> None:
    for name, tensor in load_pixel_model(delta).state_dict().items():
        assert torch.equal(from_official(name, to_official(name, tensor)), tensor), name


# a whole pipeline


def drawing(pipeline: Any) -> Any:
    embeddings = encode_prompts(pipeline, ["a photo of a red circle", ""])
    settings: dict[str, Any] = {"size_px": (48, 80), "num_steps": 2, "guidance_scale": 1.0, "seeds": [3]}
    return draw_images(pipeline, embeddings[:1], empty=embeddings[1], **settings)


def test_an_imported_export_draws_what_the_model_draws(
    delta: Path, official: Path, pin: SourcePin, tmp_path: Path
) -> None:
    import_file(official, tmp_path / "imported", pin=pin)
    drawn = drawing(load_pixel_pipeline(delta))
    assert drawn.std() > 10
    assert (drawing(load_pixel_pipeline(tmp_path / "imported")) == drawn).all()


@pytest.mark.parametrize("settings", [{}, {"prediction": "x0", "linear_readout": True, "snr_scale": 0.5}])
def test_an_exported_pipeline_draws_in_diffusers_what_the_model_draws(
    bfloat16_source: SourcePin, tmp_path: Path, settings: dict[str, Any]
) -> None:
    delta = save_trained(bfloat16_source, tmp_path / "pixel", **settings)
    export_pipeline(open_delta(delta), tmp_path / "pipeline", None)
    stored = load_file(tmp_path / "pipeline" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored["dit.layers.1.attention.to_q.weight"].dtype == torch.bfloat16
    assert stored["dit.layers.0.attention.to_q.weight"].dtype == torch.float32
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "pipeline", dtype=torch.float32)
    assert pipeline.config.num_inference_steps == SAMPLER["num_steps"]
    assert pipeline.scheduler.config.shift == SAMPLER["shift"]
    drawn = drawing(load_pixel_pipeline(delta))
    assert (drawing(pipeline) == drawn).all()
    assert (drawing(load_pixel_pipeline(tmp_path / "pipeline")) == drawn).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_exported_pipeline_has_one_dtype_if_asked(delta: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    export_pipeline(open_delta(delta), tmp_path / "pipeline", dtype)
    for file in ("transformer/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert {tensor.dtype for tensor in load_file(tmp_path / "pipeline" / file).values()} == {dtype}


def test_a_pipeline_is_not_written_over_a_folder_that_exists(delta: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"exists\. Remove it, or give another --out"):
        export_pipeline(open_delta(delta), tmp_path, None)
