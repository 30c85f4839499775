"""Owns the image files of a benchmark: their places in the official layouts, their seeds, and what each was drawn from.

Seeds: image n of prompt i has seed `first_seed + 1000 i + n`, whatever else is drawn with it. Every PNG carries a card
(model digest, sampler, size, prompt, seeds) in its text chunk; a file is reused only if its card is the one asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from l2p.errors import EvaluationError
from l2p.evaluation.benchmark_data import DpgItem
from l2p.files import atomic_path

SEEDS_PER_PROMPT = 1000
SEED_FORMULA = f"first_seed + {SEEDS_PER_PROMPT} * prompt_index + image_number"
CARD_KEY = "l2p"
MAX_GRID_TILES = 4  # DPG-Bench's grid is at most 2 x 2


@dataclass(frozen=True)
class ImageFile:
    """One PNG to be: a single image, or a grid of several images of one prompt (two columns, row by row)."""

    path: Path
    prompt: str
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """How the images of one file lie in it: `count` images of one size, two columns (one image: itself), row by row."""

    count: int
    height_px: int
    width_px: int

    @property
    def size_px(self) -> tuple[int, int]:
        """(height, width) of the whole."""
        return -(-self.count // 2) * self.height_px, min(self.count, 2) * self.width_px

    def corners(self) -> Iterator[tuple[int, int]]:
        """Top left corner (y, x) of each image."""
        return ((n // 2 * self.height_px, n % 2 * self.width_px) for n in range(self.count))


@dataclass(frozen=True)
class DrawingCard:
    """What an image depends on besides prompt and seed."""

    model_digest: str
    sampler: dict[str, Any]
    height_px: int
    width_px: int
    dtype: str
    device: str


def image_seed(first_seed: int, prompt_index: int, image_number: int) -> int:
    """Seed of one image (`SEED_FORMULA`)."""
    return first_seed + SEEDS_PER_PROMPT * prompt_index + image_number


def geneval_image(index: int, number: int) -> Path:
    """Place of an image in GenEval's layout, relative to the image folder."""
    return Path(f"{index:05d}") / "samples" / f"{number:04d}.png"


def geneval_files(
    folder: Path, prompts: Mapping[int, str], *, images_per_prompt: int, first_seed: int
) -> list[ImageFile]:
    """The files of GenEval's layout, `<index>/samples/<number>.png`; `prompts` are by index."""
    return [
        ImageFile(folder / geneval_image(index, number), prompt, (image_seed(first_seed, index, number),))
        for index, prompt in prompts.items()
        for number in range(images_per_prompt)
    ]


def dpg_files(folder: Path, items: Sequence[DpgItem], *, images_per_prompt: int, first_seed: int) -> list[ImageFile]:
    """The files of DPG-Bench's layout: one grid `<item_id>.png` per item.

    Raises:
        EvaluationError: more images than a 2 x 2 grid holds.
    """
    if images_per_prompt > MAX_GRID_TILES:
        raise EvaluationError(
            f"dpg.images_per_prompt = {images_per_prompt}: a DPG grid holds at most {MAX_GRID_TILES}."
        )
    return [
        ImageFile(
            folder / f"{item.item_id}.png",
            item.prompt,
            tuple(image_seed(first_seed, item.index, number) for number in range(images_per_prompt)),
        )
        for item in items
    ]


def remove_leftovers(folder: Path, files: Sequence[ImageFile]) -> int:
    """Delete from `folder` images of another prompt set (only PNGs with our card) and half-written ones.

    Official tools read every file that they find.
    """
    wanted = {file.path for file in files}
    leftovers = [path for path in folder.rglob("*.png") if path not in wanted and read_card(path) is not None]
    leftovers += folder.rglob("*.png.partial*")
    for path in leftovers:
        path.unlink()
    return len(leftovers)


def single_images(file: ImageFile) -> list[ImageFile]:
    """The images of a file, one by one; those of a grid are kept beside it until all of them are there."""
    if len(file.seeds) == 1:
        return [file]
    names = (f"{file.path.stem}.{number}.png.partial" for number in range(len(file.seeds)))
    return [
        replace(file, path=file.path.with_name(name), seeds=(seed,))
        for name, seed in zip(names, file.seeds, strict=True)
    ]


def is_drawn(file: ImageFile, card: DrawingCard) -> bool:
    """Whether the file is there, whole, and exactly what is asked for."""
    return file.path.is_file() and read_card(file.path) == _card_of(file, card)


def write_image(file: ImageFile, image: np.ndarray, card: DrawingCard) -> None:
    """Write uint8 RGB [H, W, 3] with its card, atomically."""
    text = PngInfo()
    text.add_text(CARD_KEY, json.dumps(_card_of(file, card)))
    with atomic_path(file.path) as partial:
        Image.fromarray(image).save(partial, format="PNG", pnginfo=text)


def join_tiles(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """One image as it is; several, each [H, W, 3], as a `Grid`, black where there is none."""
    if len(tiles) == 1:
        return tiles[0]
    height, width = tiles[0].shape[:2]
    joined = np.zeros((height * -(-len(tiles) // 2), width * 2, 3), dtype=np.uint8)
    for tile, (y, x) in zip(tiles, Grid(len(tiles), height, width).corners(), strict=True):
        joined[y : y + height, x : x + width] = tile
    return joined


def split_tiles(joined: np.ndarray, grid: Grid) -> list[np.ndarray]:
    """Inverse of `join_tiles`."""
    return [joined[y : y + grid.height_px, x : x + grid.width_px] for y, x in grid.corners()]


def _card_of(file: ImageFile, card: DrawingCard) -> dict[str, Any]:
    return asdict(card) | {"prompt": file.prompt, "seeds": list(file.seeds)}


def read_card(path: Path) -> Any:
    """What an image was drawn from, as a PNG's text chunk says; None when there is none or the file is damaged."""
    try:
        with Image.open(path) as image:
            text = image.info.get(CARD_KEY)
            image.verify()
        return None if text is None else json.loads(text)
    except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for a broken PNG
        return None
