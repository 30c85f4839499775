"""Shared pieces of the tests: a tiny source of the real classes, and a workspace with small parameters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[1]


def build_tiny_source(folder: Path) -> Path:
    """Save a randomly initialised ZImagePipeline for 64x64 images with the shapes vocabulary."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    from l2p.shapes.recipe.text import build_tokenizer

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=512,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
        shift_factor=0.0,
        scaling_factor=1.0,
    )
    transformer = ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=64,
        n_layers=3,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[8, 12, 12],
        axes_lens=[600, 64, 64],
    )
    for parameter in transformer.parameters():  # zeros would hide errors
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=0.02)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=2.0)
    pipeline = ZImagePipeline(
        scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny, randomly initialised source; do not write into it."""
    return build_tiny_source(tmp_path_factory.mktemp("source") / "tiny")


def small_params(source: Path) -> dict:
    """The repository's params.yaml with a tiny source and small numbers."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["source"]["path"] = str(source)
    params["prompts"]["count"] = 12
    params["synthesize"] |= {"images_per_prompt": 1, "num_steps": 2, "batch_size": 4, "guidance_scale": 0.0}
    # an untrained source shows nothing of its prompts, and much the same for each
    params["validate"] |= {"agreement": "none", "near_levels_within_prompt": None, "near_levels_across_prompts": None}
    params["validate"] |= {"min_class_share": None, "max_class_share": None}
    params["convert"] |= {"head": {"type": "official", "widths": [4, 8, 8, 16]}, "init": "random"}
    params["train"] |= {
        "num_steps": 6,
        "batch_size": 4,
        "warmup_steps": 1,
        "checkpoint_every": 2,
        "log_every": 1,
        "sample_every": 3,
        "validation_images": 2,
        "validate_every": 3,
        "compile_blocks": False,
        "dtype": "float32",
    }
    for sampler in ("source", "pixel"):
        params["sampling"][sampler] |= {"num_steps": 2, "guidance_scale": 0.0}
    params["geneval"]["images_per_prompt"] = params["dpg"]["images_per_prompt"] = 1
    return params


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_source: Path) -> Path:
    """A temporary project folder, already the working directory, with a small params.yaml on the tiny source."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params(tiny_source)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_delta(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained pixel model (a delta) on the tiny source; do not write into it."""
    from l2p.models.delta import save_delta
    from l2p.models.graft import graft
    from l2p.models.source import pin_source

    folder = tmp_path_factory.mktemp("delta") / "pixel"
    pin = pin_source(str(tiny_source))
    model = graft(pin, seed=0, patch_size=16, head_widths=(4, 8, 8, 16), prediction="x0", snr_scale=1.0)
    sampler = {"num_steps": 2, "guidance_scale": 0.0, "shift": 3.0}
    save_delta(model, folder, pin=pin, names=model.new_tensors(), sampler=sampler)
    return folder
