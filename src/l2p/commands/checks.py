"""Owns the checks behind `l2p doctor`. A check never changes anything."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from l2p.commands.findings import BROKEN, Finding
from l2p.config import Layout, Params, load_params
from l2p.errors import L2PError
from l2p.redact import redact

GIB = 1 << 30
MIN_FREE_GIB = 5  # room for a demo: corpus, cache, checkpoints and the MLflow store
MIN_MEMORY_GIB = 4
PYTHON = ((3, 11), (3, 13))  # from, below
SHOWN = ("torch", "diffusers", "transformers", "deepspeed", "dvc", "mlflow", "prefect", "great-expectations")
_INSTALL = "run `make .venv/installed`, or pip install -e . in your own environment"


def stack() -> Iterator[Finding]:
    """Python and the installed packages against what this version of l2p was made with."""
    version = platform.python_version()
    if PYTHON[0] <= sys.version_info[:2] < PYTHON[1]:
        yield Finding("python", f"{version} ({sys.executable})")
    else:
        yield Finding(
            "python", f"{version}, needs >=3.11,<3.13", BROKEN, "create the environment with Python 3.11 or 3.12"
        )
    yield Finding("packages", ", ".join(f"{name} {_version(name) or 'missing'}" for name in SHOWN))
    yield from _pins()


def machine() -> Iterator[Finding]:
    """Accelerators, cores, memory, disk, compiler."""
    import psutil
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield Finding(f"accelerator {index}", f"{card.name}, {card.total_memory / GIB:.0f} GiB")
    else:
        yield Finding("accelerator", f"none; everything runs on the CPU ({torch.backends.cpu.get_cpu_capability()})")
    yield Finding("cores", f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}")
    memory = psutil.virtual_memory()
    yield _at_least("memory", memory.available / GIB, MIN_MEMORY_GIB, f"free of {memory.total / GIB:.0f} GiB")
    disk = shutil.disk_usage(".")
    yield _at_least("disk", disk.free / GIB, MIN_FREE_GIB, f"free of {disk.total / GIB:.0f} GiB")
    compiler = next((name for name in ("g++", "clang++") if shutil.which(name)), None)
    if compiler:
        yield Finding("compiler", f"{compiler} (torch.compile)")
    else:
        yield Finding("compiler", "none", "note", "install g++, or set train.compile_blocks: false (slower)")


def project(params_file: Path) -> Iterator[Finding]:
    """params.yaml, source, git, DVC and MLflow of the current folder."""
    try:
        params = load_params(params_file)
    except L2PError as error:
        yield Finding(str(params_file), str(error), BROKEN, "correct it; `l2p explain` says what each field means")
        return
    yield Finding(str(params_file), "valid")
    yield _source(params)
    yield _git()
    yield _dvc()
    yield _mlflow(params)


def _pins() -> Iterator[Finding]:
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("l2p") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("l2p", "not installed as a package, so its pins are unknown", "note", _INSTALL)
        return
    wanted = [Requirement(line) for line in lines if "extra ==" not in line]
    missing = [item.name for item in wanted if _version(item.name) is None]
    other = [
        item for item in wanted if item.name not in missing and not item.specifier.contains(_version(item.name) or "")
    ]
    for name in missing:
        yield Finding(name, "not installed", BROKEN, _INSTALL)
    for item in other:
        yield Finding(item.name, f"{_version(item.name)} differs from the pin {item.specifier}", "note", _INSTALL)
    if not missing and not other:
        yield Finding("pins", f"all {len(wanted)} requirements as in pyproject.toml")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _at_least(what: str, gib: float, wanted_gib: float, rest: str) -> Finding:
    if gib >= wanted_gib:
        return Finding(what, f"{gib:.0f} GiB {rest}")
    return Finding(what, f"{gib:.1f} GiB {rest}", "note", f"the demo wants about {wanted_gib} GiB")


def _source(params: Params) -> Finding:
    path, revision = Path(params.source.path), params.source.revision
    pinned = "pinned" if Layout.source.is_file() else "not pinned yet (`l2p source`)"
    if (path / "model_index.json").is_file():
        return Finding("source", f"{path}, {pinned}")
    if revision is not None and not path.is_dir():
        return Finding("source", f"{path}@{revision} of the Hugging Face hub, {pinned}")
    step = "give source.path a folder in diffusers layout; `git checkout sources` restores the embedded one"
    return Finding("source", f"{path}: no model_index.json", BROKEN, step)


def _git() -> Finding:
    if shutil.which("git") is None:
        return Finding("git", "not installed", BROKEN, "install git; DVC and the lineage of a model need it")
    head = _git_output("rev-parse", "--short", "HEAD")
    if head is None:
        return Finding(
            "git", "this folder has no commit", "note", "`git init` and commit: lineage names the commit of the code"
        )
    changed = len((_git_output("status", "--porcelain", "--untracked-files=no") or "").splitlines())
    return Finding("git", f"commit {head}" + (f", {changed} changed files" if changed else ", clean"))


def _git_output(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _dvc() -> Finding:
    if not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        return Finding("dvc", "no pipeline in this folder", "note", "run l2p in the root of a project (dvc.yaml, .dvc)")
    from dvc.repo import Repo

    with Repo(".") as repo:
        stages = [stage.addressing for stage in repo.index.stages if not stage.always_changed]
        waiting = [name for name in repo.status() if name in stages]
    if not waiting:
        return Finding("dvc", f"all {len(stages)} stages are up to date")
    return Finding(
        "dvc", f"{len(waiting)} of {len(stages)} stages have work: {', '.join(waiting)}", "ok", "`dvc repro` runs them"
    )


def _mlflow(params: Params) -> Finding:
    uri = params.register_.tracking_uri
    file = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not file.is_file():
        return Finding("mlflow", f"{file}: no store yet", "ok", "training or `l2p register` creates it")
    if redact(uri) != uri:
        step = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (PGPASSWORD for PostgreSQL) and take it out"
        return Finding("mlflow", f"{redact(uri)}: register.tracking_uri holds a credential", "note", step)
    size = f" ({file.stat().st_size / 1e6:.1f} MB)" if file.is_file() else ""
    if not uri.startswith("sqlite:///"):
        return Finding("mlflow", f"{uri}{size}")
    return Finding("mlflow", f"{uri}{size}", "ok", f"`mlflow ui --backend-store-uri {uri}` shows it")
