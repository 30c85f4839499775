"""`l2p corpus diff REV`: what git and DVC know of a corpus of the past."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from l2p.config import Layout
from l2p.errors import DataError, MissingFileError
from tests.data.corpora import Corpus
from tests.data.test_corpus_commands import l2p

PIPELINE = """
stages:
  synthesize:
    cmd: "true"
    outs:
      - data/corpus:
          persist: true
"""
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's use of its own libraries


class Project(Corpus):
    """A git repository with DVC, its corpus an output of the stage `synthesize`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / Layout.corpus, 6)
        (folder / "dvc.yaml").write_text(PIPELINE, encoding="utf-8")
        (folder / ".gitignore").write_text("/data/\n", encoding="utf-8")
        git("init", "--quiet")
        dvc("init", "--quiet")
        self.commit("first")

    def commit(self, tag: str) -> None:
        """Store the corpus as it is: in DVC's cache, and its digest in git."""
        dvc("commit", "--force", "--quiet")
        git("add", "--all")
        git("add", "--force", "dvc.lock")
        git("commit", "--quiet", "--message", tag)
        git("tag", tag)


def git(*arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


def dvc(*arguments: str) -> None:
    from dvc.cli import main

    assert main(list(arguments)) == 0


@pytest.fixture
def project(workspace: Path) -> Project:
    return Project(workspace)


def change(project: Project) -> None:
    """One image redrawn, one gone."""
    project.redraw(1, np.full((64, 64, 3), 90, np.uint8))
    project.path(5).unlink()
    project.rows = project.rows.drop(index=5)
    project.save()


def test_the_folder_is_compared_with_a_revision(project: Project):
    assert l2p("diff", "HEAD").stdout == "came 0, went 0, changed 0, moved 0, described 0, same 6\n"
    change(project)
    lines = l2p("diff", "first").stdout.splitlines()
    assert lines[0] == "came 0, went 1, changed 1, moved 0, described 0, same 4"
    assert [line.split()[:2] for line in lines[1:]] == [["-", "00000/000005.png"], ["~", "00000/000001.png"]]


def test_two_revisions_are_compared_without_the_folder(project: Project):
    change(project)
    project.commit("second")
    shutil.rmtree("data")
    assert l2p("diff", "first", "second").stdout.startswith("came 0, went 1, changed 1, ")
    assert l2p("diff", "second", "first").stdout.startswith("came 1, went 0, changed 1, ")
    assert l2p("diff", "HEAD~1", "HEAD").stdout.startswith("came 0, went 1, changed 1, ")


def test_a_project_without_dvc_lock_in_git_is_told_so(project: Project):
    git("rm", "--quiet", "--cached", "dvc.lock")
    git("commit", "--quiet", "--message", "unlock")
    with pytest.raises(MissingFileError, match=r"dvc\.lock: not in git at revision HEAD, .* --against"):
        l2p("diff", "HEAD")


@pytest.mark.parametrize("revision", ["no-such-tag", "--help-me", "HEAD~99"])
def test_an_unknown_revision_is_told(project: Project, revision: str):
    with pytest.raises(DataError, match="git knows no such revision"):
        l2p("diff", "--", revision)


def test_a_revision_whose_files_are_not_cached_is_told(project: Project):
    change(project)
    project.commit("second")
    shutil.rmtree(".dvc/cache")
    with pytest.raises(MissingFileError, match=r"metadata\.parquet at first: DVC cannot read it .*dvc fetch"):
        l2p("diff", "first")


def test_a_folder_without_git_is_told(workspace: Path):
    Corpus(workspace / Layout.corpus, 2)
    with pytest.raises(MissingFileError, match="no git repository"):
        l2p("diff", "HEAD")
