"""Owns drawing: a scene becomes an anti-aliased RGB image (drawn at four times the size, then box-reduced)."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from l2p.shapes.world import BACKGROUNDS, COLORS, SIZE_PX, Item, Scene

OVERSAMPLING = 4
SQUARE_HALF_SIDE = 0.9  # of the radius, so that a square weighs about as much as a circle
STAR_INNER_RADIUS = 0.45  # of the outer radius


def render(scene: Scene) -> np.ndarray:
    """Draw `scene`; returns uint8 RGB [64, 64, 3] in 0..255."""
    size = SIZE_PX * OVERSAMPLING
    image = Image.new("RGB", (size, size), BACKGROUNDS[scene.background])
    draw = ImageDraw.Draw(image)
    for item in scene.items:
        _draw_item(draw, item)
    return np.asarray(image.reduce(OVERSAMPLING))


def _draw_item(draw: ImageDraw.ImageDraw, item: Item) -> None:
    x, y, r = (value * OVERSAMPLING for value in (item.x_px, item.y_px, item.radius_px))
    fill = COLORS[item.color]
    if item.shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif item.shape == "square":
        half = SQUARE_HALF_SIDE * r
        draw.rectangle([x - half, y - half, x + half, y + half], fill=fill)
    elif item.shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill)
    elif item.shape == "star":
        draw.polygon(_star_points(x, y, r), fill=fill)
    else:
        raise ValueError(f"unknown shape {item.shape!r}")


def _star_points(x: float, y: float, r: float) -> list[tuple[float, float]]:
    radii = [r if i % 2 == 0 else STAR_INNER_RADIUS * r for i in range(10)]
    angles = [i * math.pi / 5 for i in range(10)]
    return [(x + q * math.sin(a), y - q * math.cos(a)) for q, a in zip(radii, angles, strict=True)]
