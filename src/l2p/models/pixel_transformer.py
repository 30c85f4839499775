"""Owns the pixel model: a source's own transformer over RGB patches, with a detailer head for its last layer.

Convention (decision 0001): pixels in [-1, 1], sigma in [0, 1] with 1 = noise, output v = eps - x0.
"""

# B batch, C channels, H W pixels, D token width, h w token grid, P patch side

from __future__ import annotations

from typing import Any

import diffusers
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 (the field's name for it)

from l2p.diffusion.path import expand, velocity_from_x0
from l2p.diffusion.timesteps import shift_sigma
from l2p.errors import ModelError
from l2p.models.adapters import Adapter, get_adapter
from l2p.models.adapters.base import TextInputs
from l2p.models.head import DetailerHead, LinearReadout

CHANNELS = 3


class PixelTransformer(ModelMixin, ConfigMixin):
    """`dit.*` is the grafted transformer, `head.*` the detailer head, `readout.*` the optional linear readout."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        source_class: str,
        source_config: dict[str, Any],
        patch_size: int = 16,
        head_widths: tuple[int, ...] = (64, 128, 256, 512),
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
            head_widths: channels of the detailer head per level.
            prediction: what the head puts out, "velocity" or "x0".
            snr_scale: s of the noise match: the backbone is told sigma' with sigma'/(1-sigma') = s sigma/(1-sigma) and
                its input is scaled by (1-sigma')/(1-sigma). 1 = as in the paper.
            pixel_mean: mean of the images per channel in [-1, 1]; its share (1 - sigma) is taken off the input.
            linear_readout: add a linear map from the tokens to the patches to what the head puts out (decision 0003).
        """
        super().__init__()
        self.adapter = get_adapter(source_class)
        settings = {key: value for key, value in source_config.items() if not key.startswith("_")}
        settings |= self.adapter.overrides(settings, CHANNELS * patch_size**2)
        self.token_dim = self.adapter.token_dim(settings)
        self.dit = getattr(diffusers, source_class)(**settings)
        self.adapter.graft(self.dit, self.token_dim)
        self.head = DetailerHead(self.token_dim, tuple(head_widths))
        self.readout = LinearReadout(self.token_dim, patch_size) if linear_readout else None
        if linear_readout:  # the head then starts as a correction of nothing
            for parameter in self.head.out_conv.parameters():
                torch.nn.init.zeros_(parameter)

    @staticmethod
    def adapter_of(source_class: str) -> Adapter:
        """Adapter of a source's transformer class."""
        return get_adapter(source_class)

    def tokens(self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs) -> Tensor:
        """Token map [B, D, H/P, W/P] of noisy pixels [B, 3, H, W] at sigma [B]."""
        scale = self.config.snr_scale
        gain = (1 / (1 - sigma_B + scale * sigma_B)).to(pixels_BCHW.dtype)
        mean = pixels_BCHW.new_tensor(self.config.pixel_mean).view(1, -1, 1, 1)
        centred = pixels_BCHW - expand(1 - sigma_B, pixels_BCHW).to(pixels_BCHW.dtype) * mean
        patches = F.pixel_unshuffle(centred * expand(gain, pixels_BCHW), self.config.patch_size)
        return self.adapter.call(self.dit, patches, shift_sigma(sigma_B, scale), text)

    def predict(self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs) -> Tensor:
        """What the head puts out, x0 or velocity per `config.prediction`, [B, 3, H, W]."""
        self._check(pixels_BCHW)
        tokens_BDhw = self.tokens(pixels_BCHW, sigma_B, text)
        out = self.head(pixels_BCHW, tokens_BDhw)
        return out if self.readout is None else out + self.readout(tokens_BDhw)

    def forward(self, pixels_BCHW: Tensor, sigma_B: Tensor, text: TextInputs) -> Tensor:
        """Velocity eps - x0 [B, 3, H, W] of noisy pixels [B, 3, H, W] at sigma [B]."""
        out = self.predict(pixels_BCHW, sigma_B, text)
        if self.config.prediction == "velocity":
            return out
        return velocity_from_x0(pixels_BCHW.float(), out.float(), sigma_B)

    def set_trainable(self, *, end_blocks: int, train_refiners: bool) -> list[str]:
        """Freeze everything but embedder, ends, pad tokens and head; returns the names of the trained parameters.

        Raises:
            ModelError: the ends would overlap.
        """
        blocks = [block for name in self.adapter.image_blocks for block in self.dit.get_submodule(name)]
        if 2 * end_blocks > len(blocks):
            raise ModelError(
                f"train.end_blocks = {end_blocks}: the source has {len(blocks)} blocks, so at most half of them."
            )
        self.requires_grad_(False)
        trained = [self.head, self.dit.get_submodule(self.adapter.embedder)]
        trained += [] if self.readout is None else [self.readout]
        trained += blocks[:end_blocks] + blocks[len(blocks) - end_blocks :]
        if train_refiners:
            trained += [self.dit.get_submodule(name) for name in self.adapter.refiners]
        for module in trained:
            module.requires_grad_(True)
        for name in self.adapter.pad_tokens:
            self.dit.get_parameter(name).requires_grad_(True)
        return [name for name, parameter in self.named_parameters() if parameter.requires_grad]

    def new_tensors(self) -> list[str]:
        """Names of the tensors that the source does not have: the embedder, the head and the readout."""
        prefix = f"dit.{self.adapter.embedder}."
        return [name for name in self.state_dict() if name.startswith((prefix, "head.", "readout."))]

    def _check(self, pixels_BCHW: Tensor) -> None:
        multiple = max(self.config.patch_size, 2 ** len(self.config.head_widths))
        height, width = pixels_BCHW.shape[-2:]
        if height % multiple or width % multiple:
            raise ModelError(f"image of {width}x{height} pixels: both sides must be multiples of {multiple}.")


def tensor_dtype(name: str) -> torch.dtype:
    """torch dtype of a params.yaml dtype name."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
