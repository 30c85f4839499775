"""The picture of the README: GenEval prompts spread evenly over the benchmark, source above pixel model, same seeds.

python -m bench.picture docs/images/source-beside-pixel.png     # in a project whose `geneval` stages have run
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw

from l2p.config import Layout
from l2p.errors import MissingFileError
from l2p.evaluation.pictures import spread

COLUMNS, SIDE_PX, GAP_PX, LABEL_PX = 8, 112, 8, 58
MODELS = ("source", "pixel")
INK = (64, 64, 64)


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="PNG to write")
    out = parser.parse_args().out
    draw(Layout.geneval).save(out)


def draw(folder: Path) -> Image.Image:
    """First image of each chosen prompt, a row per model; nothing is chosen by its looks."""
    prompts = sorted(path.name for path in (folder / MODELS[0] / "images").glob("[0-9]*"))
    if not prompts:
        raise MissingFileError(f"{folder}: holds no images. `dvc repro geneval` draws them.")
    step = SIDE_PX + GAP_PX
    picture = Image.new("RGB", (LABEL_PX + COLUMNS * step, GAP_PX + len(MODELS) * step), "white")
    pen = ImageDraw.Draw(picture)
    for row, model in enumerate(MODELS):
        top = GAP_PX + row * step
        pen.text((GAP_PX, top + SIDE_PX / 2), model, fill=INK, anchor="lm", font_size=14)
        for column, prompt in enumerate(spread(prompts, COLUMNS)):
            image = Image.open(folder / model / "images" / prompt / "samples" / "0000.png").convert("RGB")
            resized = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)
            picture.paste(resized, (LABEL_PX + column * step, top))
    return picture


if __name__ == "__main__":
    main()
