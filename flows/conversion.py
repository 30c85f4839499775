"""The conversion as a Prefect flow: `python -m flows.conversion [--target STAGE] [--set KEY=VALUE] [--force]`.

Its tasks are the stages of dvc.yaml. Without a configured Prefect server a temporary one is started for the run. DVC
skips a stage that has no work, so the flow can be run again at any time, also after it was killed. One conversion works
in a project at a time; a second one waits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.artifacts import data_uri, link_to_version, page, pictures
from flows.command_line import run_as_command
from flows.forms import ALL_STAGES, NO_PRESET, PresetName, TargetName
from flows.graph import StageNode, read_graph, select
from flows.locking import project_lock
from flows.parameters import plan_params, write_plan
from flows.process import Processes, StageFailedError, run_stage
from flows.progress import shown_progress
from flows.projects import run_name
from l2p.config import Layout
from l2p.files import read_json

# Waited before each retry, in seconds: a stage that is busy elsewhere, or one that goes on where it stopped.
RETRY_DELAYS_S = (5.0, 15.0, 30.0, 60.0, 120.0)
RESUMABLE = ("synthesize", "train")
RESUMES = 2


def is_worth_retrying(_task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether a failed stage gets another try: when DVC was busy, or when the stage resumes and no user has to act."""
    error = state.data
    if not isinstance(error, StageFailedError):
        return False
    resumable = error.stage.partition("@")[0] in RESUMABLE and not error.is_user_mistake
    return error.is_busy or (resumable and task_run.run_count <= RESUMES)


@task(
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=list(RETRY_DELAYS_S),
    retry_condition_fn=is_worth_retrying,
    cache_policy=NO_CACHE,  # DVC knows what is up to date
)
def reproduce(stage: str, root: Path, force: bool, processes: Processes) -> State[None]:
    """Run one stage; the state tells whether it had work."""
    with shown_progress(stage, root):
        had_work = run_stage(stage, root=root, force=force, say=get_run_logger().info, processes=processes)
    return Completed(name="Done") if had_work else Completed(name="Unchanged", message="DVC found no work.")


def _runner(jobs: int) -> Any:
    return ThreadPoolTaskRunner(max_workers=jobs)


@flow(name="conversion", task_runner=_runner(1))
def conversion(
    preset: PresetName = NO_PRESET,
    overrides: list[str] = [],  # noqa: B006 - Prefect shows the default in its form; it is never changed
    target: TargetName = ALL_STAGES,
    force: bool = False,
    root: str = ".",
) -> None:
    """Convert the source: every stage of dvc.yaml that has work, in order.

    Args:
        preset: published source to lay over params.yaml, as `l2p preset` does; it stays there.
        overrides: KEY=VALUE changes of params.yaml, for example train.num_steps=200; they stay there.
        target: only this stage and those that it needs.
        force: run stages even if nothing changed.
        root: folder of the project.

    Raises:
        ConfigError: no DVC project at `root`, no such target, preset or key, or an impossible value.
        StageFailedError: the first stage that failed, with the end of its log.
    """
    folder, log = Path(root).resolve(), get_run_logger()
    check(folder, preset, overrides, target)
    with project_lock(folder, "conversion", holder=run_name(), say=log.info) as lock:
        set_params(folder, preset, overrides)
        stages = select(read_graph(folder), None if target == ALL_STAGES else target)
        log.info("%d stages: %s", len(stages), ", ".join(node.name for node in stages))
        processes = Processes(lock)
        try:
            _run(stages, folder, force, processes)
        finally:
            processes.stop_all()
    if any(Layout.summary.as_posix() in node.outputs for node in stages):
        publish(folder)


def check(root: Path, preset: str, overrides: list[str], target: str) -> None:
    """Refuse mistakes before anything runs or is written.

    Raises:
        ConfigError: as `conversion`.
    """
    select(read_graph(root), None if target == ALL_STAGES else target)
    if preset != NO_PRESET or overrides:
        plan_params(root, preset, overrides)


def set_params(root: Path, preset: str, overrides: list[str]) -> None:
    """Write what was asked for into params.yaml and show what it changed."""
    if preset == NO_PRESET and not overrides:
        return
    plan = plan_params(root, preset, overrides)
    kept = write_plan(root, plan)
    if kept is None:
        get_run_logger().info("params.yaml has these values already")
        return
    for change in plan.changes:
        get_run_logger().info("params.yaml: %s", change)
    create_table_artifact(
        [{"field": change.field, "before": str(change.before), "after": str(change.after)} for change in plan.changes],
        key="parameters",
        description=f"Changed in params.yaml; what it was is in {kept.relative_to(root)}.",
    )


def _run(stages: list[StageNode], root: Path, force: bool, processes: Processes) -> None:
    """Submit every stage behind those that it needs; when all have ended, raise what the first failed one raised."""
    futures: dict[str, PrefectFuture[State[None]]] = {}
    for node in stages:
        stage_task = reproduce.with_options(name=node.name, task_run_name=node.name)
        needed = [futures[name] for name in node.upstream if name in futures]
        futures[node.name] = stage_task.submit(node.name, root, force, processes, wait_for=needed, return_state=False)
    wait(list(futures.values()))
    for future in futures.values():
        if future.state.is_failed() or future.state.is_crashed():
            future.result()


def publish(root: Path) -> None:
    """Show scores, pictures and the registered version in the Prefect UI."""
    create_markdown_artifact(page(root), key="conversion", description="Scores, samples and the registered model.")
    for index, (title, image) in enumerate(pictures(root)):
        create_image_artifact(data_uri(image), key=f"conversion-picture-{index + 1}", description=title)
    model = read_json(root / Layout.summary, written_by="l2p register")["model"]
    if model is not None:
        link_to_version(model["name"], model["version"])


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    preset: Annotated[str, typer.Option(help="Preset to lay over params.yaml first.")] = NO_PRESET,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change in params.yaml; may be repeated.")
    ] = None,
    target: Annotated[str, typer.Option(help="Only this stage and those that it needs.")] = ALL_STAGES,
    force: Annotated[bool, typer.Option("--force", help="Run stages even if nothing changed.")] = False,
    root: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
    jobs: Annotated[int, typer.Option(min=1, help="Stages that may run at the same time.")] = 1,
) -> None:
    """Run the conversion as a Prefect flow; a temporary Prefect server is started if none is configured."""
    with run_as_command():
        check(root, preset, overrides or [], target)  # a mistake is told before a server is started
        run = conversion.with_options(task_runner=_runner(jobs))
        run(preset=preset, overrides=overrides or [], target=target, force=force, root=str(root))


if __name__ == "__main__":
    app()
