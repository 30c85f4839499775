"""Owns the pixel model: a source's own transformer over RGB patches, with a detailer head for its last layer.

Convention (decision 0001): pixels in [-1, 1], sigma in [0, 1] with 1 = noise, output v = eps - x0.
"""

# B batch, C channels, H W pixels, D token width, h w token grid, P patch side

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (the field's name for it)
from torch.utils.checkpoint import checkpoint

from l2p.config import TrainableParams
from l2p.diffusion.path import expand, velocity_from_x0
from l2p.diffusion.timesteps import shift_sigma
from l2p.errors import ModelError
from l2p.models.adapters import Adapter, get_adapter
from l2p.models.adapters.base import TextInputs
from l2p.models.embedder import low_rank
from l2p.models.head import build_head
from l2p.models.readout import LinearReadout

CHANNELS = 3


class PixelTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """`dit.*` is the grafted transformer, `head.*` the detailer head, `readout.*` the optional linear readout."""

    __module__ = "l2p"  # what model_index.json records and diffusers imports (decision 0005)
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        source_class: str,
        source_config: dict[str, Any],
        patch_size: int = 16,
        head_type: str = "official",
        head_widths: tuple[int, ...] = (64, 128, 256, 512),
        embedder_rank: int | None = None,
        prediction: str = "velocity",
        snr_scale: float = 1.0,
        pixel_mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        linear_readout: bool = False,
    ) -> None:
        """Build with random weights; `l2p.models.graft` and `l2p.models.delta` fill them.

        Args:
            source_class: diffusers transformer class of the source.
            source_config: the source transformer's own configuration.
            patch_size: side P of the RGB patches, pixels.
            head_type: "official" (the published head) or "unet" (normalised residual blocks, any patch).
            head_widths: channels of the detailer head per level, outermost first.
            embedder_rank: width of the bottleneck in the patch embedder; None = one linear map.
            prediction: what the head puts out, "velocity" or "x0".
            snr_scale: s of the noise match: the backbone is told sigma' with sigma'/(1-sigma') = s sigma/(1-sigma) and
                its input is scaled by (1-sigma')/(1-sigma). 1 = as in the paper.
            pixel_mean: mean of the images per channel in [-1, 1]; its share (1 - sigma) is taken off the input.
            linear_readout: add a linear map from the tokens to the patches to what the head puts out (decision 0003).

        Raises:
            SourceError: no adapter for the class, or a variant that is refused.
            ModelError: a head that does not fit the patch.
        """
        super().__init__()
        self.adapter = get_adapter(source_class)
        settings = {key: value for key, value in source_config.items() if not key.startswith("_")}
        self.adapter.check_source(settings)
        self.max_grid = self.adapter.max_grid(settings)
        settings |= self.adapter.overrides(settings, CHANNELS * patch_size**2)
        self.token_dim = self.adapter.token_dim(settings)
        dit_class = getattr(diffusers, source_class)
        self.dit = dit_class(**settings)
        self.adapter.graft(self.dit, self.token_dim)
        if embedder_rank is not None:
            linear = self.dit.get_submodule(self.adapter.embedder)
            self.dit.set_submodule(self.adapter.embedder, low_rank(linear, embedder_rank))
        self.head = build_head(head_type, self.token_dim, patch_size=patch_size, widths=tuple(head_widths))
        self.readout = LinearReadout(self.token_dim, patch_size) if linear_readout else None
        self._no_split_modules = list(getattr(dit_class, "_no_split_modules", None) or ())
        self._skip_layerwise_casting_patterns = list(getattr(dit_class, "_skip_layerwise_casting_patterns", None) or ())
        self._repeated_blocks = sorted({type(block).__name__ for block in self.repeated_blocks()})
        self.initialise_head()
        self.checkpoints_head = False

    @classmethod
    def from_pretrained(cls, *arguments: Any, output_loading_info: bool = False, **settings: Any) -> Any:
        """As of diffusers, but a missing, unexpected or mis-shaped tensor is an error.

        Raises:
            ModelError: names the first such tensors.
        """
        model, found = super().from_pretrained(*arguments, output_loading_info=True, **settings)
        for kind in ("missing", "unexpected", "mismatched"):
            if names := sorted(found[f"{kind}_keys"]):
                raise ModelError(
                    f"{arguments[0]}: {len(names)} {kind} tensors, first {names[:3]}. Save the model again."
                )
        return (model, found) if output_loading_info else model

    def initialise_head(self) -> None:
        """Beside a linear readout the head starts as a correction of nothing; alone, as its class says."""
        if self.readout is not None:
            self.head.zero_output()

    @staticmethod
    def adapter_of(source_class: str) -> Adapter:
        """Adapter of a source's transformer class."""
        return get_adapter(source_class)

    def tokens(
        self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs, guidance_B: Tensor | None = None
    ) -> Tensor:
        """Token map [B, D, H/P, W/P] of noisy pixels [B, 3, H, W] at sigma [B]."""
        scale = self.config.snr_scale
        gain = (1 / (1 - sigma_B + scale * sigma_B)).to(pixels_BCHW.dtype)
        mean = pixels_BCHW.new_tensor(self.config.pixel_mean).view(1, -1, 1, 1)
        centred = pixels_BCHW - expand(1 - sigma_B, pixels_BCHW).to(pixels_BCHW.dtype) * mean
        patches = F.pixel_unshuffle(centred * expand(gain, pixels_BCHW), self.config.patch_size)
        return self.adapter.call(self.dit, patches, shift_sigma(sigma_B, scale), text, guidance_B)

    def predict(
        self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs, guidance_B: Tensor | None = None
    ) -> Tensor:
        """What the head puts out, x0 or velocity per `config.prediction`, [B, 3, H, W].

        Args:
            pixels_BCHW: noisy pixels.
            sigma_B: noise levels, 1 = noise.
            text: what the adapter's `collate` returns.
            guidance_B: for a guidance-distilled source; None = the family's usual value.

        Raises:
            ModelError: sides that are no multiples of the patch, or a grid that the source has no positions for.
        """
        self.check_size(*pixels_BCHW.shape[-2:])
        tokens_BDhw = self.tokens(pixels_BCHW, sigma_B, text, guidance_B)
        if self.checkpoints_head and torch.is_grad_enabled():
            out = checkpoint(self.head, pixels_BCHW, tokens_BDhw, use_reentrant=False)
        else:
            out = self.head(pixels_BCHW, tokens_BDhw)
        return out if self.readout is None else out + self.readout(tokens_BDhw)

    def forward(
        self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs, guidance_B: Tensor | None = None
    ) -> Tensor:
        """Velocity eps - x0 [B, 3, H, W] of noisy pixels [B, 3, H, W] at sigma [B]; arguments as of `predict`.

        Pixels may be float32 whatever the model's precision: x0 is then taken off the pixels as they are.
        """
        out = self.predict(pixels_BCHW.to(self.dtype), sigma_B, text, guidance_B)
        if self.config.prediction == "velocity":
            return out
        return velocity_from_x0(pixels_BCHW.float(), out.float(), sigma_B)

    def set_trainable(self, trainable: TrainableParams) -> list[str]:
        """Freeze everything that `trainable` does not name; returns the names of the trained parameters.

        Raises:
            ModelError: the ends would overlap, or nothing would be trained.
        """
        blocks = [block for name in self.adapter.image_blocks for block in self.dit.get_submodule(name).children()]
        first, last = trainable.first_blocks, trainable.last_blocks
        if first + last > len(blocks):
            raise ModelError(
                f"train.trainable.first_blocks = {first}, last_blocks = {last}: the source has {len(blocks)} blocks."
            )
        trained = blocks[:first] + blocks[len(blocks) - last :]
        if trainable.embedder:
            trained.append(self.dit.get_submodule(self.adapter.embedder))
        if trainable.refiners:
            trained += [self.dit.get_submodule(name) for name in self.adapter.refiners]
        if trainable.head:
            trained += [self.head] if self.readout is None else [self.head, self.readout]
        self.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
        for name in self.adapter.pad_tokens:
            self.dit.get_parameter(name).requires_grad_(trainable.pad_tokens)
        for name in self._unused():
            self.dit.get_parameter(name).requires_grad_(False)
        names = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        if not names:
            raise ModelError("train.trainable: nothing is trained. Switch on a part of the model.")
        return names

    def new_tensors(self) -> list[str]:
        """Names of the tensors that the source does not have: the embedder, the head and the readout."""
        prefix = f"dit.{self.adapter.embedder}."
        return [name for name in self.state_dict() if name.startswith((prefix, "head.", "readout."))]

    def enable_gradient_checkpointing(self, gradient_checkpointing_func: Callable[..., Any] | None = None) -> None:
        """Compute the activations of the blocks twice instead of holding them; the family says how.

        Raises:
            ModelError: a function of one's own, which not every family could call rightly.
        """
        if gradient_checkpointing_func is not None:
            raise ModelError(
                "gradient_checkpointing_func: the source's family decides how to checkpoint. Leave it out."
            )
        self.adapter.enable_checkpointing(self.dit)

    def enable_head_checkpointing(self) -> None:
        """Compute the activations of the head twice instead of holding them: they have full resolution."""
        self.checkpoints_head = True

    def repeated_blocks(self) -> list[nn.Module]:
        """The transformer's blocks of one shape each, refiners included: what is worth compiling on its own."""
        lists = [self.dit.get_submodule(name) for name in (*self.adapter.image_blocks, *self.adapter.refiners)]
        return [block for blocks in lists if isinstance(blocks, nn.ModuleList) for block in blocks]

    @property
    def multiple_px(self) -> int:
        """Both sides of an image must be multiples of this."""
        return math.lcm(int(self.config.patch_size), self.head.multiple_px)

    def check_size(self, height: int, width: int) -> None:
        """Refuse an image size that this model cannot draw.

        Raises:
            ModelError: names the nearest sizes that it can.
        """
        multiple = self.multiple_px
        if height <= 0 or width <= 0 or height % multiple or width % multiple:
            raise ModelError(
                f"image of {width}x{height} pixels: both sides must be multiples of {multiple}; nearest: "
                f"{', '.join(_nearest(height, width, multiple))}."
            )
        largest = self.max_grid
        if largest is not None and max(height, width) > largest * self.config.patch_size:
            raise ModelError(
                f"image of {width}x{height} pixels: the source has positions for {largest} tokens a side, so at most "
                f"{largest * self.config.patch_size} pixels. Draw smaller, or convert with a larger "
                "convert.patch_size_px."
            )

    def _unused(self) -> list[str]:
        last = len(list(self.dit.get_submodule(self.adapter.image_blocks[-1]).children())) - 1
        prefixes = tuple(name.format(last=last) for name in self.adapter.unused)
        return [name for name, _ in self.dit.named_parameters() if prefixes and name.startswith(prefixes)]


def _nearest(height: int, width: int, multiple: int) -> list[str]:
    """WIDTHxHEIGHT of the valid sizes below and above."""
    below, above = (
        tuple(max(multiple, round_(side)) for side in (width, height))
        for round_ in (lambda side: side // multiple * multiple, lambda side: -(-side // multiple) * multiple)
    )
    return [f"{w}x{h}" for w, h in dict.fromkeys((below, above))]


def parameters_of(module: nn.Module) -> int:
    """Number of values in the parameters of `module`."""
    return sum(parameter.numel() for parameter in module.parameters())


def tensor_dtype(name: str) -> torch.dtype:
    """torch dtype of a params.yaml dtype name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
