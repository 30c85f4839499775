"""The questions of the paper, asked of the embedded source: every variant of bench/ablations.yaml, and a table.

    python -m bench.ablations --out ablations                         # all of it; about an hour on two free cores
    python -m bench.ablations --out ablations --list                  # what there is, and what is finished
    python -m bench.ablations --out ablations --only blocks unet      # a group and a variant, with the baseline
    python -m bench.ablations --out ablations --seeds 0 1             # two training seeds each, averaged
    python -m bench.ablations --out ablations --set geneval.subset=1  # another base

Each variant is a project, OUT/NAME-seedS, with params.yaml and everything that the stages wrote; what variants have in
common (corpus, embeddings, the source's scores) is computed once. What is finished is not computed again, and a
training that was killed goes on at its last checkpoint. A variant that fails is noted, and the others go on. After
every variant OUT/table.csv, OUT/table.md and OUT/figure.png are written anew.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from bench.ablation_matrix import BASELINE, Job, Matrix, Variant, parse_setting, plan, read_matrix, read_yaml, select
from bench.ablation_scores import RESULT, compare_all
from bench.ablation_stages import (
    PARAMS,
    Keyed,
    Stage,
    StageFailed,
    for_corpus,
    last_line,
    link_outs,
    read_pipeline,
    run_stage,
    seconds_of,
    with_keys,
)
from bench.ablation_tables import CSV, FIGURE, MARKDOWN, write_all
from l2p.config import Layout
from l2p.errors import L2PError
from l2p.files import read_json, sha256_json, write_json

ROOT = Path(__file__).parents[1]
MATRIX = ROOT / "bench/ablations.yaml"
STEPS = "train.num_steps"
SOME_FAILED, USER_MISTAKE, INTERRUPTED = 1, 2, 130
_A_MINUTE = 60.0
_TRAIN = "train"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 0, 1 when a variant failed, 2 for a user's mistake."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except L2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the variants and the table")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="groups or variants; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="training seeds; default: 0")
    parser.add_argument("--steps", type=int, help=f"training steps of every variant, the same as --set {STEPS}=STEPS")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides of the base")
    parser.add_argument("--matrix", type=Path, default=MATRIX, help="the matrix; default: bench/ablations.yaml")
    parser.add_argument("--list", action="store_true", help="print the variants and their state, run nothing")
    return parser


def _run(options: argparse.Namespace) -> int:
    settings = dict(parse_setting(text) for text in options.set)
    if options.steps is not None:
        settings[STEPS] = options.steps
    matrix = read_matrix(options.matrix)
    variants = select(matrix, options.only)
    params = read_yaml(ROOT / PARAMS)
    jobs = plan(matrix, variants, seeds=dict.fromkeys(options.seeds), params=params, settings=settings)
    runner = Runner(read_pipeline(ROOT), options.out)
    if options.list:
        _list(jobs, runner)
        return 0
    return _run_all(jobs, variants, matrix, runner)


def _run_all(jobs: Sequence[Job], variants: Sequence[Variant], matrix: Matrix, runner: Runner) -> int:
    problems: dict[str, str] = {}
    with tqdm(jobs, desc="ablations", unit="variant", disable=None) as progress:
        for job in progress:
            try:
                runner.run(job)
            except StageFailed as error:
                problems[job.variant] = f"seed {job.seed}: {error}"
                _tell(f"{job.name}: FAILED: {error}")
            finished = runner.finished(jobs)
            rows = compare_all(variants, finished, problems=problems, out=runner.out)
            write_all(rows, matrix.groups, runner.out, heading=_heading(jobs))
    print((runner.out / MARKDOWN).read_text(encoding="utf-8"))
    print(f"{runner.out / MARKDOWN}, {runner.out / CSV}, {runner.out / FIGURE}")
    return SOME_FAILED if problems else 0


@dataclass
class Runner:
    """Runs jobs in `out`."""

    stages: Sequence[Stage]
    out: Path

    def __post_init__(self) -> None:
        """Nothing has failed yet."""
        self._failed: dict[str, StageFailed] = {}  # by key: a stage that failed is not tried again for another variant

    def keyed(self, job: Job) -> dict[str, Keyed]:
        """The stages of a job with their keys."""
        return with_keys(for_corpus(self.stages, job), job.params, ROOT)

    def folder(self, job: Job) -> Path:
        """Project of a job."""
        return self.out / job.name

    def run(self, job: Job) -> None:
        """Run what is not finished of a job, and write its result.json.

        Raises:
            StageFailed: one of its stages failed, now or for another job.
        """
        keyed = self.keyed(job)
        if self.is_finished(job):
            return
        params = _located(job.params, self.out)
        for name in keyed:
            self._run_stage(job, name, keyed, params)
        folder = self.folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PARAMS).write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
        link_outs(list(keyed.values()), folder, self.out)
        write_json(folder / RESULT, _result(job, keyed, folder, self.out))

    def _run_stage(self, job: Job, name: str, keyed: Mapping[str, Keyed], params: Mapping[str, Any]) -> None:
        key = keyed[name].key
        if key in self._failed:
            raise self._failed[key]
        try:
            if run_stage(name, keyed, params, root=ROOT, out=self.out):
                took = seconds_of(keyed[name], self.out)
                _tell(f"{job.name}: {name}, {took:.0f} s: {last_line(keyed[name].folder(self.out))}")
        except StageFailed as error:
            self._failed[key] = error
            raise

    def is_finished(self, job: Job) -> bool:
        """Whether result.json is there and was made with these parameters."""
        path = self.folder(job) / RESULT
        return path.is_file() and read_json(path, written_by="bench.ablations")["key"] == _key(self.keyed(job))

    def finished(self, jobs: Sequence[Job]) -> dict[str, dict[int, Path]]:
        """Folders of the finished jobs, by variant and seed."""
        found: dict[str, dict[int, Path]] = {}
        for job in jobs:
            if self.is_finished(job):
                found.setdefault(job.variant, {})[job.seed] = self.folder(job)
        return found


def _located(params: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """`params` for a project elsewhere: the source by its whole path, and one MLflow store for all variants."""
    source, register = params["source"], params["register"]
    folder = ROOT / source["path"]
    path = str(folder) if folder.is_dir() else source["path"]
    store = f"sqlite:///{out.resolve() / 'mlflow.db'}"
    return {
        **params,
        "source": {**source, "path": path},
        "register": {**register, "tracking_uri": store, "experiment": "ablations"},
    }


def _result(job: Job, keyed: Mapping[str, Keyed], folder: Path, out: Path) -> dict[str, Any]:
    trained = read_json(folder / Layout.training / "result.json", written_by="l2p train")
    seconds = {name: seconds_of(each, out) for name, each in keyed.items()}
    return {
        "group": job.group,
        "variant": job.variant,
        "seed": job.seed,
        "corpus": job.corpus,
        "key": _key(keyed),
        "final_loss": trained["final_loss"],
        "train_minutes": trained["seconds"] / _A_MINUTE,
        "minutes": sum(seconds.values()) / _A_MINUTE,
        "trainable_parameters": trained["trainable_parameters"],
        "images_per_s": trained["images_per_s"],
        "peak_memory_mb": trained["peak_memory_mb"],
        "seconds": seconds,
        "stages": {name: each.key for name, each in keyed.items()},
    }


def _key(keyed: Mapping[str, Keyed]) -> str:
    return sha256_json({name: each.key for name, each in keyed.items()})


def _heading(jobs: Sequence[Job]) -> str:
    base = jobs[0].params
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(job.seed for job in jobs))
    benchmarks = "; ".join(
        f"{name} {base[name].get('subset', 1):.0%} of the prompts, {base[name]['images_per_prompt']} image(s) each"
        for name in ("geneval", "dpg")
    )
    return (
        f"{base['train']['num_steps']} steps of {base['train']['batch_size']}, training seeds {seeds}; {benchmarks}. "
        "Intervals are 95 %, over prompts; differences are to the baseline, paired by prompt; * is beyond chance "
        "after Holm's correction for all comparisons of a benchmark. Minutes count every stage as if run alone."
    )


def _list(jobs: Sequence[Job], runner: Runner) -> None:
    for job in jobs:
        keyed = runner.keyed(job)
        done = sum(each.is_done(runner.out) for each in keyed.values())
        state = "finished" if runner.is_finished(job) else f"{done} of {len(keyed)} stages"
        print(f"{job.group or BASELINE:<12}{job.name:<26}{state}")


def _tell(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    sys.exit(main())
