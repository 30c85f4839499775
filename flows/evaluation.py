"""The evaluation as a Prefect flow: `python -m flows.evaluation [--reference @champion]`.

It judges a registered version again and holds the retention against the interval that was recorded at registration. A
retention below it fails the run, so that it shows and can alarm; above it, the run warns. Aliases are not moved.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.artifacts import link_to_version
from flows.command_line import run_as_command
from flows.judging import read_result
from flows.locking import project_lock
from flows.process import FLOWS_FOLDER, Processes, StageFailedError, run_command
from flows.projects import find_version, read_project, run_name
from l2p.registry.drift import FALLEN, Verdict

RETRY_DELAYS_S = (30.0, 120.0)
JUDGING = FLOWS_FOLDER / "judging.py"


def is_worth_retrying(_task: Any, _run: Any, state: State[Any]) -> bool:
    """An evaluation goes on where it stopped, unless a user has to act."""
    error = state.data
    return isinstance(error, StageFailedError) and not error.is_user_mistake


@task(
    name="judge",
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=list(RETRY_DELAYS_S),
    retry_condition_fn=is_worth_retrying,
    cache_policy=NO_CACHE,
)
def judge(version: str, root: Path, processes: Processes) -> dict[str, Any]:
    """Draw and judge source and version again, in a process of its own; returns what was found."""
    command = [sys.executable, "-P", str(JUDGING), version, "--root", str(root)]
    run_command(command, name=f"evaluation of {version}", root=root, say=get_run_logger().info, processes=processes)
    return read_result(root, version)


@flow(name="evaluation")
def evaluation(reference: str = "@champion", root: str = ".") -> State[Any]:
    """Judge a registered version again and record how its scores drifted since it was registered.

    Args:
        reference: NAME@ALIAS or NAME/VERSION; without a name, the project's model.
        root: folder of the project.

    Raises:
        RegistryError: no such version.
        StageFailedError: it could not be judged, with the end of its log.
    """
    project = read_project(Path(root))
    version = find_version(project, reference)
    processes: Processes | None = None
    with project_lock(project.root, "evaluation", holder=run_name(), say=get_run_logger().info) as lock:
        processes = Processes(lock)
        try:
            result = judge(str(version), project.root, processes)
        finally:
            processes.stop_all()
    create_table_artifact(drift_table(result), key="drift", description=f"{version}: at registration, and now.")
    link_to_version(version.name, version.version)
    return verdict(result)


def drift_table(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per benchmark: scores and retention at registration and now."""
    rows = []
    for benchmark in result["benchmarks"]:
        recorded, measured = benchmark["recorded"], benchmark["measured"]
        interval = recorded["interval"]
        rows.append(
            {
                "benchmark": benchmark["name"],
                "source then": _number(recorded["source"]),
                "source now": _number(measured["source"]),
                "pixel then": _number(recorded["pixel"]),
                "pixel now": _number(measured["pixel"]),
                "retention then": _number(recorded["retention"]),
                "95 % interval": "none" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}",
                "retention now": _number(measured["retention"]),
                "verdict": benchmark["verdict"],
            }
        )
    return rows


def verdict(result: dict[str, Any]) -> State[Any]:
    """Failed when a retention fell below the interval, completed otherwise; what is unusual is said."""
    for benchmark in result["benchmarks"]:
        usual = benchmark["verdict"] == Verdict.WITHIN
        (get_run_logger().info if usual else get_run_logger().warning)(benchmark["told"])
    fallen = [benchmark["told"] for benchmark in result["benchmarks"] if benchmark["verdict"] in FALLEN]
    if fallen:
        return Failed(name="Drifted", message=" ".join(fallen))
    return Completed(message=" ".join(benchmark["told"] for benchmark in result["benchmarks"]))


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    reference: Annotated[str, typer.Option(help="NAME@ALIAS or NAME/VERSION.")] = "@champion",
    root: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
) -> None:
    """Judge a registered version again as a Prefect flow."""
    with run_as_command():
        find_version(read_project(root), reference)  # a mistake is told before a server is started
        state = evaluation(reference=reference, root=str(root), return_state=True)
        if state.is_failed():
            typer.echo(f"error: {state.message}", err=True)
            sys.exit(1)


if __name__ == "__main__":
    app()
