"""Owns where work is done: a list of batches goes through workers, in this process or on the workers of a Ray cluster.

A worker is made once where it runs (it loads a model) and called with a batch; what it returns must be JSON, since it
may come from another machine. Files that workers read and write must be on storage that all of them see.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from l2p.config import EvaluationParams
from l2p.errors import EvaluationError

# Of a worker. Workers that reserve every core leave none to Ray's own tasks, and one that died is then never replaced.
_RESERVED_CPUS = 0.5

_Work = TypeVar("_Work")
Worker = Callable[[Sequence[_Work]], list[Any]]


def run_batches(
    make_worker: Callable[[], Worker[_Work]], batches: Sequence[Sequence[_Work]], machine: EvaluationParams
) -> Iterator[tuple[Sequence[_Work], list[Any]]]:
    """Yield (batch, one result per item) as batches are finished, with `ray` in any order.

    Args:
        make_worker: makes a worker; not called when there is no work. With `ray` it is sent to other processes.
        batches: the work.
        machine: engine and number of workers.

    Raises:
        EvaluationError: `ray` is not installed, or a worker failed for good.
    """
    if not batches:
        return
    if machine.engine == "ray":
        yield from _run_on_ray(make_worker, batches, machine.num_workers)
        return
    worker = make_worker()
    for batch in batches:
        yield batch, worker(batch)


def split(items: Sequence[_Work], size: int) -> list[Sequence[_Work]]:
    """Consecutive batches of `size`, the last one smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class _RayWorker:
    """A worker inside a Ray actor: rows hold the number of a batch, results travel as JSON."""

    def __init__(self, make_worker: Callable[[], Worker[Any]], batches: Sequence[Sequence[Any]], folder: str) -> None:
        os.chdir(folder)
        self._worker = make_worker()
        self._batches = batches

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(number) for number in rows["id"]]
        return {"id": numbers, "result": [json.dumps(self._worker(self._batches[number])) for number in numbers]}


def _run_on_ray(
    make_worker: Callable[[], Worker[_Work]], batches: Sequence[Sequence[_Work]], num_workers: int
) -> Iterator[tuple[Sequence[_Work], list[Any]]]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EvaluationError(
            "evaluation.engine = 'ray': Ray is not installed. Run `pip install 'l2p[ray]'`, or use engine `local`."
        ) from error
    import torch

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.range(len(batches), override_num_blocks=len(batches)).map_batches(
        _RayWorker,
        fn_constructor_args=(make_worker, batches, str(Path.cwd())),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(num_workers, len(batches))),
        num_cpus=_RESERVED_CPUS,
        num_gpus=1 if torch.cuda.is_available() else 0,
    )
    try:
        for row in rows.iter_rows():
            yield batches[int(row["id"])], json.loads(row["result"])
    except ray.exceptions.RayError as error:
        cause = " ".join(str(error).split())[-400:]
        raise EvaluationError(f"a Ray worker failed: {cause} What was finished is kept; run it again.") from error
