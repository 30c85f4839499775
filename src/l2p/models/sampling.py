"""Owns drawing a batch of images from either kind of pipeline, latent source or pixel model, from ready embeddings.

Each image has its own generator, so it does not depend on which others share its batch (up to float rounding).
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.pipeline import L2PPipeline

# Said of the views that split Z-Image's complex rotary table; what is behind them is compiled.
_COMPLEX_VIEWS = "Torchinductor does not support code generation for complex operators"
_MAX_SHAPES = 512  # of one block: as many as a caption has lengths


def encode_prompts(pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
    """Prompt embeddings by the pipeline's own text encoder, one dictionary a prompt."""
    if isinstance(pipeline, L2PPipeline):
        return pipeline.encode_prompts(prompts)
    return get_adapter(type(pipeline.transformer).__name__).encode(pipeline, prompts)


def draw_images(pipeline: Any, embeddings: list[PromptEmbedding], **settings: Any) -> np.ndarray:
    """`draw_pixels` as uint8 RGB [B, H, W, 3]; values that are not finite become black."""
    return np.asarray((np.nan_to_num(draw_pixels(pipeline, embeddings, **settings)) * 255).round(), dtype=np.uint8)


def draw_pixels(
    pipeline: Any,
    embeddings: list[PromptEmbedding],
    *,
    empty: PromptEmbedding,
    size_px: tuple[int, int],
    num_steps: int,
    guidance_scale: float,
    seeds: list[int],
) -> np.ndarray:
    """Draw one image per embedding and seed; returns float [B, H, W, 3] in 0..1.

    Args:
        pipeline: a source's own diffusers pipeline or an `L2PPipeline`.
        embeddings: of the prompts.
        empty: embedding of the empty prompt, for guidance.
        size_px: (height, width).
        num_steps: denoising steps.
        guidance_scale: as the source's own pipeline takes it (decision 0005).
        seeds: one per image.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    negative = [empty] * len(embeddings)
    if isinstance(pipeline, L2PPipeline):
        inputs: dict[str, Any] = {"embeddings": embeddings, "negative_embeddings": negative}
        inputs["guidance_scale"] = guidance_scale
    else:
        adapter = get_adapter(type(pipeline.transformer).__name__)
        inputs = {"prompt": None, **adapter.pipeline_inputs(embeddings, negative)}
        inputs[adapter.guidance_argument] = guidance_scale
    pixels: np.ndarray = pipeline(
        height=size_px[0],
        width=size_px[1],
        num_inference_steps=num_steps,
        generator=generators,
        output_type="np",
        **inputs,
    ).images
    return pixels


def compile_blocks(transformer: nn.Module) -> None:
    """Let torch.compile take over each repeated block of a source's transformer at its first use, in place.

    Shapes are compiled exactly, so that the kernels of a batch do not depend on the batches before it.
    """
    warnings.filterwarnings("ignore", message=_COMPLEX_VIEWS)
    torch._dynamo.config.recompile_limit = _MAX_SHAPES
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it goes on uncompiled without a word
    adapter = get_adapter(type(transformer).__name__)
    for name in adapter.image_blocks:
        for block in transformer.get_submodule(name).children():
            block.compile(dynamic=False)


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Float [B, H, W, 3] in 0..1 -> uint8.

    Raises:
        ValueError: a value is not finite; as a picture it would be black and look like a bad drawing.
    """
    if not np.isfinite(images).all():
        raise ValueError("the model put out values that are not finite")
    return np.asarray((images * 255).round(), dtype=np.uint8)
