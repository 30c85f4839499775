"""Owns the tiny project of the failure drill: converted once without disturbance, then laid out anew for each fault.

A fault hits one stage. The project is laid out as it was before that stage ran: what the stage writes is gone, DVC's
lock does not know it, and its run cache is empty, so that the stage has to run. Whatever comes after the stage is there
and stays valid only if the recovered stage writes the very same bytes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from bench.fault_processes import ROOT, Command
from bench.fault_servers import Server
from l2p.config import Layout
from l2p.errors import ConfigError, L2PError
from l2p.files import sha256_file, sha256_json, write_json

REGISTER = "register"
DVC = [sys.executable, "-m", "dvc"]

_MOUNT_MB = 1024
_LIMIT_S = 1800.0  # for one stage on a busy machine
_SIZES: dict[str, dict[str, Any]] = {
    "source": {"path": "sources/shapes"},
    "prompts": {"count": 24},
    "synthesize": {"images_per_prompt": 1, "num_steps": 2, "batch_size": 4},
    "convert": {"calibration_images": 16},
    "train": {
        "num_steps": 12,
        "batch_size": 4,
        "warmup_steps": 1,
        "checkpoint_every": 2,
        "log_every": 1,
        "sample_every": 6,
        "validation_images": 2,
        "validate_every": 6,
        "compile_blocks": False,
        "dtype": "float32",
    },
    "geneval": {"images_per_prompt": 1},
    "dpg": {"images_per_prompt": 1},
    "efficiency": {"resolutions_px": [64], "num_steps": 1, "repeats": 1},
}


@dataclass
class Project:
    """Where the drill works, and what it knows of the undisturbed run."""

    work: Path
    environment: Mapping[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    servers: list[Server] = field(default_factory=list)

    @property
    def root(self) -> Path:
        """The project that is disturbed; it is always at the same place, which MLflow's records name."""
        return self.work / "project"

    @property
    def finished(self) -> Path:
        """The undisturbed project."""
        return self.work / "finished"

    @property
    def unregistered(self) -> Path:
        """The same before its model was registered."""
        return self.work / "unregistered"

    @property
    def stages(self) -> list[str]:
        """All stages in the order in which they ran."""
        return list(self.seconds)

    def build(self) -> None:
        """Convert once without disturbance, unless it is there from before.

        Raises:
            ConfigError: what is there was converted by other code.
        """
        known = self.work / "undisturbed.json"
        while self.root.is_mount():  # of a drill that was killed while it had filled a disk
            unmount(self.root)
        if known.is_file():
            found = json.loads(known.read_text(encoding="utf-8"))
            if found["code"] != code_digest():
                raise ConfigError(f"{self.work}: a drill of other code. Delete it, or name another --work.")
            self.seconds |= found["seconds"]
            return
        for folder in (self.root, self.finished, self.unregistered):
            shutil.rmtree(folder, ignore_errors=True)
        self._write()
        for stage in in_order(self.root):
            self._convert(stage)
        copy(self.root, self.finished)
        write_json(known, {"code": code_digest(), "seconds": self.seconds})

    def _convert(self, stage: str) -> None:
        if stage == REGISTER:
            copy(self.root, self.unregistered)
        print(f"undisturbed: {stage}", flush=True)
        started = time.monotonic()
        command = self.start(["repro", "--single-item", stage])
        if command.wait(_LIMIT_S) != 0:
            raise L2PError(f"the undisturbed run failed in {stage}:\n{command.tail()}")
        self.seconds[stage] = time.monotonic() - started

    def lay_out(self, stage: str, *, registered: bool) -> None:
        """The project as it was before `stage` ran; what is registered stays registered if `registered`."""
        clear(self.root)
        template = self.finished if registered and stage != REGISTER else self.unregistered
        subprocess.run(["cp", "-a", f"{template}/.", str(self.root)], check=True)
        lock_file = self.root / "dvc.lock"
        lock = yaml.safe_load(lock_file.read_text(encoding="utf-8"))
        for out in (lock["stages"].pop(stage, None) or {"outs": []})["outs"]:
            remove(self.root / out["path"])
        if stage == "train":
            remove(self.root / Layout.checkpoints)  # which DVC does not know of
        lock_file.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
        shutil.rmtree(self.root / ".dvc/cache/runs", ignore_errors=True)

    def start(self, arguments: list[str], *, around: list[str] | None = None) -> Command:
        """`dvc ARGUMENTS` in the project, behind the command `around` if there is one."""
        return Command.start(
            [*(around or []), *DVC, *arguments],
            folder=self.root,
            environment=self.environment,
            log=self.work / "project.log",
        )

    def close(self) -> None:
        """End the servers that a fault started."""
        while self.servers:
            self.servers.pop().kill()

    def serving(self) -> set[int]:
        """Processes of the servers that a fault started, which are no orphans."""
        return {pid for server in self.servers for pid in server.pids()}

    def images(self) -> int:
        """Images of the undisturbed corpus."""
        return len(pd.read_parquet(self.finished / Layout.corpus_table, columns=["file_name"]))

    def change_params(self, section: str, **fields: object) -> None:
        """Change fields of one section of the project's params.yaml."""
        path = self.root / "params.yaml"
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        raw[section] |= fields
        path.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")

    def _write(self) -> None:
        self.root.mkdir(parents=True)
        for name in ("dvc.yaml", ".gitignore"):
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "sources/shapes", self.root / "sources/shapes")
        (self.root / "params.yaml").write_text(yaml.safe_dump(tiny_params(), sort_keys=False), encoding="utf-8")
        identity = ["-c", "user.name=drill", "-c", "user.email=drill@localhost"]
        for command in (
            ["git", "init", "--quiet"],
            [*DVC, "init", "--quiet"],
            [*DVC, "config", "core.check_update", "false"],  # its look-up would be a process of its own
            ["git", "add", "--all"],
            ["git", *identity, "commit", "--quiet", "--message", "A project to disturb"],
        ):
            subprocess.run(command, cwd=self.root, env=dict(self.environment), check=True)


def tiny_params() -> dict[str, Any]:
    """The repository's params.yaml with numbers so small that a stage is little more than its imports."""
    raw: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for section, fields in _SIZES.items():
        raw[section] |= fields
    for sampler in ("source", "pixel"):
        raw["sampling"][sampler] |= {"num_steps": 2}
    return raw


def code_digest() -> str:
    """Digest of the code and the parameters that a drill's results belong to."""
    files = [path for folder in ("src", "flows") for path in sorted((ROOT / folder).rglob("*.py"))]
    files += [ROOT / "dvc.yaml", ROOT / "params.yaml"]
    return sha256_json({str(path.relative_to(ROOT)): sha256_file(path) for path in files})


def in_order(root: Path) -> list[str]:
    """Names of the stages as DVC runs them."""
    from flows.graph import read_graph

    return [node.name for node in read_graph(root)]


def copy(source: Path, target: Path) -> None:
    """Copy a project as it is."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def clear(folder: Path) -> None:
    """Empty a folder; it may be the root of a file system of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        remove(path)


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mount(folder: Path) -> None:
    """A small file system in memory at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_MOUNT_MB}m", "tmpfs", str(folder)], check=True)


def unmount(folder: Path) -> None:
    """Take it away again."""
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
