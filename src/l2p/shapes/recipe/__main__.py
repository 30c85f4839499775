"""`python -m l2p.shapes.recipe --out sources/shapes`: train the embedded source; a killed run goes on where it was."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from l2p.shapes.recipe.train import Recipe, train_source


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("sources/shapes"), help="folder in diffusers layout")
    parser.add_argument("--work", type=Path, default=Path("build/source"), help="checkpoints; delete to start anew")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="denoiser steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    train_source(Recipe(steps=options.steps), work=options.work, out=options.out)


if __name__ == "__main__":
    main()
