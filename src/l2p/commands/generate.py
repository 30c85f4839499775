"""Owns `l2p generate`: draw images from a prompt with a pixel model, from a folder or the registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from l2p.config import Layout, Params, load_params
from l2p.errors import ConfigError, MissingFileError


@dataclass(frozen=True)
class Drawing:
    """What to draw; None leaves it to the model (steps, guidance) or to params.yaml (size)."""

    prompt: str
    seed: int
    count: int
    steps: int | None
    guidance: float | None
    height: int | None
    width: int | None


def add_to(app: typer.Typer) -> None:
    """Add `generate` to `app`."""
    app.command("generate", rich_help_panel="Models")(generate)


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    out: Annotated[Path, typer.Option(help="PNG to write; several get a number: x-1.png.")],
    model: Annotated[str, typer.Option(help="Folder of a pixel model, or NAME@ALIAS of the registry.")] = str(
        Layout.pixel
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first image; each further one adds 1.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many images.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. [default: the model's]")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale. [default: the model's]")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels. [default: the corpus's]")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels. [default: the corpus's]")] = None,
) -> None:
    """Draw images from a prompt with a pixel model."""
    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a file name that ends in .png.")
    params = load_params(context.obj)
    drawing = Drawing(prompt, seed, count, steps, guidance, height, width)
    for path, image in zip(_names(out, count), _draw(_folder(model, params), drawing, params), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        typer.echo(path)


def _draw(folder: Path, drawing: Drawing, params: Params) -> list[Any]:
    import torch
    from PIL import Image

    from l2p.models.delta import read_delta_card
    from l2p.models.pipeline import load_pixel_pipeline
    from l2p.models.sampling import draw_images, encode_prompts

    sampler = read_delta_card(folder)["sampler"]
    pipeline = load_pixel_pipeline(folder, device="cuda" if torch.cuda.is_available() else "cpu")
    embedding, empty = encode_prompts(pipeline, [drawing.prompt, ""])
    pixels_BHWC = draw_images(
        pipeline,
        [embedding] * drawing.count,
        empty=empty,
        size_px=(drawing.height or params.synthesize.height_px, drawing.width or params.synthesize.width_px),
        num_steps=drawing.steps or sampler["num_steps"],
        guidance_scale=sampler["guidance_scale"] if drawing.guidance is None else drawing.guidance,
        seeds=[drawing.seed + index for index in range(drawing.count)],
    )
    return [Image.fromarray(pixels) for pixels in pixels_BHWC]


def _folder(model: str, params: Params) -> Path:
    if "@" in model and not Path(model).exists():
        from l2p.registry.versions import fetch_model

        return fetch_model(model, tracking_uri=params.register_.tracking_uri)
    if not Path(model).is_dir():
        raise MissingFileError(
            f"--model {model}: no such folder. `dvc repro train` writes {Layout.pixel}; or give NAME@ALIAS."
        )
    return Path(model)


def _names(out: Path, count: int) -> list[Path]:
    return [out] if count == 1 else [out.with_stem(f"{out.stem}-{index + 1}") for index in range(count)]
