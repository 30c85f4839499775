"""The conversion as a Prefect flow: `python -m flows.conversion [--target STAGE] [--force] [--jobs N]`.

Its tasks are the stages of dvc.yaml. Without a configured Prefect server a temporary one is started for the run. DVC
skips a stage that has no work, so the flow can be run again at any time, also after it was killed.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture, wait
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner
from prefect.tasks import Task

from flows.artifacts import data_uri, page, pictures
from flows.graph import StageNode, read_graph, select
from flows.process import Processes, StageFailedError, run_stage
from l2p.config import Layout
from l2p.errors import L2PError

# Waited before each retry, in seconds: a stage that is busy elsewhere, or one that goes on where it stopped.
RETRY_DELAYS_S = (5.0, 15.0, 30.0, 60.0, 120.0)
RESUMABLE = ("synthesize", "train")
RESUMES = 2

FAILED, USER_MISTAKE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


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
    had_work = run_stage(stage, root=root, force=force, say=get_run_logger().info, processes=processes)
    return Completed(name="Done") if had_work else Completed(name="Unchanged", message="DVC found no work.")


def _runner(jobs: int) -> Any:
    return ThreadPoolTaskRunner(max_workers=jobs)


@flow(name="conversion", task_runner=_runner(1))
def conversion(target: str | None = None, force: bool = False, root: str = ".") -> None:
    """Convert the source: every stage of dvc.yaml that has work, in order.

    Args:
        target: only this stage and those that it needs.
        force: run stages even if nothing changed.
        root: folder of the project.

    Raises:
        ConfigError: no DVC project at `root`, or no such target.
        StageFailedError: the first stage that failed, with the end of its log.
    """
    folder = Path(root).resolve()
    stages = select(read_graph(folder), target)
    get_run_logger().info("%d stages: %s", len(stages), ", ".join(node.name for node in stages))
    processes = Processes()
    try:
        _run(stages, folder, force, processes)
    finally:
        processes.stop_all()
    if any(Layout.summary.as_posix() in node.outputs for node in stages):
        publish(folder)


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
    """Show scores and pictures in the Prefect UI."""
    create_markdown_artifact(page(root), key="conversion", description="Scores, samples and the registered model.")
    for index, (title, image) in enumerate(pictures(root)):
        create_image_artifact(data_uri(image), key=f"conversion-picture-{index + 1}", description=title)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    target: Annotated[str | None, typer.Option(help="Only this stage and those that it needs.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run stages even if nothing changed.")] = False,
    root: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
    jobs: Annotated[int, typer.Option(min=1, help="Stages that may run at the same time.")] = 1,
) -> None:
    """Run the conversion as a Prefect flow; a temporary Prefect server is started if none is configured."""
    signal.signal(signal.SIGTERM, _leave)
    try:
        select(read_graph(root), target)  # a mistake is told before a server is started
        run = conversion.with_options(task_runner=_runner(jobs))
        run(target=target, force=force, root=str(root))
    except StageFailedError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(FAILED)
    except L2PError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """End as Python ends, so that the temporary server is stopped too; a bare SIGTERM would leave it behind."""
    sys.exit(TERMINATED)


if __name__ == "__main__":
    app()
