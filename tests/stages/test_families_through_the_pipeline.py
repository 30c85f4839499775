"""Every family goes through the same stages: pinned, drawn, embedded, converted, trained, and drawn from again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from l2p.commands.stages import run_stage
from l2p.config import Layout, load_params
from l2p.errors import ModelError
from l2p.models.adapters import ADAPTERS
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.graft import kept_tensors
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.source import SourcePin
from tests.conftest import small_params
from tests.families.tiny import FAMILIES, PX_PER_TOKEN, TEXTS, build_tiny_family

STAGES = ("source", "prompts", "embed", "synthesize", "validate", "convert", "train")
FITTED = ("FluxTransformer2DModel", "SD3Transformer2DModel", "Lumina2Transformer2DModel")  # packed, convolved, linear


@pytest.mark.parametrize("family", FAMILIES, ids=lambda name: name.removesuffix("Transformer2DModel"))
def test_a_source_is_converted_from_end_to_end(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(family, build_tiny_family(family, tmp_path / "source"))
    for stage in STAGES:
        run_stage(stage, Path("params.yaml"))
    pin, model = SourcePin.load(Layout.source), load_pixel_model(Layout.pixel)
    init = load_pixel_model(Layout.init).state_dict()
    stored, kept = set(read_delta_card(Layout.pixel)["tensors"]), kept_tensors(model, pin)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, init[name])}
    assert set(model.new_tensors()) <= stored
    assert changed <= stored
    assert {name for name in changed if name in kept}, "of the source's own blocks none was trained"
    for name in set(kept) - stored:
        assert torch.equal(model.state_dict()[name], kept[name].read()), name
    image = load_pixel_pipeline(Layout.pixel)(
        TEXTS[0], height=2 * PX_PER_TOKEN[family], width=3 * PX_PER_TOKEN[family], num_inference_steps=2
    ).images[0]
    assert isinstance(image, Image.Image)
    assert np.asarray(image).std() > 1


def write_params(family: str, source: Path) -> None:
    """Small numbers, sizes that the family can draw, and its own guidance."""
    params, adapter = small_params(source), ADAPTERS[family]
    patch = adapter.native_patch_px
    params["synthesize"] |= {"height_px": 2 * patch, "width_px": 2 * patch, "guidance_scale": adapter.no_guidance}
    params["validate"] |= {"min_contrast": 0.0, "max_duplicate_share": 1.0, "min_accepted_share": 0.1}
    params["convert"] |= {"patch_size_px": patch}
    params["convert"]["head"]["widths"] = [4, 4, 8, 8, 8][: patch.bit_length() - 1]
    params["train"] |= {"num_steps": 2, "checkpoint_every": 2, "sample_every": 2}
    params["sampling"]["pixel"] |= {"guidance_scale": adapter.no_guidance, "shift": 3.0}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    load_params(Path("params.yaml"))


@pytest.mark.parametrize("family", FITTED, ids=lambda name: name.removesuffix("Transformer2DModel"))
def test_the_fitted_start_serves_other_families(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(family, build_tiny_family(family, tmp_path / "source"))
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["convert"] |= {"init": "fitted", "prediction": "x0"}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for stage in ("source", "prompts", "embed", "synthesize", "validate", "convert"):
        run_stage(stage, Path("params.yaml"))
    model = load_pixel_model(Layout.init)
    assert model.config.snr_scale > 0
    assert model.config.snr_scale != 1
    image = load_pixel_pipeline(Layout.init)(TEXTS[0], height=32, width=48, num_inference_steps=2).images[0]
    assert np.isfinite(np.asarray(image)).all()


def test_a_source_with_another_autoencoder_is_told_to_start_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params("QwenImageTransformer2DModel", build_tiny_family("QwenImageTransformer2DModel", tmp_path / "source"))
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["convert"] |= {"init": "fitted", "prediction": "x0"}
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    for stage in ("source", "prompts", "embed", "synthesize", "validate"):
        run_stage(stage, Path("params.yaml"))
    with pytest.raises(ModelError, match=r"AutoencoderKLQwenImage.*init: random"):
        run_stage("convert", Path("params.yaml"))
