"""Owns starting the training processes: one in this process, several as torchrun would, on one machine or on several.

Several machines work in the same folder: a shared file system, with the environment at the same path.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from l2p import errors
from l2p.config import Layout, Params
from l2p.errors import ConfigError, TrainingError
from l2p.files import atomic_path
from l2p.training.hosts import NODE_RANK, Host, read_hostfile, run_on
from l2p.training.worker import MakeProbe, work

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig

_QUIET_LOGGERS = ("torch.distributed.elastic.multiprocessing.api", "torch.distributed.elastic.agent.server.api")
_PORT = 29500  # torchrun's own
_PARAMS = "params.json"
_OF_A_WORKER = "TORCHELASTIC_RUN_ID"  # a variable that torchrun sets for each process


def launch(params: Params, make_probe: MakeProbe | None, *, module: str) -> bool:
    """Train with all processes of this machine and return when they have ended; whether process 0 was among them.

    Args:
        params: of the project.
        make_probe: what `work` takes, for a training of one process.
        module: what several processes run, `python -m module PARAMS.json`.

    Raises:
        L2PError: what the first process to fail raised.
        ConfigError: machines, hostfile and processes contradict each other.
    """
    train = params.train
    if train.hostfile is None and train.num_machines == 1 and train.num_processes == 1:
        work(params, make_probe)
        return True
    file = Layout.checkpoints / _PARAMS
    with atomic_path(file) as partial:
        partial.write_text(params.model_dump_json(by_alias=True), encoding="utf-8")
    command = ["-m", module, str(file)]
    if train.hostfile is None:
        return _launch_here(params, command, train.rendezvous)
    hosts = read_hostfile(Path(train.hostfile))
    _check_hosts(hosts, params)
    run_on(hosts, [sys.executable, *command])
    return True


def is_started_machine() -> bool:
    """Whether this process is to launch the share of a machine that another one started."""
    return NODE_RANK in os.environ and _OF_A_WORKER not in os.environ


def launch_share(file: Path, *, module: str) -> None:
    """The share of a machine that the first one of the hostfile started.

    Raises:
        L2PError: what the first process to fail raised.
    """
    params = Params.model_validate_json(file.read_bytes())
    assert params.train.hostfile is not None
    hosts = read_hostfile(Path(params.train.hostfile))
    _launch_here(params, ["-m", module, str(file)], _meeting_place(hosts))


def _check_hosts(hosts: list[Host], params: Params) -> None:
    train = params.train
    if len(hosts) != train.num_machines:
        raise ConfigError(
            f"{train.hostfile}: {len(hosts)} machines, but train.num_machines = {train.num_machines}. Make them agree."
        )
    if odd := [host for host in hosts if host.slots != train.num_processes]:
        raise ConfigError(
            f"{train.hostfile}: {odd[0].name} has slots={odd[0].slots}, but train.num_processes = "
            f"{train.num_processes} on each machine. Make them agree."
        )


def _meeting_place(hosts: list[Host]) -> str:
    return f"{hosts[0].name}:{os.environ.get('MASTER_PORT', _PORT)}"


def _launch_here(params: Params, command: list[str], endpoint: str | None) -> bool:
    """Start `python command` per process; their output is ours, and they end when this process does."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // params.train.num_processes)))
    for name in _QUIET_LOGGERS:  # the first failure is raised below, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        results = elastic_launch(_config(params, endpoint), sys.executable)(*command)
    except ChildFailedError as error:
        raise _first_failure(error) from error
    except RendezvousError as error:
        raise TrainingError(
            f"{endpoint}: the {params.train.num_machines} machines did not meet ({' '.join(str(error).split())}). "
            "Start `l2p train` on all of them, with the same params.yaml, and let them reach that address."
        ) from error
    return 0 in results


def _config(params: Params, endpoint: str | None) -> LaunchConfig:
    from torch.distributed.launcher.api import LaunchConfig

    machines = params.train.num_machines
    return LaunchConfig(
        min_nodes=machines,
        max_nodes=machines,
        nproc_per_node=params.train.num_processes,
        run_id=f"l2p-{params.register_.name}",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint or "localhost:0",
        local_addr="127.0.0.1" if machines == 1 else None,
        max_restarts=0,
    )


def _first_failure(error: ChildFailedError) -> errors.L2PError:
    """The exception of the process that failed first, as it was raised there."""
    rank, failure = error.get_first_failure()
    message = failure.message["message"] if isinstance(failure.message, dict) else str(failure.message)
    name, _, text = message.partition(": ")
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, errors.L2PError):
        return kind(text)
    return TrainingError(f"training process {rank} ended early ({message}). What it said itself is further up.")
