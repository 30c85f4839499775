"""Real images for the prompts of this project: data/corpus as the renderer of the shapes world draws it.

    python -m bench.ablation_renders      # in a project with params.yaml, models/source.json and data/prompts

Takes the place of `l2p synthesize` in the ablation source-generated against real. The table has the columns of
`l2p synthesize`: seeds are those of the scenes, size, steps and guidance those of params.yaml, which `l2p validate`
holds them against, and the source is called `renderer`.
"""

from __future__ import annotations

import argparse
import random
import re

import pandas as pd
from tqdm.auto import tqdm

from l2p.config import Layout, SynthesizeParams, load_params
from l2p.data.corpus import COLUMNS
from l2p.data.prompts import read_prompts
from l2p.errors import ConfigError, DataError
from l2p.files import atomic_path
from l2p.shapes import captions
from l2p.shapes.render import render
from l2p.shapes.world import (
    BACKGROUNDS,
    COLORS,
    NUMBER_WORDS,
    PLURALS,
    QUADRANTS,
    RELATIONS,
    SHAPES,
    SIZE_PX,
    Prompt,
    Thing,
    draw_scene,
)

RENDERER = "renderer"  # in the column source_digest: these images have no source

_COUNTS = {NUMBER_WORDS[count]: count for count in (2, 3, 4)}
_SINGULARS = {plural: shape for shape, plural in PLURALS.items()}


def main() -> None:
    """Draw the corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    params = load_params()
    count = draw_corpus(read_prompts(Layout.prompts_table), params.synthesize)
    print(f"corpus of {count} renders")


def draw_corpus(prompts: pd.DataFrame, params: SynthesizeParams) -> int:
    """Write data/corpus, images first and the table last; returns the number of images.

    Raises:
        ConfigError: a size that the renderer does not draw.
        DataError: a prompt that is no caption of the shapes world.
    """
    from l2p.data.synthesis import plan_images, write_png  # it brings the source's libraries along

    if (params.height_px, params.width_px) != (SIZE_PX, SIZE_PX):
        raise ConfigError(
            f"synthesize.height_px, width_px = {params.height_px}, {params.width_px}: the renderer draws "
            f"{SIZE_PX}x{SIZE_PX} pixels only. Set both to {SIZE_PX}, or leave `corpus: renders` out."
        )
    rows = plan_images(prompts, params, RENDERER)
    for row in tqdm(rows, desc="rendering", unit="image", disable=None):
        scene = draw_scene(read_caption(row["text"]), random.Random(row["seed"]))
        row["sha256"] = write_png(Layout.corpus / row["file_name"], render(scene))
    with atomic_path(Layout.corpus_table) as partial:
        pd.DataFrame(rows).reindex(columns=COLUMNS).to_parquet(partial, index=False)
    return len(rows)


def read_caption(text: str) -> Prompt:
    """A caption of the shapes world as facts.

    Raises:
        DataError: it is none.
    """
    body, background = _split_background(text)
    for opening in captions.OPENINGS:
        if body.startswith(f"{opening} "):
            prompt = _read_sentence(opening, body.removeprefix(f"{opening} "), background)
            break
    else:
        prompt = _read_dense(body, background)
    if prompt is None or prompt.text != text:
        raise DataError(f"prompt {text!r}: no caption of the shapes world, so the renderer cannot draw it.")
    return prompt


def _split_background(text: str) -> tuple[str, str | None]:
    found = re.fullmatch(rf"(.*?),? on a ({_any(BACKGROUNDS)}) background", text)
    return (found[1], found[2]) if found else (text, None)


def _read_sentence(opening: str, body: str, background: str | None) -> Prompt | None:
    shape, color = _any(SHAPES), _any(COLORS)
    if found := re.fullmatch(rf"a ({shape})", body):
        return captions.single_object(opening, found[1], background)
    if found := re.fullmatch(rf"a ({color}) ({shape})", body):
        return captions.colors(opening, found[1], found[2], background)
    if found := re.fullmatch(rf"({_any(_COUNTS)}) ({_any(_SINGULARS)})", body):
        return captions.counting(opening, _COUNTS[found[1]], _SINGULARS[found[2]], background)
    if found := re.fullmatch(rf"a ({shape}) and a ({shape})", body):
        return captions.two_object(opening, found[1], found[2], background)
    if found := re.fullmatch(rf"a ({shape}) ({_any(RELATIONS)}) a ({shape})", body):
        return captions.position(opening, found[1], found[2], found[3], background)
    if found := re.fullmatch(rf"a ({color}) ({shape}) and a ({color}) ({shape})", body):
        return captions.color_attr(opening, Thing(found[2], found[1]), Thing(found[4], found[3]), background)
    return None


def _read_dense(body: str, background: str | None) -> Prompt | None:
    things = []
    for part in body.split(", "):
        found = re.fullmatch(rf"a ({_any(COLORS)}) ({_any(SHAPES)}) in the ({_any(QUADRANTS)})", part)
        if found is None:
            return None
        things.append(Thing(found[2], found[1], quadrant=found[3]))
    return None if background is None else captions.dense(tuple(things), background)


def _any(words: object) -> str:
    return "|".join(map(re.escape, words))  # type: ignore[call-overload]


if __name__ == "__main__":
    main()
