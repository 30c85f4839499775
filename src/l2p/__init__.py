"""l2p: turn a pretrained latent diffusion transformer into a pixel model, as a reproducible pipeline."""

__version__ = "0.1.0"
