"""Owns `l2p distance`: how close the images in two folders are, beyond what a benchmark sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from l2p.config import FidelityParams
from l2p.files import write_json


def add_to(app: typer.Typer) -> None:
    """Add `distance` to `app`."""
    app.command("distance", rich_help_panel="Models")(distance)


def distance(
    reference: Annotated[Path, typer.Argument(help="Folder of images, for example reports/geneval/source/images.")],
    other: Annotated[Path, typer.Argument(help="Folder of images of the same names by another model.")],
    clip: Annotated[str | None, typer.Option(help="CLIP model: adds CLIP score, CMMD and a Fréchet distance.")] = None,
    inception: Annotated[bool, typer.Option(help="Add FID (extra `fid`).")] = False,
    json: Annotated[Path | None, typer.Option(help="Write everything here.")] = None,
) -> None:
    """Compare images of the same prompts and seeds: sharpness spectrum, and distances where a model is given."""
    from l2p.evaluation.fidelity.measuring import measure
    from l2p.evaluation.subject import default_device

    settings = FidelityParams(spectrum=True, clip=clip, inception=inception)
    found = measure(reference, other, settings, device=default_device())
    for line in describe(found):
        typer.echo(line)
    if json is not None:
        write_json(json, found)
        typer.echo(f"wrote {json}")


def describe(found: dict[str, Any]) -> Iterator[str]:
    """The figures as lines."""
    pairs = found["pairs"]
    yield f"{pairs['n']} pairs of images, {pairs['width_px']}x{pairs['height_px']} px"
    for name, values in (("only in one folder", pairs["unpaired"]), ("not readable", pairs["failures"])):
        if values:
            first = values[0] if isinstance(values[0], str) else values[0]["image"]
            yield f"{len(values)} {name}, first: {first}"
    if found["spectrum"]:
        yield "power over the reference's, with 95 % intervals:"
        for name, band in found["spectrum"]["bands"].items():
            (low, high), (start, end) = band["interval"], band["cycles_per_px"]
            yield f"  {name:4} {start:4.2f} to {end:4.2f} cycles/px: {band['ratio']:.3f} ({low:.3f} .. {high:.3f})"
    if found["clip"]:
        yield f"CMMD {found['clip']['cmmd']:.3f} with {found['clip']['model']['name']}"
        if found["clip"]["frechet"] is not None:
            yield f"Fréchet distance of CLIP features {found['clip']['frechet']:.3f}"
        for name, score in (found["clip"]["score"] or {}).items():
            low, high = score["interval"]
            yield f"CLIP score of {name}: {score['value']:.2f} ({low:.2f} .. {high:.2f})"
    if found["inception"]:
        yield f"FID {found['inception']['fid']:.3f}"
