"""Owns what a server that was killed left behind: runs that are said to run although their process is gone.

They would keep their deployment's only place, so that no later run could ever start.
"""

from __future__ import annotations

import psutil
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from flows.services import POOL

_NOT_ENDED = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED]
_RUN_ID = "PREFECT__FLOW_RUN_ID"  # in the environment of the process of a run
_ENGINE = "prefect.engine"
_MESSAGE = "The servers were stopped while it ran. A new run goes on where it was."


def mark_dead_runs(client: SyncPrefectClient) -> list[str]:
    """Mark runs of the pool as Crashed that no process of this machine works on; returns their names.

    Only for who starts the pool's one worker, before it is started: another machine's processes are not seen.
    """
    living = running_ids()
    dead = [run for run in _unfinished(client) if str(run.id) not in living]
    for run in dead:
        client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)
    return [run.name for run in dead]


def running_ids() -> set[str]:
    """Runs that a process of this machine and user works on."""
    found = set()
    for process in psutil.process_iter():
        try:
            if _ENGINE in process.cmdline():
                found.add(process.environ().get(_RUN_ID, ""))
        except (psutil.Error, OSError):  # ended meanwhile, or another user's
            continue
    return found - {""}


def _unfinished(client: SyncPrefectClient) -> list[FlowRun]:
    states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_NOT_ENDED)))
    pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL]))
    return client.read_flow_runs(flow_run_filter=states, work_pool_filter=pool)
