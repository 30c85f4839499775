"""Owns reading ready images of any model: folders in GenEval's and DPG-Bench's official layouts, and two common others.

GenEval: `<index>/metadata.jsonl` and `<index>/samples/<number>.png`. DPG-Bench: one grid `<item_id>.png` per item, or
separate images `<item_id>/<number>.png` or `<item_id>_<number>.png`. Every other file is left alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.benchmark_data import DpgData, DpgItem, GenEvalData, GenEvalPrompt, read_geneval_line
from l2p.evaluation.dpg_judging import DpgImage
from l2p.evaluation.geneval_judging import GenEvalImage
from l2p.evaluation.images import Grid, geneval_image
from l2p.files import sha256_file, sha256_json

METADATA = "metadata.jsonl"
_NUMBER = re.compile(r"\d+")


def read_geneval_prompts(folder: Path) -> GenEvalData:
    """The prompts that a folder in GenEval's layout was drawn from, from its own metadata.

    Raises:
        MissingFileError: there is no such folder.
        EvaluationError: it holds no `<index>/metadata.jsonl`, or a broken one.
    """
    _check_folder(folder)
    places = sorted(path for path in folder.iterdir() if path.is_dir() and _NUMBER.fullmatch(path.name))
    if not places:
        raise EvaluationError(
            f"{folder}: not in GenEval's layout; expected folders such as {folder / '00000'} with {METADATA} and "
            "samples/0000.png."
        )
    return GenEvalData(folder.as_posix(), tuple(_read_prompt(place) for place in places))


def geneval_images(folder: Path, data: GenEvalData, images_per_prompt: int | None) -> list[GenEvalImage]:
    """Every image that should be there; None for `images_per_prompt`: as many as the fullest prompt has.

    Only names that are numbers count, as in the official tool. An image that is missing is listed all the same: it is a
    failure and not a smaller benchmark.

    Raises:
        EvaluationError: there is not one image.
    """
    _check_folder(folder)
    found = {prompt.index: _numbered(folder / f"{prompt.index:05d}" / "samples") for prompt in data.prompts}
    count = images_per_prompt or max(map(len, found.values()), default=0)
    if not any(found.values()):
        raise EvaluationError(f"{folder}: no image at {folder / geneval_image(data.prompts[0].index, 0)} or the like.")
    images = []
    for prompt in data.prompts:
        paths = found[prompt.index][:count]
        there = {int(path.stem) for path in paths}
        missing = (number for number in itertools.count() if number not in there)
        paths += [folder / geneval_image(prompt.index, next(missing)) for _ in range(count - len(paths))]
        images += [GenEvalImage(path, path.as_posix(), prompt) for path in paths]
    return images


def dpg_images(
    folder: Path, data: DpgData, images_per_prompt: int | None, size_px: tuple[int, int] | None
) -> list[DpgImage]:
    """Every image that should be there.

    Args:
        folder: of the images.
        data: the benchmark.
        images_per_prompt: None: 4 in a grid, else as many as the fullest item has.
        size_px: (height, width) of one image of a grid; None: half of the first grid's sides.

    Raises:
        EvaluationError: there is not one image of an item.
    """
    _check_folder(folder)
    separate = {item.item_id: _separate(folder, item) for item in data.items}
    if any(separate.values()):
        count = images_per_prompt or max(map(len, separate.values()))
        return [image for item in data.items for image in _separate_images(folder, item, separate[item.item_id], count)]
    paths = {item.item_id: folder / f"{item.item_id}.png" for item in data.items}
    first = next((path for path in paths.values() if path.is_file()), None)
    if first is None:
        item = data.items[0].item_id
        raise EvaluationError(f"{folder}: no image of an item, for example {item}.png, {item}/0.png or {item}_0.png.")
    grid = _grid(first, images_per_prompt or 4, size_px)
    return [
        DpgImage(paths[item.item_id], paths[item.item_id].as_posix(), item, number, grid)
        for item in data.items
        for number in range(grid.count)
    ]


def digest_images(paths: Sequence[Path]) -> str:
    """SHA-256 over the images, which is all that is known of the model that drew them."""
    return sha256_json(sorted(sha256_file(path) for path in set(paths) if path.is_file()))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise MissingFileError(f"--images {folder}: no such folder.")


def _read_prompt(place: Path) -> GenEvalPrompt:
    path = place / METADATA
    if not path.is_file():
        raise EvaluationError(f"{path}: not found. Each image folder of GenEval names its prompt there.")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if len(lines) != 1:
        raise EvaluationError(f"{path}: expected one line, found {len(lines)}.")
    return read_geneval_line(lines[0], int(place.name), f"{path}, line 1")


def _numbered(folder: Path) -> list[Path]:
    """Images whose names are numbers, in that order."""
    found = [path for path in folder.glob("*.png") if _NUMBER.fullmatch(path.stem)]
    return sorted(found, key=lambda path: int(path.stem))


def _separate(folder: Path, item: DpgItem) -> list[Path]:
    if inside := _numbered(folder / item.item_id):
        return inside
    prefix = f"{item.item_id}_"
    found = [path for path in folder.glob(f"{_escape(prefix)}*.png") if _NUMBER.fullmatch(path.stem[len(prefix) :])]
    return sorted(found, key=lambda path: int(path.stem[len(prefix) :]))


def _separate_images(folder: Path, item: DpgItem, found: list[Path], count: int) -> list[DpgImage]:
    missing = [folder / item.item_id / f"{number}.png" for number in range(len(found), count)]
    paths = [*found[:count], *missing]
    return [DpgImage(path, path.as_posix(), item, number, None) for number, path in enumerate(paths)]


def _escape(name: str) -> str:
    """`name` without the meaning that glob gives to some characters."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _grid(path: Path, count: int, size_px: tuple[int, int] | None) -> Grid:
    if size_px is not None:
        return Grid(count, *size_px)
    try:
        with Image.open(path) as image:
            width, height = image.size
    except OSError as error:
        raise EvaluationError(f"{path}: not readable as an image, so the size of the grid is unknown.") from error
    rows, columns = -(-count // 2), min(count, 2)
    if height % rows or width % columns:
        raise EvaluationError(
            f"{path}: {width}x{height} px cannot be a grid of {count} images. Give --size and --images-per-prompt."
        )
    return Grid(count, height // rows, width // columns)
