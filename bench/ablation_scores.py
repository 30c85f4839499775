"""Owns the figures of an ablation: scores of a variant averaged over seeds, retention, and the difference to another.

Intervals are paired bootstraps over prompts (`l2p.evaluation.pairing`): with several seeds the score of a prompt is the
mean over them, so an interval tells what other prompts would change, and `seed_range` what other seeds did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.ablation_matrix import BASELINE, Variant
from l2p.config import Layout
from l2p.errors import EvaluationError
from l2p.evaluation import dpg, geneval
from l2p.evaluation.pairing import Part, holm, pair
from l2p.evaluation.retention import read_rows
from l2p.evaluation.scores import Interval, PromptScores, Retention, bootstrap, retention
from l2p.files import atomic_path, read_json, write_json

RESULT = "result.json"
# What result.json says of a variant besides its scores: seeds are averaged.
COSTS = ("final_loss", "train_minutes", "minutes", "trainable_parameters", "images_per_s", "peak_memory_mb")

Finished = Mapping[str, Mapping[int, Path]]  # variant -> seed -> folder with result.json and the evaluations
_WRITTEN_BY = "python -m bench.ablations"


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lies in a project, and how its prompts are scored (0..1, times `scale`)."""

    name: str
    folder: Path
    rows: str
    scale: float
    prompt_scores: Callable[[Sequence[dict[str, Any]]], PromptScores]

    def read(self, evaluation: Path) -> PromptScores:
        """The scores of the prompts of an evaluation."""
        return self.prompt_scores(read_rows(evaluation / self.rows, _WRITTEN_BY))


BENCHMARKS = (
    Benchmark("geneval", Layout.geneval, geneval.RESULTS, 1.0, geneval.prompt_scores),
    Benchmark("dpg", Layout.dpg, dpg.ANSWERS, dpg.PERCENT, dpg.item_scores),
)


@dataclass(frozen=True)
class Figures:
    """One benchmark of one row, in the benchmark's own scale; retention as a share.

    `difference` is variant minus what it is compared with, None for the baseline; `beyond_chance` is corrected for the
    number of comparisons in the table (Holm, family-wise 5 %).
    """

    score: float
    interval: Interval
    seed_range: Interval
    retention: Retention
    difference: Part | None = None
    beyond_chance: bool = False


@dataclass(frozen=True)
class Row:
    """A variant compared with `against` (empty: the baseline itself); no figures, and why, if it did not finish."""

    group: str
    variant: str
    against: str = ""
    seeds: tuple[int, ...] = ()
    figures: Mapping[str, Figures] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""


def compare_all(
    variants: Sequence[Variant], finished: Finished, *, problems: Mapping[str, str], out: Path
) -> list[Row]:
    """The rows of the table, the baseline first.

    Args:
        variants: those of the table, in its order.
        finished: the folders of what finished.
        problems: by variant, why one did not.
        out: gets `pooled/`, the evaluations averaged over seeds, which `l2p compare` reads too.
    """
    table = Table(finished, problems, out)
    rows = [table.row(Row("", BASELINE))]
    for variant in variants:
        for against in dict.fromkeys((BASELINE, variant.also_against or BASELINE)):
            rows.append(table.row(Row(variant.group, variant.name, against)))
    return _mark(rows)


@dataclass(frozen=True)
class Table:
    """Fills rows with figures; the arguments are those of `compare_all`."""

    finished: Finished
    problems: Mapping[str, str]
    out: Path

    def row(self, row: Row) -> Row:
        """`row` with its figures, as far as there are any."""
        own, problem = self.finished.get(row.variant, {}), self.problems.get(row.variant, "")
        if not own:
            return replace(row, problem=problem or "not finished")
        results = [read_json(folder / RESULT, written_by=_WRITTEN_BY) for folder in own.values()]
        costs = {name: sum(result[name] for result in results) / len(results) for name in COSTS}
        figures = {benchmark.name: self._figures(benchmark, row.variant) for benchmark in BENCHMARKS}
        common = sorted(own.keys() & self.finished.get(row.against, {}).keys())
        try:
            for benchmark in BENCHMARKS if common else ():
                folders = [self._pooled(benchmark, name, common) for name in (row.against, row.variant)]
                figures[benchmark.name] = replace(figures[benchmark.name], difference=pair(*folders).parts[0])
        except EvaluationError as error:  # a variant that changes the benchmark itself
            problem = problem or str(error)
        if row.against and not common:
            problem = problem or f"no seed in common with {row.against}"
        return replace(row, seeds=tuple(sorted(own)), figures=figures, costs=costs, problem=problem)

    def _figures(self, benchmark: Benchmark, variant: str) -> Figures:
        own = self.finished[variant]
        alone = [
            benchmark.scale * benchmark.read(folder / benchmark.folder / "pixel").overall() for folder in own.values()
        ]
        source = benchmark.read(next(iter(own.values())) / benchmark.folder / "source")
        pixel = benchmark.read(self._pooled(benchmark, variant, sorted(own)))
        low, high = bootstrap(pixel)[0]
        return Figures(
            score=benchmark.scale * pixel.overall(),
            interval=(benchmark.scale * low, benchmark.scale * high),
            seed_range=(min(alone), max(alone)),
            retention=retention(source, pixel),
        )

    def _pooled(self, benchmark: Benchmark, variant: str, seeds: Sequence[int]) -> Path:
        """An evaluation with the images of several training seeds, as if each prompt had more images."""
        target = self.out / "pooled" / f"{variant}-seeds-{'-'.join(map(str, seeds))}" / benchmark.name
        folders = [self.finished[variant][seed] / benchmark.folder / "pixel" for seed in seeds]
        with atomic_path(target / benchmark.rows) as partial:
            partial.write_text("".join((folder / benchmark.rows).read_text(encoding="utf-8") for folder in folders))
        card = read_json(folders[0] / geneval.SCORES, written_by=_WRITTEN_BY)["card"]
        scores = benchmark.read(target)
        interval = [benchmark.scale * value for value in bootstrap(scores)[0]]
        write_json(
            target / geneval.SCORES,
            {
                "overall": benchmark.scale * scores.overall(),
                "interval": interval,
                "training_seeds": seeds,
                "card": card,
            },
        )
        return target


def _mark(rows: Sequence[Row]) -> list[Row]:
    """Which differences are beyond chance, of all comparisons of a benchmark in the table."""
    marked = list(rows)
    for benchmark in BENCHMARKS:
        compared = {
            place: figures.difference.p_value
            for place, row in enumerate(rows)
            if (figures := row.figures.get(benchmark.name)) and figures.difference
        }
        for place, real in zip(compared, holm(list(compared.values())), strict=True):
            row = marked[place]
            changed = replace(row.figures[benchmark.name], beyond_chance=real)
            marked[place] = replace(row, figures={**row.figures, benchmark.name: changed})
    return marked
