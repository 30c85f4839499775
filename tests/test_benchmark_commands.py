"""`l2p benchmarks`: fetched from a real git repository, pinned, checked, and put in place whole."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from l2p.cli import app
from l2p.errors import DataError, EvaluationError, L2PError, MissingFileError
from l2p.evaluation.benchmark_fetch import OFFICIAL, Official, copy_local, fetch
from l2p.files import sha256_file
from l2p.shapes.benchmarks import write_dpg, write_geneval

OFFICIAL_GENEVAL = Path(__file__).parents[2] / "shared" / "benchmarks" / "geneval" / "evaluation_metadata.jsonl"


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def geneval(tmp_path: Path) -> Official:
    """A repository laid out like the official one, and its pin."""
    repository = tmp_path / "repository"
    main = write_geneval(repository / "prompts")
    (repository / "README.md").write_text("x", encoding="utf-8")
    return _commit(repository, replace(OFFICIAL["geneval"], sha256=sha256_file(main), count=111))


@pytest.fixture
def dpg(tmp_path: Path) -> Official:
    repository = tmp_path / "repository"
    write_dpg(repository / "dpg_bench")
    return _commit(repository, replace(OFFICIAL["dpg"], count=40))


def _commit(repository: Path, official: Official) -> Official:
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "x")
    return replace(official, url=str(repository), commit=git(repository, "rev-parse", "HEAD"))


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["benchmarks", *arguments])
    if isinstance(done.exception, L2PError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_geneval_is_fetched_without_the_rest_of_the_repository(tmp_path: Path, geneval: Official):
    main = fetch(geneval, tmp_path / "out")
    assert sha256_file(main) == geneval.sha256
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["evaluation_metadata.jsonl"]
    before = main.stat().st_mtime_ns
    assert fetch(geneval, tmp_path / "out") == main
    assert main.stat().st_mtime_ns == before


def test_dpg_is_fetched_with_its_prompts(tmp_path: Path, dpg: Official):
    assert fetch(dpg, tmp_path / "out") == tmp_path / "out" / "dpg_bench.csv"
    assert len(list((tmp_path / "out" / "prompts").iterdir())) == 40


def test_another_commit_is_told_with_the_way_out(tmp_path: Path, geneval: Official):
    with pytest.raises(MissingFileError, match=r"at 000000000000: cannot be fetched .*--from PATH"):
        fetch(replace(geneval, commit="0" * 40), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_repository_that_cannot_be_reached_is_told_with_the_way_out(tmp_path: Path, geneval: Official):
    with pytest.raises(MissingFileError, match=r"cannot be fetched .*--from PATH"):
        fetch(replace(geneval, url=str(tmp_path / "nowhere")), tmp_path / "out")


def test_without_git_the_way_out_is_told(tmp_path: Path, geneval: Official, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingFileError, match=r"git: not found.*--from PATH"):
        fetch(geneval, tmp_path / "out")


def test_other_content_or_another_number_of_prompts_is_refused(tmp_path: Path, geneval: Official):
    with pytest.raises(EvaluationError, match=r"sha256 [0-9a-f]{12}, expected 000000000000"):
        fetch(replace(geneval, sha256="0" * 64), tmp_path / "out")
    with pytest.raises(EvaluationError, match="111 prompts, expected 553"):
        fetch(replace(geneval, count=553), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_files_in_the_place_are_not_overwritten_unless_forced(tmp_path: Path, geneval: Official):
    place = tmp_path / "out"
    place.mkdir()
    (place / "evaluation_metadata.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match="--force"):
        fetch(geneval, place)
    assert (place / "evaluation_metadata.jsonl").read_text(encoding="utf-8") == "mine"
    fetch(geneval, place, force=True)
    assert sha256_file(place / "evaluation_metadata.jsonl") == geneval.sha256


def test_a_file_its_folder_and_a_clone_can_be_given(tmp_path: Path, dpg: Official):
    for number, path in enumerate(("", "dpg_bench", "dpg_bench/dpg_bench.csv")):
        copy_local(dpg, tmp_path / "repository" / path, tmp_path / str(number))
        assert (tmp_path / str(number) / "prompts" / "shapes000.txt").is_file()
    with pytest.raises(MissingFileError, match=r"holds no dpg_bench\.csv"):
        copy_local(dpg, tmp_path / "0" / "prompts", tmp_path / "out")


def test_a_table_without_its_prompts_is_refused(tmp_path: Path, dpg: Official):
    shutil.rmtree(tmp_path / "repository" / "dpg_bench" / "prompts")
    with pytest.raises(EvaluationError, match=r"prompts: not found"):
        copy_local(dpg, tmp_path / "repository", tmp_path / "out")


@pytest.mark.skipif(not OFFICIAL_GENEVAL.is_file(), reason=f"the official GenEval file is not at {OFFICIAL_GENEVAL}")
def test_the_official_geneval_file_passes_its_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "553 prompts, MIT" in run("fetch", "geneval", "--from", str(OFFICIAL_GENEVAL))
    assert "benchmarks/geneval/evaluation_metadata.jsonl  fetched" in run("list")
    assert "single_object: 80" in run("check", "benchmarks/geneval/evaluation_metadata.jsonl")


def test_the_command_refuses_another_version_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_geneval(tmp_path / "mine")
    with pytest.raises(EvaluationError, match="--any-version"):
        run("fetch", "geneval", "--from", "mine")
    assert "not checked" in run("fetch", "geneval", "--from", "mine", "--any-version")


def test_built_in_sets_are_listed_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    told = run("list")
    assert told.count("shapes  built in") == 2
    assert told.count("not there; `l2p benchmarks fetch") == 2
    assert "DPG-Bench, 40 prompts" in run("check", "dpg:shapes")
    assert "GenEval, 111 prompts" in run("check", "geneval:shapes")
