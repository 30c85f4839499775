"""A corpus that was spoiled on purpose: as the source draws it, and then a share of its images replaced.

    python -m bench.ablation_pollution --share 0.25    # in a project with what `l2p synthesize` needs

Takes the place of `l2p synthesize` in the lesson filtered against unfiltered. Four kinds of damage, in equal parts: a
canvas of one colour, noise, the mirrored image of another prompt, a copy of another image with one level of noise.
Digests are recorded anew, so that only what an image shows gives it away. pollution.json names what was replaced.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from l2p.config import Layout, load_params
from l2p.errors import ConfigError
from l2p.files import atomic_path, write_json

POLLUTION = Path("pollution.json")
SEED = 20261126
_LEVELS = 256


def main() -> None:
    """Draw the corpus, or what is missing of it, and spoil it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, required=True, help="share of the images that are replaced")
    options = parser.parse_args()
    if not 0 < options.share < 1:
        raise ConfigError(f"--share {options.share}: expected a share between 0 and 1.")
    from l2p.stages.synthesize import run  # it brings the source's libraries along

    run(load_params())  # images that an interrupted run had spoiled already differ from the journal and are redrawn
    spoilt = pollute(Layout.corpus_table, options.share)
    write_json(POLLUTION, spoilt)
    found = ", ".join(f"{kind} {count}" for kind, count in sorted(Counter(spoilt.values()).items()))
    print(f"{len(spoilt)} images replaced: {found}")


def pollute(table: Path, share: float) -> dict[str, str]:
    """Replace images of the corpus at `table` and their digests; returns file name -> kind of damage."""
    from l2p.data.synthesis import write_png

    rows = pd.read_parquet(table)
    random = np.random.default_rng(SEED)
    chosen = random.permutation(len(rows))[: round(share * len(rows))]
    originals = [_read(table.parent / name) for name in rows["file_name"]]
    kinds = list(DAMAGE)
    spoilt: dict[str, str] = {}
    digests = rows["sha256"].tolist()
    for place, position in enumerate(chosen):
        kind, name = kinds[place % len(kinds)], rows["file_name"][position]
        other = _of_another_prompt(rows["text"], int(position), random)
        digests[position] = write_png(table.parent / name, DAMAGE[kind](originals[position], originals[other], random))
        spoilt[name] = kind
    with atomic_path(table) as partial:
        rows.assign(sha256=digests).to_parquet(partial, index=False)
    return spoilt


def _blank(own: np.ndarray, _other: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.broadcast_to(random.integers(_LEVELS, size=3), own.shape).astype(np.uint8)


def _noise(own: np.ndarray, _other: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return random.integers(_LEVELS, size=own.shape, dtype=np.uint8)


def _exchanged(_own: np.ndarray, other: np.ndarray, _random: np.random.Generator) -> np.ndarray:
    return other[:, ::-1].copy()  # mirrored, so that it repeats no other image


def _copied(_own: np.ndarray, other: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.clip(other.astype(int) + random.integers(-1, 2, size=other.shape), 0, _LEVELS - 1).astype(np.uint8)


Damage = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
DAMAGE: dict[str, Damage] = {"blank": _blank, "noise": _noise, "exchanged": _exchanged, "copied": _copied}


def _of_another_prompt(texts: pd.Series, position: int, random: np.random.Generator) -> int:
    others = np.flatnonzero((texts != texts[position]).to_numpy())
    return int(random.choice(others))


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


if __name__ == "__main__":
    main()
