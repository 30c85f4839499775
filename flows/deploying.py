"""Owns what is set up in a Prefect server before it is of use: work pool, deployments, and the heartbeat automation.

Run as `python -m flows.deploying` in the root of the project, with PREFECT_API_URL set. Running it again applies what
prefect.yaml says now; schedules that were switched on, switched off or added in the UI stay so. With `--no-worker-yet`,
for who is about to start the pool's one worker, runs that a killed worker left are marked Crashed.
"""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule, StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows import HEARTBEAT_S, HEARTBEATS_MISSED
from flows.leftovers import mark_dead_runs
from flows.services import POOL
from l2p.errors import L2PError

AUTOMATION = "A flow run without a heartbeat has crashed"
FILE = Path("prefect.yaml")

_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDINGS = tuple(f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed"))

Schedules = dict[str, list[DeploymentSchedule]]  # by name of the deployment


def set_up(*, no_worker_yet: bool) -> list[str]:
    """Work pool, deployments and automation on the server of PREFECT_API_URL; returns the names of the deployments.

    Args:
        no_worker_yet: nothing works for the pool now, so a run that is said to run does not.

    Raises:
        L2PError: prefect.yaml cannot be deployed.
    """
    with get_client(sync_client=True) as client:
        require_pool(client)
        if no_worker_yet:
            mark_dead_runs(client)
        before = read_schedules(client)
        deploy()
        restore_schedules(client, before)
        require_automation(client)
        return sorted(read_schedules(client))


def require_pool(client: SyncPrefectClient) -> None:
    """A work pool whose worker runs flows as processes of this machine."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", description="Processes of this machine."))


def deploy() -> None:
    """All deployments of prefect.yaml.

    Raises:
        L2PError: Prefect refuses, with what it says.
    """
    if not FILE.is_file():
        raise L2PError(f"{FILE}: not found. Run this in the root of the project.")
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines() if line.strip())
        raise L2PError(f"{FILE}: `prefect deploy --all` failed. It says:\n{said}")


def read_schedules(client: SyncPrefectClient) -> Schedules:
    """Schedules of all deployments that run in the pool."""
    return {
        deployment.name: list(client.read_deployment_schedules(deployment.id))
        for deployment in client.read_deployments()
        if deployment.work_pool_name == POOL
    }


def restore_schedules(client: SyncPrefectClient, before: Schedules) -> None:
    """Deploying replaces schedules; put back what was switched or added in the UI.

    Those of prefect.yaml have a slug, by which they are known again when their time is changed there.
    """
    for deployment in client.read_deployments():
        now = {schedule.slug: schedule for schedule in client.read_deployment_schedules(deployment.id) if schedule.slug}
        for schedule in before.get(deployment.name, ()):
            known = now.get(schedule.slug or "")
            if known is not None and known.active != schedule.active:
                client.update_deployment_schedule(deployment.id, known.id, active=schedule.active)
            elif schedule.slug is None:
                client.create_deployment_schedules(deployment.id, [(schedule.schedule, schedule.active)])


def require_automation(client: SyncPrefectClient) -> None:
    """The automation by which a run that was killed shows as Crashed, created or brought up to date."""
    wanted = heartbeat_automation()
    found = client.read_automations_by_name(AUTOMATION)
    if found and _same(found[0], wanted):
        return  # an update would forget the heartbeats that it has seen
    if found:
        client.update_automation(found[0].id, wanted)
    else:
        client.create_automation(wanted)


def heartbeat_automation() -> AutomationCore:
    """A run that began and then neither beats nor ends for three beats is marked Crashed."""
    return AutomationCore(
        name=AUTOMATION,
        description=f"Runs beat every {HEARTBEAT_S} s; one that misses {HEARTBEATS_MISSED} beats was killed.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *_ENDINGS},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=HEARTBEAT_S * HEARTBEATS_MISSED),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"No heartbeat for {HEARTBEAT_S * HEARTBEATS_MISSED} s: the process was killed.",
            )
        ],
    )


def _same(found: AutomationCore, wanted: AutomationCore) -> bool:
    fields = {"description", "trigger", "actions"}
    return found.model_dump(mode="json", include=fields) == wanted.model_dump(mode="json", include=fields)


if __name__ == "__main__":
    try:
        print("\n".join(set_up(no_worker_yet="--no-worker-yet" in sys.argv[1:])))
    except L2PError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
