"""Owns turning prompts into embeddings in a pixel pipeline, by the source's own pipeline and encoders."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers

from l2p.errors import ModelError
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.pixel_transformer import PixelTransformer

TEXT_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")


class PromptMixin:
    """What a pipeline with the parts `TEXT_PARTS`, each of which may be None, knows of text."""

    transformer: PixelTransformer
    scheduler: Any

    def encode_prompts(self, prompts: list[str]) -> list[PromptEmbedding]:
        """Prompt embeddings, one dictionary a prompt, by the source's own encoders.

        Raises:
            ModelError: the pipeline has no text encoder.
        """
        return self.transformer.adapter.encode(self._text_pipeline(), prompts)

    def _embed(self, prompt: str | list[str] | None, embeddings: list[PromptEmbedding] | None) -> list[PromptEmbedding]:
        prompts = as_list(prompt)
        if bool(prompts) == bool(embeddings):
            raise ModelError("give one or more prompts, as `prompt` or as `embeddings`.")
        return list(embeddings) if embeddings else self.encode_prompts(prompts)

    def _embed_negative(
        self, prompt: str | list[str] | None, embeddings: list[PromptEmbedding] | None, *, count: int
    ) -> list[PromptEmbedding]:
        if prompt is not None and embeddings is not None:
            raise ModelError("give either `negative_prompt` or `negative_embeddings`.")
        if embeddings is None:
            embeddings = self.transformer.adapter.encode_negative(self._text_pipeline(), as_list(prompt or ""))
        if len(embeddings) not in (1, count):
            raise ModelError(f"{len(embeddings)} negative prompts for {count} prompts. Give one, or one per prompt.")
        return list(embeddings) * (count // len(embeddings))

    def _text_pipeline(self) -> diffusers.DiffusionPipeline:
        """The source's own pipeline with its text encoders and nothing else."""
        source = getattr(diffusers, self.transformer.adapter.pipeline_class)
        parts = {name: getattr(self, name) for name in TEXT_PARTS}
        if all(part is None for part in parts.values()):
            raise ModelError(
                "the pipeline has no text encoder, so it takes no prompts. Give `embeddings` (and, with guidance, "
                "`negative_embeddings`), or load the pipeline with its text parts."
            )
        parameters = list(inspect.signature(source.__init__).parameters.values())[1:]
        needed = [item.name for item in parameters if item.default is item.empty]
        return source(**{name: self.scheduler if name == "scheduler" else parts.get(name) for name in needed})


def as_list(prompt: str | list[str] | None) -> list[str]:
    """One prompt, several, or none."""
    return [prompt] if isinstance(prompt, str) else list(prompt or ())
