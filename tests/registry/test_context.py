import subprocess
from pathlib import Path

import pytest

from l2p.registry.context import describe_context, environment, git_state

IDENTITY = ["-c", "user.name=A Tester", "-c", "user.email=tester@example.org"]


def git(*arguments: str) -> str:
    return subprocess.run(["git", *IDENTITY, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    return tmp_path


def test_outside_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state() is None


def test_before_the_first_commit_there_is_none_either(repository: Path) -> None:
    assert git_state() is None


def test_a_changed_file_makes_the_commit_dirty_and_an_untracked_one_does_not(repository: Path) -> None:
    (repository / "code.py").write_text("one")
    git("add", "code.py")
    git("commit", "--quiet", "-m", "Begin")
    (repository / "note.txt").write_text("untracked")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": False}
    (repository / "code.py").write_text("two")
    assert git_state() == {"commit": git("rev-parse", "HEAD"), "dirty": True}


def test_without_git_there_is_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git_state() is None


def test_the_environment_is_the_same_each_time_it_is_described() -> None:
    assert environment() == environment()
    assert describe_context()["environment"]["packages"] > 50
