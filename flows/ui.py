"""The servers behind the UI, in one command: `python -m flows.ui [--prefect-port N] [--mlflow-port N]`.

It starts a Prefect server, a worker and an MLflow server on loopback, sets up the deployments of prefect.yaml, prints
the addresses, and ends them all, with everything that they started, on Ctrl-C, SIGTERM, or when one of them ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from flows.services import (
    HOME,
    LOGS,
    POOL,
    Address,
    Service,
    ServiceError,
    is_local_store,
    mlflow_command,
    prefect_environment,
)
from l2p.config import PARAMS_FILE, load_params
from l2p.errors import L2PError

LOOPBACK = ("127.0.0.1", "::1", "localhost")

_USER_MISTAKE = 2
_LOOK_EVERY_S = 1.0


class Stop(BaseException):
    """Ctrl-C or SIGTERM."""


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the MLflow UI.")] = 5000,
    host: Annotated[str, typer.Option(help="Address to listen on; anything but loopback is open to others.")] = (
        LOOPBACK[0]
    ),
) -> None:
    """Start Prefect server, worker and MLflow server for the project in this folder; Ctrl-C stops them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        serve(Path.cwd(), Address(host, prefect_port), Address(host, mlflow_port))
    except Stop:
        typer.echo("stopped")
    except L2PError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(_USER_MISTAKE)


def serve(root: Path, prefect: Address, mlflow: Address) -> None:
    """Start everything, say where it is, and wait until it is stopped; then stop everything.

    Raises:
        ServiceError: a port is taken, or a server does not start or ends by itself.
        L2PError: the folder is no project, or prefect.yaml cannot be deployed.
    """
    settings = load_params(root / PARAMS_FILE).register_
    local = is_local_store(settings)
    prefect.require_free("--prefect-port")
    if local:
        mlflow.require_free("--mlflow-port")
    if prefect.host not in LOOPBACK:
        typer.echo(f"warning: {prefect.host} is not loopback, and neither server asks for a password", err=True)
    mlflow_url = mlflow.url if local else settings.tracking_uri
    environment = prefect_environment(root, prefect, mlflow_url)
    with running() as services:
        server = [sys.executable, "-m", "prefect", "server", "start"]
        services.append(Service.start("prefect-server", server, root=root, environment=environment))
        if local:
            command = mlflow_command(settings, mlflow, root)
            services.append(Service.start("mlflow-server", command, root=root, environment=environment))
        services[0].wait_until_it_answers(f"{prefect.url}/api/health")
        deployments = deploy(root, environment)
        worker = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
        services.append(Service.start("prefect-worker", worker, root=root, environment=environment))
        if local:
            services[1].wait_until_it_answers(f"{mlflow.url}/health")
        tell(prefect.url, mlflow_url, deployments)
        while True:
            for service in services:
                service.require_alive()
            time.sleep(_LOOK_EVERY_S)


@contextmanager
def running() -> Iterator[list[Service]]:
    """Services that are stopped when the block is left, the last first; signals cannot interrupt that.

    The worker was started last: its flow runs still tell the server that they end.
    """
    services: list[Service] = []
    try:
        yield services
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for service in reversed(services):
            service.stop()


def deploy(root: Path, environment: Mapping[str, str]) -> list[str]:
    """Set up the server; returns the names of the deployments.

    Raises:
        ServiceError: prefect.yaml cannot be deployed.
    """
    command = [sys.executable, "-m", "flows.deploying", "--no-worker-yet"]
    done = subprocess.run(
        command, cwd=root, env=dict(environment), capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise ServiceError(f"setting up Prefect failed. {done.stderr.strip().removeprefix('error: ')}")
    return done.stdout.split()


def tell(prefect_url: str, mlflow_url: str, deployments: list[str]) -> None:
    """Say where everything is."""
    typer.echo(f"Prefect UI   {prefect_url}")
    typer.echo(f"MLflow UI    {mlflow_url}")
    typer.echo(f"deployments  {', '.join(deployments)}")
    typer.echo(f"logs         {LOGS}; everything that Prefect keeps is in {HOME}")
    typer.echo(f"in a shell   export PREFECT_API_URL={prefect_url}/api PREFECT_HOME={Path.cwd() / HOME}")
    typer.echo("Ctrl-C stops them all")


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stop


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()
