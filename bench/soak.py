"""Kill a training again and again with SIGKILL, also during its saves, and compare what comes of it bit for bit.

    python -m bench.soak                          # 20 kills of one process; some minutes
    python -m bench.soak --kills 5 --processes 2 --zero 3

The embedded source is trained once without interruption and once with kills at random moments; a checkpoint is written
every second step, so that many kills hit one being written. Exit code 1 if weights or curves differ.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench.training_loops import prepare_source
from l2p.config import Layout, load_params
from l2p.files import sha256_file
from l2p.models.delta import WEIGHTS
from l2p.quiet import quiet_third_parties

ROOT = Path(__file__).parents[1]
TIMING = ("images_per_s", "memory_mb")
LOOK_EVERY_S = 0.005


@dataclass
class Tally:
    """What the kills hit."""

    kills: int = 0
    during_saves: int = 0
    before_a_step: int = 0


def main() -> int:
    """Train twice and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="how often the second training is killed")
    parser.add_argument("--steps", type=int, default=80, help="length of the training")
    parser.add_argument("--processes", type=int, default=1, help="training processes")
    parser.add_argument("--zero", type=int, default=1, choices=(1, 2, 3), help="ZeRO stage")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    arguments = parser.parse_args()
    quiet_third_parties()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_project(arguments.steps, arguments.processes, arguments.zero)
        train_to_the_end()
        expected = outcome()
        for path in (Layout.pixel, Layout.checkpoints, Layout.training):
            shutil.rmtree(path)
        tally = train_with_kills(arguments.kills, random.Random(arguments.seed))
        found = outcome()
    same = found == expected
    print(
        f"{tally.kills} kills, {tally.during_saves} of them while a checkpoint was written, {tally.before_a_step} "
        f"before the first step of a run; weights and curves are {'the same, bit for bit' if same else 'DIFFERENT'}"
    )
    return 0 if same else 1


def write_project(steps: int, processes: int, zero: int) -> None:
    """A project in this folder on which `l2p train` can run."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["source"]["path"] = str(ROOT / "sources/shapes")
    raw["convert"]["init"] = "random"
    raw["train"] |= {
        "num_steps": steps,
        "batch_size": 8,
        "compile_blocks": False,
        "checkpoint_every": 2,
        "log_every": 1,
        "validate_every": 10,
        "validation_images": 8,
        "sample_every": steps,
        "num_processes": processes,
        "keep": "best_val_loss",
        "deepspeed": {"zero_optimization": {"stage": zero}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    prepare_source(ROOT / "sources/shapes", load_params())


def train_to_the_end() -> None:
    """`l2p train`; its last line is ours."""
    done = start().communicate()[0]
    if not (Layout.pixel / WEIGHTS).is_file():
        sys.exit(done)
    print(done.strip().splitlines()[-1])


def train_with_kills(kills: int, chance: random.Random) -> Tally:
    """Start, kill after a random number of further steps or moments, start again."""
    tally = Tally()
    while tally.kills < kills:
        process, rows_before = start(), logged()
        wanted = rows_before + chance.choice((0, 1, 1, 2, 3))
        while process.poll() is None and logged() < wanted:
            time.sleep(LOOK_EVERY_S)
        time.sleep(chance.uniform(0, 0.5 if wanted > rows_before else 8))
        if process.poll() is not None:
            sys.exit(f"the training ended before it was killed {kills} times; give it more --steps")
        process.send_signal(signal.SIGKILL)
        process.communicate()
        tally.kills += 1
        tally.during_saves += any(Layout.checkpoints.glob("*.partial"))
        tally.before_a_step += logged() <= rows_before
        print(f"kill {tally.kills}: after {logged()} logged steps", flush=True)
    train_to_the_end()
    return tally


def start() -> subprocess.Popen[str]:
    """`l2p train` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "l2p.cli", "train"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )


def logged() -> int:
    """Rows of the curves so far."""
    path = Layout.training / "curves.csv"
    return max(0, len(path.read_text(encoding="utf-8").splitlines()) - 1) if path.is_file() else 0


def outcome() -> tuple[str, list[dict[str, str]]]:
    """Digest of the weights, and the curves without times."""
    with (Layout.training / "curves.csv").open(newline="", encoding="utf-8") as stream:
        rows = [{name: text for name, text in row.items() if name not in TIMING} for row in csv.DictReader(stream)]
    return sha256_file(Layout.pixel / WEIGHTS), rows


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
