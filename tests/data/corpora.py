"""A small corpus of real renders, and ways of damaging it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pandas as pd

from l2p.config import Params, load_params
from l2p.data.corpus import COLUMNS, decode_image
from l2p.data.prompts import prompt_id
from l2p.data.synthesis import write_png
from l2p.shapes.captions import training_prompts
from l2p.shapes.render import render
from l2p.shapes.world import draw_scene

HOW = {
    "repetition": 0,
    "attempt": 0,
    "shift": 3.0,
    "dtype": "float32",
    "source_digest": "d",
    "batch": "b",
    "batch_size": 1,
    "device": "a processor, 1 thread",
    **{f"{library}_version": "1.0" for library in ("torch", "diffusers", "transformers", "l2p")},
}


class Corpus:
    """A corpus folder whose images and rows can be changed one by one."""

    def __init__(self, folder: Path, count: int) -> None:
        rng = random.Random(0)
        self.folder, self.table = folder, folder / "metadata.parquet"
        self.params: Params = load_params(Path(__file__).parents[2] / "params.yaml")
        rows = []
        for index, prompt in enumerate(training_prompts(count, rng)):
            name = f"00000/{index:06d}.png"
            known = {"prompt_id": prompt_id(prompt.text), "text": prompt.text, "style": prompt.style}
            drawn = self.params.synthesize.model_dump(include={"height_px", "width_px", "num_steps", "guidance_scale"})
            digest = write_png(folder / name, render(draw_scene(prompt, rng)))
            rows.append({"file_name": name, "seed": index, "sha256": digest, **known, **drawn, **HOW})
        self.rows = pd.DataFrame(rows).reindex(columns=COLUMNS)
        self.save()

    def path(self, index: int) -> Path:
        return self.folder / self.rows.loc[index, "file_name"]

    def pixels(self, index: int) -> np.ndarray:
        return decode_image(self.path(index).read_bytes())

    def save(self) -> None:
        self.rows.to_parquet(self.table, index=False)

    def redraw(self, index: int, pixels: np.ndarray) -> None:
        """Replace the image and its recorded digest, as a source that draws such an image would."""
        self.rows.loc[index, "sha256"] = write_png(self.path(index), pixels)
        self.save()
