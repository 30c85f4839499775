"""Owns drawing with a pixel model: a diffusers pipeline without a VAE, called as the source's own pipeline is.

What diffusers calls latents, the state of the sampler, is noisy pixels here (decision 0005).
"""

# B batch, C channels, H W pixels

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from safetensors import SafetensorError
from torch import Tensor

from l2p.errors import DataError, ModelError
from l2p.files import read_json
from l2p.models.adapters.base import Guidance, PromptEmbedding, to_device
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.pipeline_guidance import guided_velocity
from l2p.models.pipeline_images import Known, read_known
from l2p.models.pipeline_lora import PixelLoraMixin
from l2p.models.pipeline_prompts import TEXT_PARTS, PromptMixin, as_list
from l2p.models.pipeline_registry import RegistryMixin
from l2p.models.pipeline_schedule import build_scheduler, make_schedule
from l2p.models.pipeline_steps import Drawing, Step, StepCallback, solver_settings, starting_noise
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer, tensor_dtype
from l2p.models.source import MODEL_INDEX, SourcePin, load_text_pipeline

__all__ = ["TEXT_PARTS", "L2PPipeline", "build_scheduler", "load_pixel_pipeline"]

NUM_STEPS = 30  # of a pipeline that was built without saying

OutputType = Literal["pil", "np", "pt", "latent"]


class L2PPipeline(DiffusionPipeline, PromptMixin, PixelLoraMixin, RegistryMixin):
    """Text to image, image to image and inpainting in pixel space."""

    __module__ = "l2p"  # what diffusers imports (decision 0005)
    model_cpu_offload_seq = "text_encoder->text_encoder_2->text_encoder_3->transformer"
    _optional_components = list(TEXT_PARTS)
    _callback_tensor_inputs = ["latents", "x0", "velocity"]

    def __init__(
        self,
        transformer: PixelTransformer,
        scheduler: Any,
        text_encoder: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text_encoder_3: Any = None,
        tokenizer_3: Any = None,
        num_inference_steps: int = NUM_STEPS,
        guidance_scale: float | None = None,
    ) -> None:
        """All parts as diffusers components, and how a call draws that does not say.

        Args:
            transformer: the pixel model.
            scheduler: one of diffusers' for flow matching.
            text_encoder: the source's own, as all text parts; without them calls take embeddings.
            tokenizer: of `text_encoder`; where the source has a processor, that.
            text_encoder_2: the source's second, if it has one.
            tokenizer_2: of `text_encoder_2`.
            text_encoder_3: the source's third, if it has one.
            tokenizer_3: of `text_encoder_3`.
            num_inference_steps: steps of the solver.
            guidance_scale: as the source's own pipeline takes it; None = none.

        Raises:
            ModelError: a transformer that is no pixel model.
        """
        super().__init__()
        if not hasattr(transformer, "adapter"):
            raise ModelError(
                f"transformer is a {type(transformer).__name__}: expected a PixelTransformer. "
                "`l2p convert` makes one of a source."
            )
        self.register_modules(
            transformer=transformer,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
            text_encoder_3=text_encoder_3,
            tokenizer_3=tokenizer_3,
        )
        self.register_to_config(num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1)
        self._guidance_scale, self._guidance = guidance_scale, Guidance(0.0)
        self._num_timesteps, self._interrupt = 0, False

    @property
    def guidance_scale(self) -> float | None:
        """Of the drawing under way or the last one, as the source's own pipeline takes it."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether that drawing is led away from a negative prompt, at twice the work."""
        return self._guidance.scale > 0

    @property
    def num_timesteps(self) -> int:
        """Calls of the model in that drawing."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether to leave out the remaining steps; a callback may set `_interrupt`."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        sigmas: list[float] | None = None,
        guidance_scale: float | None = None,
        true_cfg_scale: float = 1.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        embeddings: list[PromptEmbedding] | None = None,
        negative_embeddings: list[PromptEmbedding] | None = None,
        output_type: OutputType = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Draw `num_images_per_prompt` images per prompt (or per ready embedding), those of one prompt together.

        Args:
            prompt: one or several prompts; or give `embeddings`.
            negative_prompt: what guidance leads away from, one for all or one per prompt; None = the empty prompt.
            image: what to draw over: PIL images, or floats in [0, 1], arrays [B, H, W, 3] or tensors [B, 3, H, W].
            mask_image: likewise with one channel: white is drawn anew, black stays as it is.
            strength: share of the steps that is taken from `image` on; 1 = from noise. None = 0.6, with a mask 1.
            height: pixels; None = of `image`.
            width: pixels; None = of `image`.
            num_inference_steps: of the solver; None = the pipeline's own.
            sigmas: noise levels instead, from 1 downwards, before the scheduler's time shift.
            guidance_scale: as the source's own pipeline takes it; None = the pipeline's own.
            true_cfg_scale: for a guidance-distilled source: real guidance beside the distilled one, 1 = none.
            num_images_per_prompt: images of each prompt.
            generator: one generator, or one per image for images that do not depend on their batch.
            latents: the starting noise, [B, 3, H, W].
            embeddings: prompt embeddings as `encode_prompts` returns them.
            negative_embeddings: likewise, one for all or one per prompt.
            output_type: "pil", "np" (float [B, H, W, 3] in 0..1), "pt" (float [B, 3, H, W] in 0..1) or "latent" (float
                pixels [B, 3, H, W] on the scale [-1, 1], not clamped).
            return_dict: an `ImagePipelineOutput`, or a tuple.
            callback_on_step_end: called as (pipeline, index, timestep, tensors) after each call of the model; the
                "latents" that it returns take the place of the sampler's.
            callback_on_step_end_tensor_inputs: which tensors it gets: "latents" (noisy pixels after the step), "x0"
                (the step's estimate of the image, in [-1, 1]), "velocity" (eps - x0).

        Raises:
            ModelError: no prompt, a size that the model cannot draw, a scheduler that cannot serve, an unknown name.
            DataError: an image, mask or strength that do not fit together.
            SourceError: guidance that the source does not have.
        """
        self._interrupt = False
        callback = StepCallback(
            callback_on_step_end, callback_on_step_end_tensor_inputs, allowed=self._callback_tensor_inputs
        )
        if output_type not in get_args(OutputType):
            raise ModelError(f"output_type = {output_type!r}: expected one of {', '.join(get_args(OutputType))}.")
        known = read_known(image, mask_image, strength)
        height, width = self._size(height, width, known)
        self._prepare_guidance(guidance_scale, true_cfg_scale, negative_prompt)
        texts = self._embed(prompt, embeddings)
        if self.do_classifier_free_guidance:
            texts += self._embed_negative(negative_prompt, negative_embeddings, count=len(texts))
        texts = [text for text in texts for _ in range(num_images_per_prompt)]
        count, device = len(texts) // (1 + self.do_classifier_free_guidance), self._execution_device
        if count == 0:
            raise ModelError(f"num_images_per_prompt = {num_images_per_prompt}: expected at least 1.")
        noise = starting_noise((count, CHANNELS, height, width), generator, latents, device)
        drawing = Drawing(
            text=self.transformer.adapter.collate([to_device(text, device, self.transformer.dtype) for text in texts]),
            guidance=self._guidance,
            noise=noise,
            known=None if known is None else known.for_images(count, device),
            schedule=make_schedule(
                self.scheduler,
                num_steps=self.config.num_inference_steps if num_inference_steps is None else num_inference_steps,
                sigmas=sigmas,
                dynamic_shift=self._dynamic_shift(height, width),
                strength=1.0 if known is None else known.strength,
                device=device,
            ),
        )
        pixels = self._draw(drawing, callback, solver_settings(self.scheduler, generator))
        images = (
            pixels if output_type == "latent" else self.image_processor.postprocess(pixels, output_type=output_type)
        )
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _draw(self, drawing: Drawing, callback: StepCallback, solver: dict[str, Any]) -> Tensor:
        """Pixels [B, 3, H, W] at the end of the schedule."""
        pixels, schedule = drawing.start(), drawing.schedule
        self._num_timesteps = len(schedule)
        with self.progress_bar(total=len(schedule)) as bar:
            for index, timestep in enumerate(schedule.timesteps):
                if self.interrupt:
                    continue
                velocity = self._velocity(pixels, schedule.sigmas[index], drawing)
                stepped = self.scheduler.step(velocity, timestep, pixels, return_dict=False, **solver)[0]
                kept = drawing.keep(stepped, schedule.sigmas[index + 1])
                step = Step(before=pixels, after=kept, sigma=schedule.sigmas[index], velocity=velocity)
                pixels = callback(self, (index, timestep), step, drawing)
                bar.update()
        return pixels

    def _velocity(self, pixels: Tensor, sigma: Tensor, drawing: Drawing) -> Tensor:
        """Velocity eps - x0 of noisy pixels at `sigma`, guided or not, float32."""
        guidance = drawing.guidance
        batch = torch.cat([pixels, pixels]) if guidance.scale > 0 else pixels
        sigma_B = sigma.expand(len(batch))
        told_B = None if guidance.embedded is None else torch.full_like(sigma_B, guidance.embedded)
        v = self.transformer(batch, sigma_B, drawing.text, told_B).float()
        if guidance.scale == 0:
            return v
        with_text, without = v.chunk(2)
        return guided_velocity(with_text, without, guidance, patch_size=self.transformer.config.patch_size)

    def _prepare_guidance(
        self, guidance_scale: float | None, true_cfg_scale: float, negative_prompt: str | list[str] | None
    ) -> None:
        """Translate the source's own scale; without any, the pipeline's, and without that, none."""
        adapter, config = self.transformer.adapter, self.transformer.dit.config
        scale = self.config.guidance_scale if guidance_scale is None else guidance_scale
        for name, value in (("guidance_scale", scale), ("true_cfg_scale", true_cfg_scale)):
            if value is not None and not math.isfinite(value):
                raise ModelError(f"{name} = {value}: expected a finite number.")
        if scale is None:
            scale = adapter.embedded_guidance if config.get("guidance_embeds") else adapter.no_guidance
        self._guidance_scale = scale
        self._guidance = adapter.guidance(scale, config, true_cfg_scale=true_cfg_scale)
        if any(as_list(negative_prompt)) and not self.do_classifier_free_guidance:
            raise ModelError(
                f"negative_prompt: no effect, because guidance_scale = {scale:g} is no guidance. Raise it, or "
                "true_cfg_scale where the source is guidance-distilled; or leave the negative prompt out."
            )

    def _dynamic_shift(self, height: int, width: int) -> Callable[..., float]:
        """The source's own time shift for an image of that size, of a scheduler's configuration and `num_steps`."""
        tokens = height * width // self.transformer.config.patch_size**2
        return partial(self.transformer.adapter.dynamic_shift, tokens=tokens)

    def _size(self, height: int | None, width: int | None, known: Known | None) -> tuple[int, int]:
        """(height, width), checked against the image that is drawn over and against the model."""
        own = (None, None) if known is None else known.size
        height, width = own[0] if height is None else height, own[1] if width is None else width
        if height is None or width is None:
            raise ModelError("height and width are not given, and no `image` to take them from.")
        if known is not None and (height, width) != own:
            raise DataError(f"image is {own[1]}x{own[0]} pixels and {width}x{height} are asked for. Resize the image.")
        self.transformer.check_size(height, width)
        return height, width


def load_pixel_pipeline(folder: Path | str, *, device: str = "cpu", dtype: str = "float32") -> L2PPipeline:
    """Pipeline of a delta folder, with the source's text encoders and the sampler stored with it, or a saved pipeline.

    Args:
        folder: of a delta, or one that `save_pretrained` or `l2p export --format diffusers` wrote.
        device: where everything goes.
        dtype: of all weights, "float32" or "bfloat16".

    Raises:
        SourceError: the source differs from the pin.
        ModelError: the delta or the saved pipeline is damaged.
    """
    folder = Path(folder)
    saved = (folder / MODEL_INDEX).is_file()
    pipeline = _load_saved(folder, dtype).to(device) if saved else _load_delta(folder, device=device, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assemble(model: PixelTransformer, card: dict[str, Any], text_parts: dict[str, Any]) -> L2PPipeline:
    """The pipeline of a delta: its model, the source's scheduler and text parts, and the sampler on its card."""
    sampler = card["sampler"]
    return L2PPipeline(
        model,
        build_scheduler(SourcePin(**card["source"]), sampler["shift"]),
        num_inference_steps=sampler["num_steps"],
        guidance_scale=sampler["guidance_scale"],
        **text_parts,
    )


def _load_delta(folder: Path, *, device: str, dtype: str) -> L2PPipeline:
    card = read_delta_card(folder)
    model = load_pixel_model(folder, device=device, dtype=dtype)
    text = load_text_pipeline(SourcePin(**card["source"]), dtype=dtype, device=device)
    return assemble(model, card, {name: getattr(text, name, None) for name in TEXT_PARTS})


def _load_saved(folder: Path, dtype: str) -> L2PPipeline:
    kind = read_json(folder / MODEL_INDEX, written_by="l2p export --format diffusers").get("_class_name")
    if kind != L2PPipeline.__name__:
        raise ModelError(
            f"{folder / MODEL_INDEX}: a {kind}, not a pixel pipeline. `l2p convert` makes one of a source."
        )
    try:
        return L2PPipeline.from_pretrained(folder, dtype=tensor_dtype(dtype), use_safetensors=True)
    except (ImportError, KeyError, OSError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: diffusers cannot load it ({' '.join(str(error).split())[:300]}).") from error
