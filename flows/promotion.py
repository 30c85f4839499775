"""The promotion as a Prefect flow: `python -m flows.promotion [--reference @candidate]`.

The gate in params.yaml decides; a person may be asked as well, by pausing the run until the form in the UI is filled
in. Only the gate opens: an approval cannot replace it, and a refusal leaves all aliases where they are.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from flows.artifacts import link_to_version
from flows.command_line import run_as_command
from flows.process import Processes, run_command
from flows.projects import Project, find_version, read_project
from l2p.errors import RegistryError

if TYPE_CHECKING:
    from l2p.registry.gate import Decision
    from l2p.registry.versions import ModelVersion

APPROVAL_TAG = "approval"  # not one of `l2p.`, which `l2p verify` holds against the record of the registration

_LOOK_EVERY_S = 5


class Approval(RunInput):
    """What a person answers."""

    approve: bool = Field(description="Make it the champion.")
    reason: str = Field(min_length=1, description="Why; recorded with the version.")


@flow(name="promotion")
def promotion(reference: str = "@candidate", ask: bool = True, wait_hours: float = 24.0, root: str = ".") -> State[Any]:
    """Make a registered version the champion: through the gate, and if wanted with the approval of a person.

    Args:
        reference: NAME@ALIAS or NAME/VERSION; without a name, the project's model.
        ask: pause until a person approves or refuses in the UI.
        wait_hours: how long to wait for the answer; without one nothing is promoted.
        root: folder of the project.

    Raises:
        RegistryError: no such version, it has no scores, or the gate stays shut.
        StageFailedError: it cannot be moved, with what `l2p promote` says.
    """
    project = read_project(Path(root))
    version = find_version(project, reference)
    reasons = show_gate(project, version)
    answer = _ask(version, wait_hours) if ask else None
    if answer is not None:
        record_answer(project, version, answer)
        if not answer.approve:
            return Completed(name="Refused", message=f"{version} stays as it is: {answer.reason}")
    move_alias(project, version)
    link_to_version(version.name, version.version)
    return Completed(name="Promoted", message=f"champion is {version}. {' '.join(reasons)}")


@task(cache_policy=NO_CACHE)
def show_gate(project: Project, version: ModelVersion) -> tuple[str, ...]:
    """Show what the gate says, and return it.

    Raises:
        RegistryError: it stays shut, or the version has no scores.
    """
    decision = judge_gate(project, version)
    create_markdown_artifact(gate_page(version, decision), key="gate", description=f"The gate for {version}.")
    for reason in decision.reasons:
        get_run_logger().info(reason)
    if not decision.passed:
        raise RegistryError(f"{version}: not promoted. {' '.join(decision.reasons)}")
    return decision.reasons


def judge_gate(project: Project, version: ModelVersion) -> Decision:
    """What the gate says of a version now; moves nothing.

    Raises:
        RegistryError: the version has no scores.
    """
    from l2p.registry.gate import Thresholds, decide
    from l2p.registry.registration import version_scores
    from l2p.registry.versions import CHAMPION, SCORES_TAG, ModelRegistry

    settings = project.params.register_
    if SCORES_TAG not in version.tags:
        raise RegistryError(f"{version}: has no scores, so the gate cannot open. Register it with `l2p register`.")
    champion = ModelRegistry(settings.tracking_uri).by_alias(version.name, CHAMPION)
    thresholds = Thresholds(settings.min_geneval_retention, settings.min_dpg_retention)
    return decide(version_scores(version), thresholds, version_scores(champion) if champion else None)


def gate_page(version: ModelVersion, decision: Decision) -> str:
    """The gate's decision as Markdown."""
    aliases = ", ".join(f"`@{alias}`" for alias in version.aliases) or "no alias"
    lines = [f"# `{version}` ({aliases})", f"The gate is **{'open' if decision.passed else 'shut'}**:"]
    return "\n\n".join([*lines, "\n".join(f"- {reason}" for reason in decision.reasons)]) + "\n"


def _ask(version: ModelVersion, wait_hours: float) -> Approval:
    get_run_logger().info("waiting %g hours for an answer: press Resume in the UI", wait_hours)
    form = Approval.with_initial_data(
        description=f"The gate is open for **{version}**; see the artifact `gate`. Make it the champion?"
    )
    try:
        return pause_flow_run(wait_for_input=form, timeout=int(wait_hours * 3600), poll_interval=_LOOK_EVERY_S)
    except FlowPauseTimeout as error:
        raise RegistryError(f"{version}: not promoted, nobody answered within {wait_hours:g} hours.") from error


@task(cache_policy=NO_CACHE)
def record_answer(project: Project, version: ModelVersion, answer: Approval) -> None:
    """Tag the version with what was answered, and when."""
    from l2p.registry.versions import ModelRegistry

    at = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"approve": answer.approve, "reason": answer.reason, "at": at}
    ModelRegistry(project.params.register_.tracking_uri).set_tag(version, APPROVAL_TAG, json.dumps(record))


@task(cache_policy=NO_CACHE)
def move_alias(project: Project, version: ModelVersion) -> None:
    """Promote with `l2p promote`, which asks the gate again and lets the version draw: a person may think for hours."""
    command = [sys.executable, "-m", "l2p.cli", "promote", str(version)]
    run_command(
        command,
        name=f"promotion of {version}",
        root=project.root,
        say=get_run_logger().info,
        processes=Processes(),
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    reference: Annotated[str, typer.Option(help="NAME@ALIAS or NAME/VERSION.")] = "@candidate",
    root: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
) -> None:
    """Promote a registered version through the gate as a Prefect flow, without asking anybody."""
    with run_as_command():
        find_version(read_project(root), reference)  # a mistake is told before a server is started
        state = promotion(reference=reference, ask=False, root=str(root))
        typer.echo(str(state))


if __name__ == "__main__":
    app()
