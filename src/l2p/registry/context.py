"""Owns what is recorded beside a lineage: git commit, installed packages, hardware, and what DVC calls the data."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from l2p import __version__
from l2p.config import Layout
from l2p.files import sha256_json

_GIT_TIMEOUT_S = 20
_DATA = (Layout.source, Layout.prompts, Layout.corpus, Layout.manifest, Layout.embeddings, Layout.pixel)


def describe_context() -> dict[str, Any]:
    """Git commit, environment and hardware of this process, and the digests by which DVC keeps the data."""
    return {"git": git_state(), "environment": environment(), "hardware": hardware(), "dvc": dvc_digests()}


def git_state() -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None outside a repository or before its first commit."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def environment() -> dict[str, Any]:
    """Versions, and a digest over all installed packages (the content of `pip freeze`)."""
    packages = installed_packages()
    return {
        "l2p": __version__,
        "python": platform.python_version(),
        "packages": len(packages),
        "packages_sha256": sha256_json(packages),
    }


def installed_packages() -> list[str]:
    """`name==version` of every installed package: no addresses and no paths, whatever they were installed from."""
    return sorted({f"{item.name}=={item.version}" for item in importlib.metadata.distributions()})


def dvc_digests() -> dict[str, str]:
    """{path: digest} of the data that DVC has in its cache as it lies here; what was changed since is left out."""
    if not Path(".dvc").is_dir():
        return {}
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    wanted = {path.as_posix() for path in _DATA}
    found: dict[str, str] = {}
    with Repo(".") as repo:
        for out in repo.index.outs:
            name = Path(os.path.relpath(out.fs_path, repo.root_dir)).as_posix()
            try:
                if name in wanted and out.hash_info and out.exists and not out.changed_checksum():
                    found[name] = str(out.hash_info.value)
            except (DvcException, OSError):  # it vanished meanwhile: nothing to name
                continue
    return dict(sorted(found.items()))


def hardware() -> dict[str, Any]:
    """Processor, and the accelerators that torch sees if it is loaded already."""
    torch = sys.modules.get("torch")
    gpus: list[str] = []
    if torch is not None and torch.cuda.is_available():
        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count(), "gpus": gpus}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
