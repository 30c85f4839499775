"""Owns the drawing of the corpus by the source's own pipeline: one PNG per planned image, resumable to the image."""

from l2p.data.synthesis.drawing import Check, Places, Synthesis, synthesize
from l2p.data.synthesis.planning import image_seed, plan_images
from l2p.data.synthesis.worker import write_png

__all__ = ["Check", "Places", "Synthesis", "image_seed", "plan_images", "synthesize", "write_png"]
