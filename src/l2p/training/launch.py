"""Owns starting the training processes of this machine: one in this process, several as torchrun would."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from l2p import errors
from l2p.config import Params
from l2p.errors import TrainingError
from l2p.training.worker import work

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

_QUIET_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")


def launch(params: Params) -> None:
    """Train with `train.num_processes` processes and return when all have ended.

    Raises:
        L2PError: what the first process to fail raised.
    """
    if params.train.num_processes == 1:
        work(params)
    else:
        _launch_many(params)


def _launch_many(params: Params) -> None:
    """Start `python -m l2p.training.worker` per process; their output is ours, and they end when this process does."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = params.train.num_processes
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    for name in _QUIET_LOGGERS:  # the first failure is raised below, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
    )
    with tempfile.TemporaryDirectory(prefix="l2p-train-") as folder:
        file = Path(folder) / "params.json"
        file.write_text(params.model_dump_json(by_alias=True), encoding="utf-8")
        try:
            elastic_launch(config, sys.executable)("-m", "l2p.training.worker", str(file))
        except ChildFailedError as error:
            raise _first_failure(error) from error


def _first_failure(error: ChildFailedError) -> errors.L2PError:
    """The exception of the process that failed first, as it was raised there."""
    rank, failure = error.get_first_failure()
    message = failure.message["message"] if isinstance(failure.message, dict) else str(failure.message)
    name, _, text = message.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.L2PError):
        return kind(text)
    return TrainingError(f"training process {rank} ended early ({message}). What it said itself is further up.")
