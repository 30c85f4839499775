"""A real little DVC project: one stage, a matrix over it, and one that joins the matrix."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PIPELINE = """
stages:
  prompts:
    cmd: echo making prompts && echo hello > prompts.txt
    outs: [prompts.txt]
  geneval:
    matrix:
      model: [source, pixel]
    cmd: echo scoring ${item.model} && cat prompts.txt > ${item.model}.txt
    deps: [prompts.txt]
    outs: ["${item.model}.txt"]
  report:
    cmd: cat source.txt pixel.txt > report.txt
    deps: [source.txt, pixel.txt]
    outs: [report.txt]
"""


@pytest.fixture(scope="session")
def empty_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that git and DVC have been told of; telling them takes seconds, so tests copy it."""
    root = tmp_path_factory.mktemp("dvc") / "project"
    root.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=root, check=True)
    return root


@pytest.fixture
def make_project(empty_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a DVC project of a dvc.yaml, with a working directory elsewhere."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")

    def make(pipeline: str = PIPELINE) -> Path:
        root = tmp_path / "project"
        shutil.copytree(empty_project, root)
        (root / "dvc.yaml").write_text(pipeline, encoding="utf-8")
        return root

    return make


@pytest.fixture
def project(make_project: Callable[[str], Path]) -> Path:
    return make_project(PIPELINE)
