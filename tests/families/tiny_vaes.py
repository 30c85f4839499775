"""Owns tiny autoencoders of the real classes, with the latent channels, stride and scaling of the real ones."""

from __future__ import annotations

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderKLFlux2, AutoencoderKLQwenImage

LEVELS = 4  # a stride of 8 pixels
CONVOLUTIONAL = {
    "down_block_types": ("DownEncoderBlock2D",) * LEVELS,
    "up_block_types": ("UpDecoderBlock2D",) * LEVELS,
    "block_out_channels": (8,) * LEVELS,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}


def kl(channels: int, *, scale: float, shift: float | None, quant_conv: bool = False) -> AutoencoderKL:
    """Stride 8. Latents for the transformer are (latents - shift) * scale."""
    return AutoencoderKL(
        **CONVOLUTIONAL,
        latent_channels=channels,
        scaling_factor=scale,
        shift_factor=shift,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    )


def flux2() -> AutoencoderKLFlux2:
    """Stride 8, 32 channels; latents are normalised by running statistics of their 2 x 2 patches."""
    vae = AutoencoderKLFlux2(**CONVOLUTIONAL, latent_channels=32)
    torch.nn.init.normal_(vae.bn.running_mean, std=0.2)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae


def qwen() -> AutoencoderKLQwenImage:
    """Stride 8, 16 channels, with a time axis; latents are normalised by a mean and a deviation per channel."""
    return AutoencoderKLQwenImage(base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def deep_compression() -> AutoencoderDC:
    """Stride 32, 32 channels."""
    channels = (8, 8, 8, 8, 8, 32)
    levels = len(channels)
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
        scaling_factor=0.41407,
    )
