"""The recipe of the embedded source: renders -> autoencoder -> denoiser and text encoder -> diffusers folder."""
