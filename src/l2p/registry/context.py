"""Owns what is recorded beside a lineage: git commit, installed packages and hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

from l2p import __version__
from l2p.files import sha256_json

_GIT_TIMEOUT_S = 20


def describe_context() -> dict[str, Any]:
    """Git commit, environment and hardware of this process."""
    return {"git": git_state(), "environment": environment(), "hardware": hardware()}


def git_state() -> dict[str, Any] | None:
    """Commit, and whether tracked files differ from it; None outside a repository or before its first commit."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--untracked-files=no"))}


def environment() -> dict[str, Any]:
    """Versions, and a digest over all installed packages (the content of `pip freeze`)."""
    packages = sorted({f"{item.name}=={item.version}" for item in importlib.metadata.distributions()})
    return {
        "l2p": __version__,
        "python": platform.python_version(),
        "packages": len(packages),
        "packages_sha256": sha256_json(packages),
    }


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
