"""Pixel models grafted from latent ones: adapters, head, pipeline, delta."""
