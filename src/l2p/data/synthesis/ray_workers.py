"""Owns workers that are actors of a Ray cluster, on machines that all see the project's folder under the same path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from l2p.data.journal import DrawnBatch
from l2p.data.synthesis.crew import Died, SharedWork
from l2p.data.synthesis.painter import default_device
from l2p.data.synthesis.planning import Batch
from l2p.data.synthesis.worker import BatchWorker, Job
from l2p.errors import ConfigError, L2PError
from l2p.quiet import quiet_third_parties

_RESERVED_CPUS = 0.5  # of a worker: as many workers as cores must leave some to Ray itself
_LOG_CHARACTERS = 2000


class RayCrew(SharedWork):
    """Actors; where there are GPUs, each has one."""

    def __init__(self, job: Job, num_workers: int) -> None:
        """Connect to the cluster, or start one on this machine.

        Raises:
            ConfigError: Ray is not installed, or the cluster is too small.
        """
        super().__init__(num_workers)
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                "synthesize.engine = 'ray': Ray is not installed. Run `pip install 'l2p[ray]'`, or use engine `local`."
            ) from error
        self._ray: Any = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._needs = {"CPU": _RESERVED_CPUS, "GPU": 1.0 if torch.cuda.is_available() else 0.0}
        for kind, amount in self._needs.items():
            there = float(ray.cluster_resources().get(kind, 0.0))
            if amount * num_workers > there:
                raise ConfigError(
                    f"synthesize.num_workers = {num_workers}: the Ray cluster has {there:g} {kind}s, {amount:g} is "
                    f"needed by each. Set it to at most {int(there / amount)}."
                )
        self._job = job
        self._workers: list[Any] = []
        self._answers: dict[Any, int] = {}

    def start(self, count: int) -> None:
        """Make the actors."""
        actor = self._ray.remote(num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"])(RayWorker)
        self._workers = [actor.remote(self._job, str(Path.cwd()), number) for number in range(count)]

    def send(self, worker: int, batch: Batch | None) -> None:
        """Ask."""
        actor = self._workers[worker]
        answer = actor.flush.remote() if batch is None else actor.step.remote(batch)
        self._answers[answer] = worker

    def wait(self) -> tuple[int, list[DrawnBatch] | Died]:
        """The first answer, or that there will be none."""
        (ready, *_), _ = self._ray.wait(list(self._answers), num_returns=1)
        worker = self._answers.pop(ready)
        try:
            return worker, self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, (L2PError, OSError)):  # of the project or the disk: another would fail as well
                raise cause from error
            return worker, Died(f"Ray worker {worker}", str(error)[-_LOG_CHARACTERS:])

    def pids(self) -> list[int]:
        """Numbers of their processes, each on its own machine."""
        found: list[int] = self._ray.get([actor.pid.remote() for actor in self._workers])
        return found

    def close(self) -> None:
        """End the actors; the cluster stays."""
        for actor in self._workers:
            self._ray.kill(actor)


class RayWorker:
    """A worker inside an actor."""

    def __init__(self, job: Job, folder: str, number: int) -> None:
        """Load the source there."""
        os.chdir(folder)
        quiet_third_parties()
        self._worker = BatchWorker(job, default_device(), f"ray-{number}")

    def step(self, batch: Batch) -> list[DrawnBatch]:
        """As `BatchWorker.step`."""
        return self._worker.step(batch)

    def flush(self) -> list[DrawnBatch]:
        """As `BatchWorker.flush`."""
        return self._worker.flush()

    def pid(self) -> int:
        """Number of its process."""
        return os.getpid()
