"""Owns what every source family must say of itself so that its own diffusers class can be rebuilt over pixels.

The patch-1 graft: the class is built with patch 1, 3*P*P input channels and an output as wide as its tokens, and its
final layer is replaced by `Passthrough`; then its own patchify, position code and unpatchify return the token map.
"""

# B batch, C channels, D token width, h w token grid, P patch side, L caption tokens

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from l2p.errors import ModelError, SourceError

PromptEmbedding = dict[str, Tensor]
TextInputs = dict[str, Any]
Config = Mapping[str, Any]


class Passthrough(nn.Module):
    """Stands in for a final layer: returns its first argument, whatever else it is called with."""

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        """Identity on the first argument."""
        return x


@dataclass(frozen=True)
class Guidance:
    """How a drawing is guided, in the terms of decision 0001.

    `scale` is g in v = v_c + g (v_c - v_u), 0 = none. `embedded` is what a guidance-distilled transformer is told, None
    for one that has no such input. `rescale` keeps the norm of each patch of v_c.
    """

    scale: float
    embedded: float | None = None
    rescale: bool = False


class Adapter:
    """One source family. Subclasses fill in the names and override what differs."""

    transformer_class: str
    pipeline_class: str
    embedder: str = "x_embedder"  # dotted name of the patch embedder in the grafted transformer: new, trained
    source_embedder: str | None = None  # its name in the source, where that is another
    tail: tuple[str, ...] = ("norm_out", "proj_out")  # modules of the grafted transformer replaced by Passthrough
    image_blocks: tuple[str, ...] = ("transformer_blocks",)  # lists that image tokens pass, in order; the ends train
    refiners: tuple[str, ...] = ()  # further modules trained when `refiners` is on
    pad_tokens: tuple[str, ...] = ()  # learned padding
    unused: tuple[str, ...] = ()  # parameters that no output depends on; {last} is the last block's index
    native_patch_px: int = 16  # VAE stride x latent patch: the patch at which the token grid is unchanged
    packed: bool = False  # the pipeline packs latents into [B, tokens, values] itself
    token_layout: Literal["channels first", "channels last"] = "channels first"  # of the values of a latent token
    guidance_form: Literal["w", "g"] = "w"  # of the pipeline's scale: v_u + w (v_c - v_u), or v_c + g (v_c - v_u)
    guidance_argument: str = "guidance_scale"  # under which name the pipeline takes it
    rescales_guidance: bool = False  # the pipeline keeps the norm of v_c
    embedded_guidance: float = 3.5  # what a guidance-distilled transformer is told while it is trained

    # what the transformer is

    def token_dim(self, config: Config) -> int:
        """Width of an image token."""
        return int(config["num_attention_heads"] * config["attention_head_dim"])

    def overrides(self, config: Config, in_channels: int) -> dict[str, Any]:
        """Changes to the source's config that make it a patch-1 model over `in_channels` channels."""
        changes = {"patch_size": 1, "in_channels": in_channels, "out_channels": self.token_dim(config)}
        if "sample_size" in config:  # its quotient with the patch is the base of the position tables
            changes["sample_size"] = config["sample_size"] // config["patch_size"]
        return changes

    def check_source(self, config: Config) -> None:
        """Refuse variants of the class that another method trained or that its class computes wrongly.

        Raises:
            SourceError: says which and why.
        """

    def check_scheduler(self, config: Config) -> None:
        """Refuse a scheduler from which the transformer's time would not follow; most families have none to refuse.

        Raises:
            SourceError: says which and why.
        """

    def dynamic_shift(self, scheduler: Config, tokens: int, num_steps: int) -> float:
        """mu of a time shift that depends on the image size, as the source's own pipeline computes it.

        The usual one is linear in the number of tokens (FLUX.1's `calculate_shift`).

        Args:
            scheduler: configuration of the scheduler, `use_dynamic_shifting` on.
            tokens: of one image.
            num_steps: of the solver.

        Raises:
            ModelError: the scheduler's configuration lacks one of the numbers.
        """
        few, many, low, high = shift_settings(
            scheduler, "base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"
        )
        return float(low + (high - low) * (tokens - few) / (many - few))

    def max_grid(self, config: Config) -> int | None:
        """Largest number of tokens per side that the source has positions for; None without a limit."""
        return None

    def graft(self, transformer: nn.Module, dim: int) -> None:
        """Replace the final layer by Passthrough, in place."""
        for name in self.tail:
            transformer.set_submodule(name, Passthrough())

    def prepare_training(self, transformer: nn.Module) -> None:
        """Swap in what trains or compiles faster and computes the same, in place; nothing by default."""

    def enable_checkpointing(self, transformer: Any) -> None:
        """Let the transformer compute activations twice; families whose own code for it is wrong override this."""
        transformer.enable_gradient_checkpointing()

    def left_behind(self, name: str) -> bool:
        """Whether the source's tensor `name` has no place in the graft: its embedder and its final layer."""
        return name.startswith(tuple(f"{module}." for module in (self.source_embedder or self.embedder, *self.tail)))

    # how it is called

    def call(
        self,
        transformer: nn.Module,
        patches_BChw: Tensor,
        sigma_B: Tensor,
        text: TextInputs,
        guidance_B: Tensor | None = None,
    ) -> Tensor:
        """Run the grafted transformer over [B, 3PP, h, w] at `sigma_B` (1 = noise); token map [B, D, h, w]."""
        config: Config = transformer.config  # type: ignore[assignment]
        if guidance_B is None and config.get("guidance_embeds"):
            guidance_B = torch.full_like(sigma_B, self.embedded_guidance)
        arguments = self.arguments(patches_BChw, sigma_B, text, config=config, guidance_B=guidance_B)
        out = transformer(**arguments, return_dict=False)[0]
        return self.token_map(out, patches_BChw.shape[-2:])

    def arguments(
        self, patches_BChw: Tensor, sigma_B: Tensor, text: TextInputs, *, config: Config, guidance_B: Tensor | None
    ) -> dict[str, Any]:
        """Keyword arguments of the transformer: the one place where the family's own time and positions are known."""
        raise NotImplementedError

    def token_map(self, out: Any, grid: torch.Size) -> Tensor:
        """What the grafted transformer returns -> [B, D, h, w]."""
        tokens: Tensor = out.transpose(1, 2).unflatten(2, grid) if self.packed else out
        return tokens

    # what it was before

    def latent_tokens(self, latents_BChw: Tensor, config: Config) -> Tensor:
        """Normalised latents [B, C, h, w] -> what the source's own embedder takes, [B, tokens, K], row-major."""
        patch = self.latent_patch(config)
        blocks_BChpwq = latents_BChw.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        order = (0, 2, 4, 1, 3, 5) if self.token_layout == "channels first" else (0, 2, 4, 3, 5, 1)
        return blocks_BChpwq.permute(*order).flatten(3).flatten(1, 2)

    def latent_patch(self, config: Config) -> int:
        """Side of the latent patch that is one token."""
        return 2 if self.packed else int(config["patch_size"])

    def source_embedding(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Weight [D, K] and bias [D] of the source's own embedder."""
        name = self.source_embedder or self.embedder
        return tensors[f"{name}.weight"].flatten(1), tensors.get(f"{name}.bias")

    # its text

    def encode(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Prompt embeddings by the source pipeline's own `encode_prompt`, one dictionary a prompt.

        A tensor is [L, ...] with the prompt's own number of tokens, or [1, ...] where it has one value a prompt. The
        empty prompt is encoded as the pipeline encodes a negative one.
        """
        raise NotImplementedError

    def encode_negative(self, pipeline: Any, prompts: list[str]) -> list[PromptEmbedding]:
        """Embeddings of prompts that guidance leads away from, where the pipeline encodes them in another way."""
        return self.encode(pipeline, prompts)

    def collate(self, embeddings: list[PromptEmbedding]) -> TextInputs:
        """Embeddings of one batch -> the `text` argument of the pixel model; stacked where lengths are fixed."""
        stacked = {key: torch.stack([embedding[key] for embedding in embeddings]) for key in embeddings[0]}
        return {key: tensor.squeeze(1) if tensor.shape[1] == 1 else tensor for key, tensor in stacked.items()}

    def pipeline_inputs(self, embeddings: list[PromptEmbedding], negative: list[PromptEmbedding]) -> dict[str, Any]:
        """Keyword arguments by which the source's own pipeline takes ready embeddings instead of prompts."""
        raise NotImplementedError

    # its guidance

    def guidance(self, scale: float, config: Config, *, true_cfg_scale: float = 1.0) -> Guidance:
        """What the pipeline's own `guidance_scale` means.

        Args:
            scale: as the source's own pipeline takes it; for a guidance-distilled transformer it is embedded.
            config: the source transformer's.
            true_cfg_scale: w of real guidance beside the distilled one, 1 = none; elsewhere it must be 1.
        """
        if config.get("guidance_embeds"):
            return Guidance(max(true_cfg_scale - 1, 0.0), scale, self.rescales_guidance)
        if true_cfg_scale != 1:
            raise SourceError(
                f"true_cfg_scale = {true_cfg_scale}: {self.transformer_class} is not guidance-distilled, so "
                "`guidance_scale` is its real guidance. Leave true_cfg_scale at 1."
            )
        return Guidance(max(scale if self.guidance_form == "g" else scale - 1, 0.0), None, self.rescales_guidance)

    @property
    def no_guidance(self) -> float:
        """The scale, in the pipeline's own form, that means none."""
        return 0.0 if self.guidance_form == "g" else 1.0


def shift_settings(scheduler: Config, *names: str) -> list[float]:
    """Numbers of a scheduler's configuration from which a time shift is computed.

    Raises:
        ModelError: names the first that is not set.
    """
    if missing := [name for name in names if scheduler.get(name) is None]:
        raise ModelError(
            f"scheduler: use_dynamic_shifting is on and {missing[0]} is not set. Set it, or switch it off."
        )
    return [float(scheduler[name]) for name in names]


def grid_positions(patches_BChw: Tensor, *, axes: int) -> Tensor:
    """Position ids [h*w, axes], float32: the row on axis 1, the column on axis 2, zero elsewhere.

    Not in the model's precision: bfloat16 tells only 385 of 512 positions apart.
    """
    height, width = patches_BChw.shape[-2:]
    ids = torch.zeros(height, width, axes, device=patches_BChw.device)
    ids[..., 1] = torch.arange(height, device=ids.device)[:, None]
    ids[..., 2] = torch.arange(width, device=ids.device)[None]
    return ids.flatten(0, 1)


def to_device(embedding: PromptEmbedding, device: torch.device, dtype: torch.dtype) -> PromptEmbedding:
    """Move floating tensors of one embedding to `device` and `dtype`."""
    return {k: v.to(device, dtype if v.is_floating_point() else v.dtype) for k, v in embedding.items()}
