"""A large corpus of small images through everything that reads all of it: seconds, images per second, peak memory.

    python -m bench.corpus                          # 100,000 images of 32x32 px; some minutes, 1 GB of disk
    python -m bench.corpus --images 2500 5000 10000 # how it scales

Each step is a process of its own, so that its peak memory is its own; DVC's steps are its own commands in a new
project, with its cache on the same disk. Peak memory is VmHWM of /proc, so that this runs on Linux only: ru_maxrss of a
child begins with that of its parent.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from l2p.config import Layout, load_params
from l2p.data.corpus import COLUMNS, IMAGES_PER_SHARD
from l2p.data.prompts import prompt_id
from l2p.data.synthesis import write_png
from l2p.quiet import quiet_third_parties

ROOT = Path(__file__).parents[1]
MB = 2**20
# What a step runs, in the project's folder; it prints its own peak memory at the end.
_LIBRARY = """
from pathlib import Path
import l2p.stages.validate
from l2p.config import Layout, load_params
from l2p.data.corpora.difference import compare
from l2p.data.corpora.names import read_corpus
from l2p.data.corpora.packing import pack_corpus
from l2p.data.corpora.unpacking import unpack_corpus
from l2p.data.corpora.verifying import verify_corpus
from l2p.quiet import quiet_third_parties

quiet_third_parties()
corpus, pack = Layout.corpus, Path("pack")
{code}
"""
_DVC = """
import sys
from dvc.cli import main

assert main({words}) == 0
"""
_PEAK = """
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
_STEPS = {
    "validate": "l2p.stages.validate.run(load_params())",
    "corpus verify": "assert verify_corpus(read_corpus(corpus), corpus).success",
    "corpus pack": "pack_corpus(read_corpus(corpus), corpus, pack, images_per_shard=1000)",
    "corpus pack (again)": "assert pack_corpus(read_corpus(corpus), corpus, pack, images_per_shard=1000).written == 0",
    "corpus unpack": "unpack_corpus(pack, Path('unpacked'))",
    "corpus diff": "compare(read_corpus(corpus), read_corpus(Path('unpacked')))",
}
_DVC_STEPS = {"dvc add": ["add", "--quiet", str(Layout.corpus)], "dvc status": ["status", "--quiet"]}


@dataclass(frozen=True)
class Step:
    """What one step took."""

    name: str
    seconds: float
    peak_bytes: int


def main() -> None:
    """Measure every number of images and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", type=int, default=[100_000], help="sizes of the corpus")
    parser.add_argument("--side", type=int, default=32, help="side of an image, px; a multiple of 16")
    arguments = parser.parse_args()
    quiet_third_parties()
    print(f"{'images':>8}  {'step':<20}{'s':>8}{'images/s':>10}{'peak MB':>9}")
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            measure(count, arguments.side)


def measure(count: int, side_px: int) -> list[Step]:
    """Make a project with `count` images in the working directory, run every step and print its row."""
    write_project(count, side_px)
    steps = []
    for name, code in _STEPS.items():
        steps.append(run_step(name, _LIBRARY.format(code=code)))
        _print(count, steps[-1])
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, check=True)
    for name, words in _DVC_STEPS.items():
        steps.append(run_step(name, _DVC.format(words=words)))
        _print(count, steps[-1])
    return steps


def write_project(count: int, side_px: int) -> None:
    """params.yaml and a corpus of different images, as synthesis would leave it."""
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    text = Path("params.yaml").read_text(encoding="utf-8")
    for name in ("height_px", "width_px"):
        text = text.replace(f"\n  {name}: 64\n", f"\n  {name}: {side_px}\n")
    text = text.replace("\n  agreement: shapes\n", "\n  agreement: none\n")  # the captions are of no world
    text = text.replace("\n  max_class_share: 0.4\n", "\n  max_class_share: null\n")  # and of one class
    Path("params.yaml").write_text(text, encoding="utf-8")
    settings = load_params().synthesize
    rng, rows = np.random.default_rng(0), []
    for index in range(count):
        name = f"{index // IMAGES_PER_SHARD:05d}/{index:06d}.png"
        caption = f"a photo of scene number {index // 2}, with words as many as a caption of some length has"
        pixels = np.kron(rng.integers(0, 255, (8, 8, 3), np.uint8), np.ones((side_px // 8, side_px // 8, 1), np.uint8))
        known = {"file_name": name, "sha256": write_png(Layout.corpus / name, pixels), "seed": index}
        prompt = {"prompt_id": prompt_id(caption), "text": caption, "style": "scene", "source_digest": "d"}
        size = {"height_px": side_px, "width_px": side_px}
        rows.append({**known, **prompt, **size, "num_steps": settings.num_steps, "guidance_scale": 0.0})
    pd.DataFrame(rows).reindex(columns=COLUMNS).to_parquet(Layout.corpus_table, index=False)


def run_step(name: str, code: str) -> Step:
    """Run a step in a process of its own; its last line is its peak memory in KiB."""
    start = time.perf_counter()
    command = [sys.executable, "-c", code + _PEAK]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}
    )
    if done.returncode:
        raise SystemExit(f"{name} failed: {done.stderr[-1000:]}")
    return Step(name, time.perf_counter() - start, int(done.stdout.splitlines()[-1]) * 1024)


def _print(count: int, step: Step) -> None:
    rate, peak_mb = count / step.seconds, step.peak_bytes / MB
    print(f"{count:>8}  {step.name:<20}{step.seconds:>8.1f}{rate:>10.0f}{peak_mb:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
