"""Owns fetching the official benchmark files: pinned by commit and digest, checked, and put in place whole.

A commit id is a digest over every file of a repository, and git verifies it while it fetches. The files are not ours to
pass on, so they are never part of this repository.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from l2p.errors import DataError, EvaluationError, MissingFileError
from l2p.evaluation.benchmark_data import load_dpg, load_geneval
from l2p.files import atomic_path, sha256_file

_GIT = ("git", "-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false")


@dataclass(frozen=True)
class Official:
    """A benchmark as its authors publish it.

    `files` are what is kept of `folder` in the repository; params.yaml names the first one. `sha256` is of that file,
    None where only the commit pins it. `count` is how many prompts there are.
    """

    name: str
    url: str
    commit: str
    folder: str
    files: tuple[str, ...]
    sha256: str | None
    count: int
    licence: str


OFFICIAL = {
    "geneval": Official(
        name="geneval",
        url="https://github.com/djghosh13/geneval",
        commit="b636c3c59106a271435556eff5c567f8569a8d53",
        folder="prompts",
        files=("evaluation_metadata.jsonl",),
        sha256="5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13",
        count=553,
        licence="MIT",
    ),
    "dpg": Official(
        name="dpg",
        url="https://github.com/TencentQQGYLab/ELLA",
        commit="e1c36191243b4bfca8701f7ca3004bd257a32499",
        folder="dpg_bench",
        files=("dpg_bench.csv", "prompts"),
        sha256=None,
        count=1065,
        licence="Apache-2.0",
    ),
}


def fetch(official: Official, out: Path, *, force: bool = False) -> Path:
    """Fetch a benchmark with git and put it at `out`; returns its main file.

    Raises:
        MissingFileError: git is not installed, or the repository cannot be reached.
        DataError: `out` holds something else and `force` is not set.
        EvaluationError: what was fetched is not what is pinned.
    """
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch)
        _git(official, "init", "--quiet", str(clone))
        _git(official, "-C", str(clone), "fetch", "--quiet", "--depth", "1", official.url, official.commit)
        wanted = [f"{official.folder}/{name}" for name in official.files]
        _git(official, "-C", str(clone), "checkout", "--quiet", "FETCH_HEAD", "--", *wanted)
        return install(official, clone / official.folder, out, force=force)


def copy_local(official: Official, path: Path, out: Path, *, force: bool = False, any_version: bool = False) -> Path:
    """Take a benchmark from `path`: its main file, the folder of it, or a clone of the repository.

    Raises:
        MissingFileError: there is no such file.
        DataError, EvaluationError: as `fetch`.
    """
    candidates = [path.parent if path.is_file() else path, path / official.folder]
    for folder in candidates:
        if (folder / official.files[0]).is_file():
            return install(official, folder, out, force=force, any_version=any_version)
    raise MissingFileError(f"--from {path}: holds no {official.files[0]}. Give that file, its folder, or a clone.")


def install(official: Official, folder: Path, out: Path, *, force: bool = False, any_version: bool = False) -> Path:
    """Check the files in `folder` and copy them to `out`, which is left alone when it holds them already."""
    _check(official, folder, any_version)
    main = out / official.files[0]
    if out.is_dir() and all(_same(folder / name, out / name) for name in official.files):
        return main
    if out.exists() and any(out.iterdir()) and not force:
        raise DataError(f"{out}: holds other files than the official ones. Move them away, or give --force.")
    with atomic_path(out) as partial:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name in official.files:
            copy: Callable[..., object] = shutil.copytree if (folder / name).is_dir() else shutil.copyfile
            copy(folder / name, partial / name)
        if out.exists():
            shutil.rmtree(out)
    return main


def count_prompts(official: Official, main: Path) -> int:
    """Load the benchmark, which checks every line, and count its prompts."""
    if official.name == "geneval":
        return len(load_geneval(str(main), main.parent).prompts)
    return len(load_dpg(str(main), main.parent).items)


def _check(official: Official, folder: Path, any_version: bool) -> None:
    main = folder / official.files[0]
    for name in official.files:
        if not (folder / name).exists():
            raise EvaluationError(f"{folder / name}: not found, so this is not the whole benchmark.")
    found, count = sha256_file(main), count_prompts(official, main)
    if any_version:
        return
    if official.sha256 is not None and found != official.sha256:
        raise EvaluationError(
            f"{main}: sha256 {found[:12]}, expected {official.sha256[:12]}: another version, whose scores cannot be "
            "compared with published ones. Fetch it again, or give --any-version."
        )
    if count != official.count:
        raise EvaluationError(
            f"{main}: {count} prompts, expected {official.count}: another version, whose scores cannot be "
            "compared with published ones. Fetch it again, or give --any-version."
        )


def _same(one: Path, other: Path) -> bool:
    """Whether a file or a folder of files has the same bytes in both places."""
    if one.is_file():
        return other.is_file() and sha256_file(one) == sha256_file(other)
    names = {path.name for path in one.iterdir()}
    return (
        other.is_dir()
        and names == {path.name for path in other.iterdir()}
        and all(_same(one / name, other / name) for name in names)
    )


def _git(official: Official, *arguments: str) -> None:
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set while a hook of the user's own runs
        environment.pop(name, None)
    way_out = f"Fetch it where there is a network and give `l2p benchmarks fetch {official.name} --from PATH`."
    try:
        done = subprocess.run([*_GIT, *arguments], env=environment, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingFileError(f"git: not found, and it is what fetches {official.url}. {way_out}") from error
    if done.returncode:
        reason = " ".join(done.stderr.split()).removeprefix("fatal: ").rstrip(".")
        raise MissingFileError(f"{official.url} at {official.commit[:12]}: cannot be fetched ({reason}). {way_out}")
