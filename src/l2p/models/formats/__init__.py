"""Other layouts of a pixel model: the official one, ComfyUI's spelling of it, and a whole diffusers pipeline."""
