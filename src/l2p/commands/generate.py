"""Owns `l2p generate`: draw images with a pixel model, and write in each PNG what it was drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l2p import __version__
from l2p.commands.locate import locate_model
from l2p.config import Layout, load_params
from l2p.errors import ConfigError, DataError, MissingFileError, ModelError
from l2p.files import atomic_path, sha256_file, sha256_json

if TYPE_CHECKING:
    from PIL.Image import Image

_WHITE = 255


@dataclass(frozen=True)
class Request:
    """What to draw; None leaves it to the model."""

    prompt: str
    negative: str
    size_px: tuple[int, int]  # (height, width)
    steps: int | None
    guidance: float | None
    image: Path | None
    mask: Path | None
    strength: float | None
    lora: Path | None


def add_to(app: typer.Typer) -> None:
    """Add `generate` to `app`."""
    app.command("generate", rich_help_panel="Models")(generate)


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option(help="PNG to write; several get a number: x-1.png.")],
    model: Annotated[
        str, typer.Option(help="Folder of a pixel model or of a saved pipeline, or NAME@ALIAS of the registry.")
    ] = str(Layout.pixel),
    size: Annotated[
        str | None, typer.Option(metavar="WIDTHxHEIGHT", help="Pixels. [default: of --image, else of the corpus]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image; each further one adds 1.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. [default: the model's]")] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Guidance scale, as the source takes it. [default: the model's]")
    ] = None,
    negative: Annotated[str, typer.Option(help="What guidance leads away from.")] = "",
    image: Annotated[Path | None, typer.Option(help="Picture to draw over.")] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, max=1, help="How much of --image is redrawn. [default: 0.6, with --mask 1]")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Picture of the size of --image: white is redrawn.")] = None,
    lora: Annotated[Path | None, typer.Option(help="LoRA of the model or of its source, .safetensors.")] = None,
    save_steps: Annotated[Path | None, typer.Option(help="Folder for what the image looks like at each step.")] = None,
) -> None:
    """Draw images from a prompt with a pixel model."""
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a file name that ends in .png.")
    for option, value in (("strength", strength), ("mask", mask)):
        if value is not None and image is None:
            raise ConfigError(f"--{option}: changes a given picture. Give --image too.")
    known = _open_pictures(image, mask)
    size_px = parse_size(size) if size else _size_px(known.get("image"), context.obj)
    request = Request(prompt, negative, size_px, steps, guidance, image, mask, strength, lora)
    folder = locate_model(model, context.obj)
    pipeline = _load(folder, lora)
    facts = describe(request, folder)
    for path, own_seed in zip(_names(out, count), range(seed, seed + count), strict=True):
        preview = None if save_steps is None else _preview(save_steps / path.stem)
        drawn = _draw(pipeline, request, known, seed=own_seed, callback=preview)
        used = {"seed": own_seed, "steps": steps or pipeline.config.num_inference_steps}
        _write(path, drawn, facts | used | {"guidance_scale": pipeline.guidance_scale})
        typer.echo(path)


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of WIDTHxHEIGHT.

    Raises:
        ConfigError: another spelling.
    """
    width, times, height = text.lower().partition("x")
    if not (times and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"--size {text}: expected WIDTHxHEIGHT in pixels, for example 1024x768.")
    return int(height), int(width)


def describe(request: Request, folder: Path) -> dict[str, Any]:
    """What the image depends on, as far as it is known before drawing; digests instead of paths."""
    facts: dict[str, Any] = {"prompt": request.prompt, "negative_prompt": request.negative}
    facts["size"] = f"{request.size_px[1]}x{request.size_px[0]}"
    facts |= {"model_digest": model_digest(folder), "l2p_version": __version__}
    for name in ("image", "mask", "lora"):
        path: Path | None = getattr(request, name)
        if path is not None:
            facts[f"{name}_sha256"] = sha256_file(path)
    return facts | ({} if request.strength is None else {"strength": request.strength})


def model_digest(folder: Path) -> str:
    """Of a delta over source and weights, as in the scores of a model; of a saved pipeline over all its weights."""
    from l2p.models.delta import CARD, read_delta_card

    if (folder / CARD).is_file():
        card = read_delta_card(folder)
        return sha256_json([card["source"]["digest"], card["weights_sha256"]])
    weights = sorted(folder.rglob("*.safetensors"))
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in weights})


def _load(folder: Path, lora: Path | None) -> Any:
    import torch

    from l2p.models.pipeline import load_pixel_pipeline

    pipeline = load_pixel_pipeline(folder, device="cuda" if torch.cuda.is_available() else "cpu")
    pipeline.set_progress_bar_config(disable=None)  # silent when not a terminal
    if lora is not None:
        pipeline.load_lora_weights(lora)
    return pipeline


def _draw(
    pipeline: Any, request: Request, known: dict[str, Image], *, seed: int, callback: Callable[..., Any] | None
) -> Image:
    """One image, so that it does not depend on how many are drawn."""
    import numpy as np
    import torch
    from PIL import Image

    pixels_HWC = pipeline(
        request.prompt,
        request.negative or None,
        image=known.get("image"),
        mask_image=known.get("mask"),
        strength=request.strength,
        height=request.size_px[0],
        width=request.size_px[1],
        num_inference_steps=request.steps,
        guidance_scale=request.guidance,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["x0"],
        output_type="np",
    ).images[0]
    if not np.isfinite(pixels_HWC).all():
        raise ModelError(
            "the model put out numbers that are not finite; its weights, or those of the LoRA, are damaged."
        )
    return Image.fromarray((pixels_HWC * _WHITE).round().astype(np.uint8))


def _preview(prefix: Path) -> Callable[..., dict[str, Any]]:
    """A callback that writes PREFIX-step-001.png, ...: the model's guess at the finished image."""

    def save(pipeline: Any, index: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        (image,) = pipeline.image_processor.postprocess(tensors["x0"], output_type="pil")
        _write(prefix.with_name(f"{prefix.name}-step-{index + 1:03d}.png"), image, {})
        return {}

    return save


def _write(path: Path, image: Image, facts: dict[str, Any]) -> None:
    """Write a PNG with a text chunk per fact, whole or not at all."""
    from PIL.PngImagePlugin import PngInfo

    chunks = PngInfo()
    for name, value in facts.items():
        chunks.add_text(name, str(value))
    with atomic_path(path) as partial:
        image.save(partial, format="PNG", pnginfo=chunks)


def _open_pictures(image: Path | None, mask: Path | None) -> dict[str, Image]:
    given = {"image": image, "mask": mask}
    return {name: _open_picture(path, f"--{name}") for name, path in given.items() if path is not None}


def _open_picture(path: Path, option: str) -> Image:
    from PIL import Image, ImageOps

    if not path.is_file():
        raise MissingFileError(f"{option} {path}: no such file.")
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{option} {path}: cannot be read as a picture ({' '.join(str(error).split())}).") from error


def _size_px(image: Image | None, params_file: Path) -> tuple[int, int]:
    """(height, width) of the picture to draw over, else of the corpus."""
    if image is not None:
        return image.height, image.width
    if not params_file.is_file():
        raise ConfigError(
            f"--size: missing, and there is no {params_file} to take it from. Give WIDTHxHEIGHT in pixels."
        )
    synthesize = load_params(params_file).synthesize
    return synthesize.height_px, synthesize.width_px


def _names(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{index + 1}") for index in range(count)]
