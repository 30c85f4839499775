"""Real images for the prompts of this project: data/corpus as the renderer of the shapes world draws it.

    python -m bench.ablation_renders      # in a project with params.yaml, models/source.json and data/prompts

Takes the place of `l2p synthesize` in the ablation source-generated against real. The table has the columns of
`l2p synthesize`: seeds are those of the scenes, size, steps and guidance those of params.yaml, which `l2p validate`
holds them against, and the source is called `renderer`.
"""

from __future__ import annotations

import argparse
import random

import pandas as pd
from tqdm.auto import tqdm

from l2p.config import Layout, SynthesizeParams, load_params
from l2p.data.corpus import COLUMNS
from l2p.data.prompts import read_prompts
from l2p.errors import ConfigError
from l2p.files import atomic_path
from l2p.shapes.reading import read_caption
from l2p.shapes.render import render
from l2p.shapes.world import SIZE_PX, draw_scene

RENDERER = "renderer"  # in the column source_digest: these images have no source


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
    from l2p.data.synthesis.rejection import write_no_rejections

    if (params.height_px, params.width_px) != (SIZE_PX, SIZE_PX):
        raise ConfigError(
            f"synthesize.height_px, width_px = {params.height_px}, {params.width_px}: the renderer draws "
            f"{SIZE_PX}x{SIZE_PX} pixels only. Set both to {SIZE_PX}, or leave `corpus: renders` out."
        )
    rows = plan_images(prompts, params, RENDERER)
    for row in tqdm(rows, desc="rendering", unit="image", disable=None):
        scene = draw_scene(read_caption(row["text"]), random.Random(row["seed"]))
        row["sha256"] = write_png(Layout.corpus / row["file_name"], render(scene))
    write_no_rejections(Layout.rejected)
    with atomic_path(Layout.corpus_table) as partial:
        pd.DataFrame(rows).reindex(columns=COLUMNS).to_parquet(partial, index=False)
    return len(rows)


if __name__ == "__main__":
    main()
