"""`l2p reproduce`: code, parameters and data of a registered version in a folder of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from l2p.cli import app
from l2p.errors import L2PError, LineageError
from l2p.registry.evidence import LOCK_COPY
from l2p.registry.store import Store
from l2p.registry.versions import ModelRegistry
from tests.conftest import ROOT

NAME = "shapes-pixel"
STAGES = """
stages:
  draw:
    cmd: cp given.txt drawn.txt; cp given.txt scratch.txt
    deps: [given.txt]
    outs: [drawn.txt, {scratch.txt: {cache: false}}]
  register:
    cmd: touch registered.txt
    always_changed: true
    outs: [{registered.txt: {cache: false}}]
"""


def call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def dvc(*arguments: str) -> str:
    return call(sys.executable, "-m", "dvc", *arguments)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pipeline that ran, in git and DVC, and a registered version of it; the project has gone on since."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    call("git", "init", "-q")
    for key, value in (("user.name", "A Tester"), ("user.email", "tester@example.org")):
        call("git", "config", key, value)
    dvc("init", "-q")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    Path("dvc.yaml").write_text(STAGES, encoding="utf-8")
    Path("given.txt").write_text("first\n", encoding="utf-8")
    dvc("repro", "draw")
    call("git", "add", "params.yaml", "dvc.yaml", "given.txt", ".dvc", ".gitignore")
    call("git", "commit", "-qm", "first")
    register(call("git", "rev-parse", "HEAD"))
    Path("given.txt").write_text("second\n", encoding="utf-8")
    dvc("repro", "draw")
    call("git", "commit", "-qam", "second")
    return folder


def register(commit: str) -> None:
    """A version as `l2p register` leaves it, as far as this command looks at it."""
    store = Store("sqlite:///mlflow.db", "l2p")
    run_id = store.create_run("register", {})
    store.log_text(run_id, Path("params.yaml").read_text(encoding="utf-8"), "project/params.yaml")
    store.log_text(run_id, Path("dvc.lock").read_text(encoding="utf-8"), f"project/{LOCK_COPY}")
    registry = ModelRegistry("sqlite:///mlflow.db")
    registry.create(
        NAME, source=f"runs:/{run_id}/pixel", run_id=run_id, tags={"l2p.git_commit": commit}, description=""
    )


def test_the_project_of_a_version_is_laid_out_and_up_to_date(project: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["reproduce", f"{NAME}/1", str(tmp_path / "then")])
    assert done.exit_code == 0, done.output
    assert "dvc status: clean" in done.output
    assert (tmp_path / "then" / "drawn.txt").read_text() == "first\n"
    assert (project / "drawn.txt").read_text() == "second\n"


def test_what_is_not_at_hand_any_more_is_told(project: Path, tmp_path: Path) -> None:
    shutil.rmtree(".dvc/cache")
    done = CliRunner().invoke(app, ["reproduce", f"{NAME}/1", str(tmp_path / "then")])
    assert done.exit_code == 1, done.output
    assert "would run these again" in done.output
    assert "draw" in done.output


def test_a_version_of_changed_code_says_so(project: Path, tmp_path: Path) -> None:
    register(f"{call('git', 'rev-parse', 'HEAD')} (dirty)")
    done = CliRunner().invoke(app, ["reproduce", f"{NAME}/2", str(tmp_path / "then")])
    assert "registered with changes that git does not hold" in done.output


def test_a_folder_that_is_there_and_a_version_without_a_commit_are_refused(project: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    done = CliRunner().invoke(app, ["reproduce", f"{NAME}/1", str(tmp_path / "there")])
    assert isinstance(done.exception, L2PError)
    assert "is there already" in str(done.exception)
    store = Store("sqlite:///mlflow.db", "l2p")
    run_id = store.create_run("register", {})
    ModelRegistry("sqlite:///mlflow.db").create(
        NAME, source=f"runs:/{run_id}/pixel", run_id=run_id, tags={}, description=""
    )
    done = CliRunner().invoke(app, ["reproduce", f"{NAME}/2", str(tmp_path / "then")])
    assert isinstance(done.exception, LineageError)
