"""Owns sampling from a pixel model: a diffusers pipeline without a VAE, called as the source's own pipeline is.

Guidance follows Z-Image: v = v_c + g (v_c - v_u), 0 = none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from l2p.errors import ModelError
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer
from l2p.models.source import SourcePin, load_source_config, load_text_pipeline


class L2PPipeline(DiffusionPipeline):
    """Text to image in pixel space."""

    model_cpu_offload_seq = "text_encoder->transformer"
    _optional_components = ["text_encoder", "tokenizer"]

    def __init__(
        self,
        transformer: PixelTransformer,
        scheduler: FlowMatchEulerDiscreteScheduler,
        text_encoder: Any = None,
        tokenizer: Any = None,
    ) -> None:
        """All parts as diffusers components; the text parts are the source's own."""
        super().__init__()
        self.register_modules(
            transformer=transformer, scheduler=scheduler, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)

    def encode_prompts(self, prompts: list[str]) -> list[PromptEmbedding]:
        """Prompt embeddings, one dictionary a prompt, by the source's own encoder."""
        adapter = self.transformer.adapter
        import diffusers

        source = getattr(diffusers, adapter.pipeline_class)
        parts = {"tokenizer": self.tokenizer, "text_encoder": self.text_encoder}
        return adapter.encode(source(scheduler=self.scheduler, vae=None, transformer=None, **parts), prompts)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str = "",
        *,
        height: int,
        width: int,
        num_inference_steps: int = 30,
        guidance_scale: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        embeddings: list[PromptEmbedding] | None = None,
        negative_embeddings: list[PromptEmbedding] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw one image per prompt (or per ready embedding).

        Args:
            prompt: one or several prompts; or give `embeddings`.
            negative_prompt: what guidance leads away from.
            height: pixels, a multiple of the patch size.
            width: pixels, a multiple of the patch size.
            num_inference_steps: Euler steps.
            guidance_scale: g in v_c + g (v_c - v_u).
            generator: one generator, or one per image for images that do not depend on their batch.
            embeddings: prompt embeddings as `encode_prompts` returns them.
            negative_embeddings: likewise, one per image.
            output_type: "pil", "np" (float [B, H, W, 3] in 0..1) or "pt".
            return_dict: a `ImagePipelineOutput`, or a tuple.
        """
        if embeddings is None:
            if prompt is None:
                raise ModelError("give `prompt` or `embeddings`.")
            embeddings = self.encode_prompts([prompt] if isinstance(prompt, str) else list(prompt))
        guided = guidance_scale > 0
        if guided and negative_embeddings is None:
            negative_embeddings = self.encode_prompts([negative_prompt]) * len(embeddings)
        adapter, device, count = self.transformer.adapter, self._execution_device, len(embeddings)
        text = adapter.collate([*embeddings, *(negative_embeddings or [])] if guided else embeddings)
        pixels = randn_tensor((count, CHANNELS, height, width), generator=generator, device=device, dtype=torch.float32)
        self.scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / num_inference_steps, num_inference_steps), device=device
        )
        for timestep, sigma in zip(self.scheduler.timesteps, self.scheduler.sigmas, strict=False):
            v = self._guided_velocity(pixels, sigma, text, guidance_scale)
            pixels = self.scheduler.step(v, timestep, pixels, return_dict=False)[0]
        images = self.image_processor.postprocess(pixels.clamp(-1, 1), output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _guided_velocity(self, pixels: Tensor, sigma: Tensor, text: dict[str, Any], guidance_scale: float) -> Tensor:
        guided = guidance_scale > 0
        batch = torch.cat([pixels, pixels]) if guided else pixels
        v = self.transformer(batch.to(self.transformer.dtype), sigma.to(pixels.device).expand(len(batch)), text).float()
        if not guided:
            return v
        with_text, without = v.chunk(2)
        return with_text + guidance_scale * (with_text - without)


def build_scheduler(pin: SourcePin, shift: float | None) -> FlowMatchEulerDiscreteScheduler:
    """The source's scheduler, with its own or the given time shift."""
    config = load_source_config(pin, "scheduler")
    changes = {} if shift is None else {"shift": shift, "use_dynamic_shifting": False}
    return FlowMatchEulerDiscreteScheduler.from_config(config, **changes)


def load_pixel_pipeline(folder: Path | str, *, device: str = "cpu", dtype: str = "float32") -> L2PPipeline:
    """Pipeline of a delta folder: pixel model, the source's text encoder, and the sampler stored with the delta.

    Raises:
        SourceError: the source differs from the pin.
        ModelError: the delta is damaged.
    """
    folder = Path(folder)
    card = read_delta_card(folder)
    pin = SourcePin(**card["source"])
    model = load_pixel_model(folder, device=device, dtype=dtype)
    text = load_text_pipeline(pin, dtype=dtype, device=device)
    scheduler = build_scheduler(pin, card["sampler"]["shift"])
    pipeline = L2PPipeline(model, scheduler, text_encoder=text.text_encoder, tokenizer=text.tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
