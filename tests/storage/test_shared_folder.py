"""Two clones, a folder as DVC's remote and MLflow's server between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from l2p.files import sha256_file
from tests.storage.conftest import NAME, clone_and_use, run, share, status

WEIGHTS = "models/pixel/delta.safetensors"


@pytest.mark.slow
def test_a_second_clone_gets_the_champion_and_computes_nothing(
    first: Path, start_mlflow: Callable[..., str], tmp_path: Path
) -> None:
    tracking = start_mlflow(f"sqlite:///{tmp_path / 'served.db'}", str(tmp_path / "files"))
    share(first, remote=str(tmp_path / "remote"), tracking=tracking)
    clone_and_use(tmp_path / "origin.git", tmp_path / "second")
    assert sha256_file(tmp_path / "second" / WEIGHTS) == sha256_file(first / WEIGHTS)

    told = run("l2p", "reproduce", f"{NAME}@champion", str(tmp_path / "again"), folder=tmp_path / "second")
    assert "dvc status: clean" in told
    assert sha256_file(tmp_path / "again" / WEIGHTS) == sha256_file(first / WEIGHTS)

    # Why the lock is committed: without it DVC does not know which results belong to the parameters.
    third = tmp_path / "third"
    run("git", "clone", "--quiet", "--branch", "main", str(tmp_path / "origin.git"), str(third), folder=tmp_path)
    (third / "dvc.lock").unlink()
    run("dvc", "pull", "--run-cache", folder=third, expected=1)
    assert {"synthesize", "train"} <= set(status(third))
