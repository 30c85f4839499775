"""A small conversion to share, the servers that it is shared through, and commands run as a user runs them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from bench.fault_project import tiny_params
from tests.conftest import ROOT

HOST = "127.0.0.1"
NAME = "shapes-pixel"
WITHIN_S = 300.0
PROGRAMS = Path(sys.executable).parent

Run = Callable[..., str]


def run(*command: str, folder: Path, expected: int = 0, **variables: str) -> str:
    """What a command prints, in `folder`; `dvc` and `l2p` are those of this interpreter."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "AWS_"))}
    environment = kept | {
        "PATH": os.pathsep.join([str(PROGRAMS), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": str(ROOT / "src"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@localhost",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@localhost",
        **variables,
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == expected, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving(command: list[str], *, ready: Callable[[], object], folder: Path, **variables: str) -> Iterator[None]:
    """A server for the block, with everything that it starts, from when `ready` raises nothing any more."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            command, cwd=folder, env=os.environ | variables, stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _await(server, ready, log)
        yield
    finally:
        tree = [*psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        psutil.wait_procs([psutil.Process(server.pid)] if server.poll() is None else [], timeout=10)
        for process in tree:
            if process.is_running():
                process.kill()
        server.kill()
        server.wait()


def _await(server: subprocess.Popen[bytes], ready: Callable[[], object], log: Path) -> None:
    end = time.monotonic() + WITHIN_S
    while True:
        assert server.poll() is None, log.read_text()
        try:
            ready()
            return
        except OSError:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)


def connects(port: int) -> Callable[[], object]:
    """Raises OSError until somebody listens."""
    return lambda: socket.create_connection((HOST, port), timeout=5).close()


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Holds servers until the end of a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start_mlflow(servers: ExitStack, tmp_path: Path) -> Callable[..., str]:
    """Starts `mlflow server` on a database and a place for files; returns its address."""

    def start(database: str, files: str, **variables: str) -> str:
        port = free_port()
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", database, "--artifacts-destination", files]
        address = f"http://{HOST}:{port}"
        health = lambda: urllib.request.urlopen(f"{address}/health", timeout=5).close()  # noqa: E731
        servers.enter_context(serving(command, ready=health, folder=tmp_path / "mlflow", **variables))
        return address

    return start


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed project in which everything but `register` has run, minutes long; its gate lets everybody through."""
    root = tmp_path_factory.mktemp("shared") / "first"
    root.mkdir()
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "sources/shapes", root / "sources/shapes")
    params = tiny_params()
    params["register"] |= {"min_geneval_retention": 0.0, "min_dpg_retention": 0.0}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    run("git", "init", "--quiet", folder=root)
    run("dvc", "init", "--quiet", "--force", folder=root)
    run("dvc", "repro", "report", folder=root)
    run("git", "add", "--all", ":!dvc.lock", folder=root)
    run("git", "commit", "--quiet", "--message", "A small conversion", folder=root)
    return root


@pytest.fixture
def first(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, with a bare repository as `origin` that other clones can be made from."""
    root = tmp_path / "first"
    shutil.copytree(finished, root, symlinks=True)
    run("git", "clone", "--quiet", "--bare", str(root), str(tmp_path / "origin.git"), folder=tmp_path)
    run("git", "remote", "add", "origin", str(tmp_path / "origin.git"), folder=root)
    return root


def share(first: Path, *, remote: str, tracking: str, endpoint: str | None = None, **variables: str) -> None:
    """The first person's part of docs/shared-storage.md: name the stores, run, push results and lock."""
    run("dvc", "remote", "add", "--default", "store", remote, folder=first)
    if endpoint is not None:
        run("dvc", "remote", "modify", "store", "endpointurl", endpoint, folder=first)
    params = yaml.safe_load((first / "params.yaml").read_text(encoding="utf-8"))
    params["register"]["tracking_uri"] = tracking
    (first / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    run("git", "add", "--all", ":!dvc.lock", folder=first)
    run("git", "commit", "--quiet", "--message", "Share data and models", folder=first)
    told = run("dvc", "repro", folder=first, **variables)
    assert f"registered {NAME} version 1 (@candidate, @champion)" in told
    run("dvc", "push", folder=first, **variables)
    run("git", "add", "dvc.lock", folder=first)
    run("git", "commit", "--quiet", "--message", "Results of the conversion", folder=first)
    run("git", "push", "--quiet", "origin", "HEAD:main", folder=first)


def clone_and_use(origin: Path, second: Path, **variables: str) -> None:
    """The second person's part: clone, pull, verify, draw; nothing is computed again."""
    run("git", "clone", "--quiet", "--branch", "main", str(origin), str(second), folder=origin.parent)
    run("dvc", "pull", folder=second, **variables)
    assert set(status(second, **variables)) <= {"register"}  # which always runs, and only verifies
    told = run("dvc", "repro", folder=second, **variables)
    ran = [line for line in told.splitlines() if line.startswith("Running stage")]
    assert ran == ["Running stage 'register':"], told
    assert f"found {NAME} version 1 (@candidate, @champion)" in told
    told = run("l2p", "verify", f"{NAME}@champion", folder=second, **variables)
    assert "links hold" in told.splitlines()[-1]
    command = ("l2p", "generate", "a red circle", "--model", f"{NAME}@champion", "--size", "64x64", "--out", "x.png")
    run(*command, folder=second, **variables)
    assert (second / "x.png").is_file()


def status(folder: Path, **variables: str) -> dict[str, object]:
    """Stages in which DVC finds something to do."""
    told = run("dvc", "status", "--json", folder=folder, **variables)
    found: dict[str, object] = yaml.safe_load(told[told.index("{") :])
    return found
