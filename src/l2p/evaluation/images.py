"""Owns the images of a benchmark: drawn once per model, sampler, seed and prompt, in the official folder layouts.

Seeds: image n of prompt i has seed `first_seed + 1000 i + n`, whatever else is drawn with it. Every PNG carries a card
(model digest, sampler, size, prompt, seeds) in its text chunk; a file is reused only if its card is the one asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from l2p.config import SamplerParams
from l2p.errors import EvaluationError
from l2p.files import atomic_path
from l2p.models.adapters import ADAPTERS
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.pipeline import L2PPipeline
from l2p.models.sampling import draw_images, encode_prompts

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


class Painter(Protocol):
    """Draws one image per prompt and seed."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 RGB [B, H, W, 3]."""
        ...


def image_seed(first_seed: int, prompt_index: int, image_number: int) -> int:
    """Seed of one image (`SEED_FORMULA`)."""
    return first_seed + SEEDS_PER_PROMPT * prompt_index + image_number


def geneval_image(index: int, number: int) -> Path:
    """Place of an image in GenEval's layout, relative to the image folder."""
    return Path(f"{index:05d}") / "samples" / f"{number:04d}.png"


def geneval_files(folder: Path, prompts: Sequence[str], *, images_per_prompt: int, first_seed: int) -> list[ImageFile]:
    """The files of GenEval's layout: `<index>/samples/<number>.png`."""
    return [
        ImageFile(folder / geneval_image(index, number), prompt, (image_seed(first_seed, index, number),))
        for index, prompt in enumerate(prompts)
        for number in range(images_per_prompt)
    ]


def dpg_files(folder: Path, prompts: dict[str, str], *, images_per_prompt: int, first_seed: int) -> list[ImageFile]:
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
            folder / f"{item_id}.png",
            prompt,
            tuple(image_seed(first_seed, index, number) for number in range(images_per_prompt)),
        )
        for index, (item_id, prompt) in enumerate(prompts.items())
    ]


def draw_missing(
    files: Sequence[ImageFile], painter: Painter, card: DrawingCard, *, batch_size: int, title: str
) -> int:
    """Draw the files that are not there yet, or are of another model, sampler, size, seed or prompt.

    Args:
        files: what the benchmark needs.
        painter: draws images; not called when nothing is missing.
        card: what all these images have in common.
        batch_size: images drawn at once.
        title: label of the progress bar.

    Returns:
        How many images were drawn; each file is written as soon as its images are there.
    """
    missing = [file for file in files if not is_drawn(file, card)]
    total = sum(len(file.seeds) for file in missing)
    waiting: dict[Path, list[np.ndarray]] = {file.path: [] for file in missing}
    single = [(file, seed) for file in missing for seed in file.seeds]
    with tqdm(total=total, desc=title, unit="image", disable=None) as progress:
        for start in range(0, total, batch_size):
            batch = single[start : start + batch_size]
            images = painter([file.prompt for file, _ in batch], [seed for _, seed in batch])
            for (file, _), image in zip(batch, images, strict=True):
                waiting[file.path].append(image)
                if len(waiting[file.path]) == len(file.seeds):
                    write_image(file, join_tiles(waiting.pop(file.path)), card)
            progress.update(len(batch))
    return total


def remove_leftovers(folder: Path, files: Sequence[ImageFile]) -> int:
    """Delete from `folder` images of another prompt set (only PNGs with our card) and half-written ones.

    Official tools read every file that they find.
    """
    wanted = {file.path for file in files}
    leftovers = [path for path in folder.rglob("*.png") if path not in wanted and _read_card(path) is not None]
    leftovers += folder.rglob("*.png.partial")
    for path in leftovers:
        path.unlink()
    return len(leftovers)


def is_drawn(file: ImageFile, card: DrawingCard) -> bool:
    """Whether the file is there, whole, and exactly what is asked for."""
    return file.path.is_file() and _read_card(file.path) == _card_of(file, card)


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


class PipelinePainter:
    """Draws with a diffusers pipeline, the source's own or ours. Loads it on first use; encodes each prompt once."""

    def __init__(self, load_pipeline: Callable[[], Any], sampler: SamplerParams, size_px: tuple[int, int]) -> None:
        """`size_px` is (height, width)."""
        self._load_pipeline = load_pipeline
        self._sampler = sampler
        self._size_px = size_px
        self._pipeline: Any = None
        self._empty: PromptEmbedding | None = None
        self._known: dict[str, PromptEmbedding] = {}  # of the last batch: a prompt's images follow one another

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 RGB [B, H, W, 3]."""
        if self._pipeline is None:
            self._pipeline = self._load_pipeline()
        if not _takes_embeddings(self._pipeline):
            return self._draw_from_text(prompts, seeds)
        if self._empty is None:
            (self._empty,) = encode_prompts(self._pipeline, [""])
        return draw_images(
            self._pipeline,
            self._embed(prompts),
            empty=self._empty,
            size_px=self._size_px,
            num_steps=self._sampler.num_steps,
            guidance_scale=self._sampler.guidance_scale,
            seeds=list(seeds),
        )

    def _embed(self, prompts: Sequence[str]) -> list[PromptEmbedding]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        encoded = dict(zip(new, encode_prompts(self._pipeline, new), strict=True)) if new else {}
        self._known = {prompt: encoded.get(prompt) or self._known[prompt] for prompt in prompts}
        return [self._known[prompt] for prompt in prompts]

    def _draw_from_text(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """For a pipeline without an adapter: it encodes the prompts itself."""
        images = self._pipeline(
            prompt=list(prompts),
            height=self._size_px[0],
            width=self._size_px[1],
            num_inference_steps=self._sampler.num_steps,
            guidance_scale=self._sampler.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        return np.asarray((images * 255).round(), dtype=np.uint8)


def _takes_embeddings(pipeline: Any) -> bool:
    return isinstance(pipeline, L2PPipeline) or type(getattr(pipeline, "transformer", None)).__name__ in ADAPTERS


def _card_of(file: ImageFile, card: DrawingCard) -> dict[str, Any]:
    return asdict(card) | {"prompt": file.prompt, "seeds": list(file.seeds)}


def _read_card(path: Path) -> Any:
    """The card in a PNG's text chunk; None when there is none or the file is damaged."""
    try:
        with Image.open(path) as image:
            text = image.info.get(CARD_KEY)
            image.verify()
        return None if text is None else json.loads(text)
    except (OSError, SyntaxError, ValueError):  # Pillow raises SyntaxError for a broken PNG
        return None
