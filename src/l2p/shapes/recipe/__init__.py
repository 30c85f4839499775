"""The recipe that trains the embedded source: renders -> autoencoder -> denoiser and text encoder -> diffusers folder."""
