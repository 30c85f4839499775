"""Owns `l2p serve`: a registered model behind HTTP, by MLflow's own server, on loopback unless told otherwise."""

from __future__ import annotations

import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from l2p.config import load_params
from l2p.errors import L2PError

LOOPBACK = "127.0.0.1"
PORT = 5001
START_TIMEOUT_S = 300  # a large model takes its time to be read
_POLL_S = 0.5
_STOP_S = 10


def add_to(app: typer.Typer) -> None:
    """Add `serve` to `app`."""
    app.command("serve", rich_help_panel="Models")(serve)


def serve(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="A registered version; or NAME/VERSION.")],
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback lets others in.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = PORT,
) -> None:
    """Serve a registered model over HTTP until Ctrl-C, after its files were checked."""
    folder, environment = _checked(load_params(context.obj).register_, reference)
    _require_free(host, port)
    if not is_loopback(host):
        typer.echo(
            f"warning: {host} is not loopback: whoever reaches port {port} can draw, without a password and "
            "unencrypted. Put a proxy with both before it.",
            err=True,
        )
    command = ["-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local"]
    process = subprocess.Popen(
        [sys.executable, *command, "--host", host, "--port", str(port)],
        env=os.environ | environment,
        start_new_session=True,  # one group, so that all of it ends together
    )
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this with SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        _wait_until_up(process, host, port)
        typer.echo(f"serving {reference} on http://{host}:{port}; Ctrl-C stops it. For example:\n{example(host, port)}")
        process.wait()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
    finally:
        _stop(process)


def example(host: str, port: int) -> str:
    """A command line that draws an image."""
    body = json.dumps({"dataframe_records": [{"prompt": "a red circle", "seed": 1}]})
    read = "import sys, json, base64; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)['predictions'][0]))"
    return (
        f"  curl -s http://{host}:{port}/invocations -H 'Content-Type: application/json' \\\n    -d '{body}' \\\n"
        f'    | python3 -c "{read}" > image.png'
    )


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked(settings: Any, reference: str) -> tuple[Path, dict[str, str]]:
    """Folder of the logged model, its files checked; and the environment that its server needs."""
    from l2p.registry.serving import fetch_model_folder, server_environment

    folder = fetch_model_folder(reference, tracking_uri=settings.tracking_uri, experiment=settings.experiment)
    return folder, server_environment(settings.tracking_uri)


def _require_free(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        raise L2PError(
            f"--host {host} --port {port}: cannot listen there ({error.strerror}). Choose others."
        ) from error


def _wait_until_up(process: subprocess.Popen[bytes], host: str, port: int) -> None:
    import httpx

    where = LOOPBACK if host in ("0.0.0.0", "::") else host
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise L2PError(f"the server ended with exit code {process.returncode} before it was up; see above.")
        try:
            if httpx.get(f"http://{where}:{port}/ping", trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(_POLL_S)
    raise L2PError(f"the server was not up after {START_TIMEOUT_S} s; see above.")


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
