"""Owns a tiny, randomly initialised, complete source pipeline of the real classes for each supported transformer class.

Image sizes must be multiples of `PX_PER_TOKEN`, and one token is enough everywhere. For other sizes FLUX.1, FLUX.2,
Qwen-Image and Chroma round down with a warning, and the rest raise ValueError. At most so many tokens along a side:
AuraFlow 16, SD3 24, Z-Image 64. Sana's resolution binning, on by default, draws a megapixel and scales it down: `DRAW`
turns it off. Qwen-Image needs two steps: with one, its sigmas are not numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin

from tests.families import tiny_text_encoders as encoders
from tests.families import tiny_tokenizers as tokenizers
from tests.families import tiny_vaes as vaes
from tests.families.tiny_tokenizers import TEXTS

__all__ = [
    "DRAW",
    "FAMILIES",
    "PX_PER_TOKEN",
    "TEXTS",
    "build_tiny_family",
    "family_folder",
    "tiny_pipeline",
    "tiny_transformer",
]

JOINT = {"num_attention_heads": 2, "attention_head_dim": 32, "joint_attention_dim": 32}
FLUX = JOINT | {"num_layers": 2, "num_single_layers": 3, "axes_dims_rope": (8, 12, 12)}
SMALL_HEADS = {"num_attention_heads": 4, "attention_head_dim": 16}

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "ZImageTransformer2DModel": {
        "dim": 64,
        "n_layers": 4,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": encoders.WIDTH,
        "axes_dims": [8, 12, 12],
        "axes_lens": [600, 64, 64],
    },
    "FluxTransformer2DModel": FLUX | {"pooled_projection_dim": 24, "guidance_embeds": True},
    "Flux2Transformer2DModel": FLUX
    | {"joint_attention_dim": 3 * encoders.MISTRAL_WIDTH, "axes_dims_rope": (8, 8, 8, 8)},
    "SD3Transformer2DModel": SMALL_HEADS
    | {
        "sample_size": 32,
        "num_layers": 4,
        "joint_attention_dim": 32,
        "caption_projection_dim": 64,
        "pooled_projection_dim": 24,
        "pos_embed_max_size": 24,
        "dual_attention_layers": (0, 1),
        "qk_norm": "rms_norm",
    },
    "QwenImageTransformer2DModel": JOINT | {"num_layers": 4, "axes_dims_rope": (8, 12, 12)},
    "Lumina2Transformer2DModel": {
        "sample_size": 32,
        "hidden_size": 48,
        "num_layers": 4,
        "num_refiner_layers": 1,
        "num_attention_heads": 2,
        "num_kv_heads": 1,
        "multiple_of": 16,
        "axes_dim_rope": (8, 8, 8),
        "cap_feat_dim": encoders.WIDTH,
    },
    "SanaTransformer2DModel": SMALL_HEADS
    | {
        "num_layers": 4,
        "num_cross_attention_heads": 4,
        "cross_attention_head_dim": 16,
        "cross_attention_dim": 64,
        "caption_channels": encoders.WIDTH,
        "qk_norm": "rms_norm_across_heads",
    },
    "AuraFlowTransformer2DModel": SMALL_HEADS
    | {
        "sample_size": 32,
        "num_mmdit_layers": 2,
        "num_single_dit_layers": 2,
        "joint_attention_dim": 32,
        "caption_projection_dim": 64,
        "pos_embed_max_size": 256,
    },
    "CogView4Transformer2DModel": SMALL_HEADS
    | {
        "num_layers": 4,
        "text_embed_dim": encoders.WIDTH,
        "time_embed_dim": 16,
        "condition_dim": 16,
        "rope_axes_dim": (16, 16),
    },
    "ChromaTransformer2DModel": FLUX
    | {"approximator_num_channels": 16, "approximator_hidden_dim": 32, "approximator_layers": 1},
}
FAMILIES: tuple[str, ...] = tuple(TRANSFORMERS)

# At the usual scale of the weights, a few words among hundreds of padding tokens hardly reach the image here.
GAINS = {"AuraFlowTransformer2DModel": 2.0, "Flux2Transformer2DModel": 2.0}

PIPELINES = {
    "ZImageTransformer2DModel": "ZImagePipeline",
    "FluxTransformer2DModel": "FluxPipeline",
    "Flux2Transformer2DModel": "Flux2Pipeline",
    "SD3Transformer2DModel": "StableDiffusion3Pipeline",
    "QwenImageTransformer2DModel": "QwenImagePipeline",
    "Lumina2Transformer2DModel": "Lumina2Pipeline",
    "SanaTransformer2DModel": "SanaPipeline",
    "AuraFlowTransformer2DModel": "AuraFlowPipeline",
    "CogView4Transformer2DModel": "CogView4Pipeline",
    "ChromaTransformer2DModel": "ChromaPipeline",
}

# Pixels along a side of one token: the stride of the autoencoder times the latent patch.
PX_PER_TOKEN = dict.fromkeys(FAMILIES, 16) | {"SanaTransformer2DModel": 32}

# How each pipeline is usually called, besides prompt, size and steps: its own guidance.
DRAW: dict[str, dict[str, Any]] = {
    "ZImageTransformer2DModel": {"guidance_scale": 5.0},
    "FluxTransformer2DModel": {"guidance_scale": 3.5},
    "Flux2Transformer2DModel": {"guidance_scale": 4.0},
    "SD3Transformer2DModel": {"guidance_scale": 7.0},
    "QwenImageTransformer2DModel": {"true_cfg_scale": 4.0, "negative_prompt": " "},
    "Lumina2Transformer2DModel": {"guidance_scale": 4.0},
    "SanaTransformer2DModel": {"guidance_scale": 4.5, "use_resolution_binning": False},
    "AuraFlowTransformer2DModel": {"guidance_scale": 3.5},
    "CogView4Transformer2DModel": {"guidance_scale": 5.0},
    "ChromaTransformer2DModel": {"guidance_scale": 5.0},
}

RESOLUTION_SHIFT = {"use_dynamic_shifting": True, "base_image_seq_len": 256, "max_image_seq_len": 4096}
FLUX_SHIFT = RESOLUTION_SHIFT | {"shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
SHIFTS: dict[str, dict[str, Any]] = {
    "ZImageTransformer2DModel": {"shift": 3.0},
    "FluxTransformer2DModel": FLUX_SHIFT,
    "Flux2Transformer2DModel": FLUX_SHIFT,
    "SD3Transformer2DModel": {"shift": 3.0},
    "QwenImageTransformer2DModel": RESOLUTION_SHIFT
    | {"max_image_seq_len": 8192, "shift": 1.0, "base_shift": 0.5, "max_shift": 0.9, "shift_terminal": 0.02},
    "Lumina2Transformer2DModel": {"shift": 6.0},
    "AuraFlowTransformer2DModel": {"shift": 1.73},
    "CogView4Transformer2DModel": RESOLUTION_SHIFT
    | {"shift": 1.0, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"},
    "ChromaTransformer2DModel": FLUX_SHIFT,
}


def flux_texts() -> dict[str, Any]:
    """CLIP's pooled vector and T5's tokens."""
    clip, t5 = tokenizers.clip_tokenizer(), tokenizers.t5_tokenizer()
    return {
        "tokenizer": clip,
        "text_encoder": encoders.clip(clip, width=24, projected=False),
        "tokenizer_2": t5,
        "text_encoder_2": encoders.t5(t5),
    }


def sd3_texts() -> dict[str, Any]:
    """Two CLIPs, together narrower than T5 and as wide as the pooled vector."""
    small, large = tokenizers.clip_tokenizer(), tokenizers.clip_tokenizer(pad_token="!")
    t5 = tokenizers.t5_tokenizer()
    return {
        "tokenizer": small,
        "text_encoder": encoders.clip(small, width=8, projected=True),
        "tokenizer_2": large,
        "text_encoder_2": encoders.clip(large, width=16, projected=True),
        "tokenizer_3": t5,
        "text_encoder_3": encoders.t5(t5),
    }


def flux2_texts() -> dict[str, Any]:
    """Mistral, behind a processor."""
    tokenizer = tokenizers.mistral_tokenizer()
    return {"tokenizer": encoders.pixtral_processor(tokenizer), "text_encoder": encoders.mistral3(tokenizer)}


def one_text(build_tokenizer: Callable[[], Any], build_encoder: Callable[[Any], Any]) -> Callable[[], dict[str, Any]]:
    """Parts of a pipeline that has a single text encoder."""

    def parts() -> dict[str, Any]:
        tokenizer = build_tokenizer()
        return {"tokenizer": tokenizer, "text_encoder": build_encoder(tokenizer)}

    return parts


TEXT_PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "ZImageTransformer2DModel": one_text(tokenizers.qwen_tokenizer, encoders.qwen3),
    "FluxTransformer2DModel": flux_texts,
    "Flux2Transformer2DModel": flux2_texts,
    "SD3Transformer2DModel": sd3_texts,
    "QwenImageTransformer2DModel": one_text(tokenizers.qwen_tokenizer, encoders.qwen_vl),
    "Lumina2Transformer2DModel": one_text(tokenizers.gemma_tokenizer, encoders.gemma2),
    "SanaTransformer2DModel": one_text(tokenizers.gemma_tokenizer, encoders.gemma2),
    "AuraFlowTransformer2DModel": one_text(tokenizers.t5_tokenizer, encoders.umt5),
    "CogView4Transformer2DModel": one_text(tokenizers.glm_tokenizer, encoders.glm),
    "ChromaTransformer2DModel": one_text(tokenizers.t5_tokenizer, encoders.t5),
}


def flux_vae() -> ModelMixin:
    """The autoencoder that FLUX.1, Z-Image, Lumina 2 and Chroma share."""
    return vaes.kl(16, scale=0.3611, shift=0.1159)


VAES: dict[str, Callable[[], ModelMixin]] = {
    "ZImageTransformer2DModel": flux_vae,
    "FluxTransformer2DModel": flux_vae,
    "Flux2Transformer2DModel": vaes.flux2,
    "SD3Transformer2DModel": lambda: vaes.kl(16, scale=1.5305, shift=0.0609),
    "QwenImageTransformer2DModel": vaes.qwen,
    "Lumina2Transformer2DModel": flux_vae,
    "SanaTransformer2DModel": vaes.deep_compression,
    "AuraFlowTransformer2DModel": lambda: vaes.kl(4, scale=0.13025, shift=None, quant_conv=True),
    "CogView4Transformer2DModel": lambda: vaes.kl(16, scale=1.0, shift=0.0),
    "ChromaTransformer2DModel": flux_vae,
}


def tiny_transformer(transformer_class: str) -> ModelMixin:
    """A tiny model of that class in eval mode, the same at every call, without parameters that are zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = getattr(diffusers, transformer_class)(**TRANSFORMERS[transformer_class]).eval()
        for name, parameter in transformer.named_parameters():
            unset = name.endswith("_pad_token")  # Z-Image leaves these uninitialised
            if unset or not parameter.any():  # zeros would hide errors
                torch.nn.init.normal_(parameter, std=0.05)
            elif parameter.ndim > 1 and "pos_embed" not in name:
                parameter.data *= GAINS.get(transformer_class, 1.0)
    return transformer


def tiny_scheduler(transformer_class: str) -> FlowMatchEulerDiscreteScheduler | DPMSolverMultistepScheduler:
    """The family's scheduler with the shift of its best known checkpoint."""
    if transformer_class == "SanaTransformer2DModel":
        return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return FlowMatchEulerDiscreteScheduler(**SHIFTS[transformer_class])


def tiny_pipeline(transformer_class: str) -> DiffusionPipeline:
    """The whole source pipeline around `tiny_transformer`, silent, in eval mode, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts = TEXT_PARTS[transformer_class]() | {"vae": VAES[transformer_class]()}
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                encoders.fill_padding(part.eval())
    pipeline = getattr(diffusers, PIPELINES[transformer_class])(
        transformer=tiny_transformer(transformer_class), scheduler=tiny_scheduler(transformer_class), **parts
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def build_tiny_family(transformer_class: str, folder: Path) -> Path:
    """Save the tiny pipeline of that transformer class into `folder`, in the ordinary diffusers layout."""
    tiny_pipeline(transformer_class).save_pretrained(folder)
    return folder


def family_folder(transformer_class: str, base: Path) -> Path:
    """Folder of the saved tiny pipeline under `base`, built at the first call; do not write into it."""
    folder = base / transformer_class
    if not (folder / "model_index.json").exists():
        build_tiny_family(transformer_class, folder)
    return folder
