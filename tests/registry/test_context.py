import subprocess
import sys
from pathlib import Path

import pytest

from l2p.registry.context import describe_context, dvc_digests, environment, git_state

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


def test_data_is_named_as_dvc_keeps_it_and_what_was_changed_since_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert dvc_digests() == {}
    for name in ("data/corpus/image.png", "models/pixel/delta.safetensors"):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(name)
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "data/corpus", "models/pixel"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True)
    found = dvc_digests()
    assert found.keys() == {"data/corpus", "models/pixel"}
    for path, digest in found.items():
        assert f"md5: {digest}" in Path(f"{path}.dvc").read_text()
    Path("data/corpus/image.png").unlink()
    Path("data/corpus/image.png").write_text("changed")
    assert dvc_digests().keys() == {"models/pixel"}
