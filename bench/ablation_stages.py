"""Owns running the pipeline's stages for many variants: each stage once for equal inputs, in a folder of its own.

A stage is known by a key: the digest of its command, of the parameters that dvc.yaml names, of the files that no stage
writes, and of the keys of the stages before it. Its folder, OUT/stages/STAGE-KEY, is a project with params.yaml, links
to what the stages before it wrote, and what it writes itself; done.json in it says that it is finished.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from bench.ablation_matrix import Job
from l2p.config import Layout
from l2p.errors import ConfigError, L2PError
from l2p.files import read_json, sha256_file, sha256_json, write_json

DONE, LOG, PARAMS, LOCK = "done.json", "log.txt", "params.yaml", "lock"
TARGETS = ("geneval@source", "geneval@pixel", "dpg@source", "dpg@pixel")
# What draws a corpus in place of `l2p synthesize`, by the kind of the corpus.
CORPUS_COMMANDS = {
    "renders": "python -m bench.ablation_renders",
    "polluted": "python -m bench.ablation_pollution --share 0.25",
}
_DRAWS_CORPUS = "synthesize"
_SCRATCH = (Layout.checkpoints,)  # of no use once the stage is finished, and large
_KEY_LENGTH = 12
_SAID_AT_MOST = 300  # characters of the last line of a failed stage


class StageFailed(L2PError):
    """A stage of a variant ended with an error; the message says which, its last line, and where its log is."""


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml: `params` are dotted keys, `files` what no stage writes, `upstream` names other stages."""

    name: str
    cmd: str
    params: tuple[str, ...]
    files: tuple[str, ...]
    outs: tuple[str, ...]
    upstream: tuple[str, ...]


@dataclass(frozen=True)
class Keyed:
    """A stage with the key of its inputs."""

    stage: Stage
    key: str

    def folder(self, out: Path) -> Path:
        """Where it runs."""
        return out / "stages" / f"{self.stage.name.replace('@', '-')}-{self.key}"

    def is_done(self, out: Path) -> bool:
        """Whether it is finished."""
        return (self.folder(out) / DONE).is_file()


def read_pipeline(root: Path, targets: Sequence[str] = TARGETS) -> list[Stage]:
    """The stages of dvc.yaml that `targets` need, in an order in which they can run.

    Raises:
        ConfigError: no DVC project, or no such stage.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            found = {stage.name: _read_stage(stage, graph, Path(repo.root_dir)) for stage in repo.index.stages}
    except DvcException as error:
        raise ConfigError(f"{root / 'dvc.yaml'}: {' '.join(str(error).split())}") from error
    if missing := [name for name in targets if name not in found]:
        raise ConfigError(f"{root / 'dvc.yaml'}: no stage {missing[0]!r}; it has {', '.join(found)}.")
    ordered: dict[str, Stage] = {}
    for name in targets:
        _add_with_upstream(name, found, ordered)
    return list(ordered.values())


def for_corpus(stages: Sequence[Stage], job: Job) -> list[Stage]:
    """The stages of a job: another kind of corpus has another command in the place of `l2p synthesize`."""
    if job.corpus == "source":
        return list(stages)
    command = CORPUS_COMMANDS[job.corpus]
    return [replace(stage, cmd=command) if stage.name == _DRAWS_CORPUS else stage for stage in stages]


def with_keys(stages: Sequence[Stage], params: Mapping[str, Any], root: Path) -> dict[str, Keyed]:
    """Each stage with its key under `params`."""
    keyed: dict[str, Keyed] = {}
    for stage in stages:
        inputs = {
            "cmd": stage.cmd,
            "params": {name: _lookup(params, name) for name in stage.params},
            "files": {name: _digest(root / name) for name in stage.files},
            "upstream": {name: keyed[name].key for name in stage.upstream},
        }
        keyed[stage.name] = Keyed(stage, sha256_json(inputs)[:_KEY_LENGTH])
    return keyed


def run_stage(name: str, keyed: Mapping[str, Keyed], params: Mapping[str, Any], *, root: Path, out: Path) -> bool:
    """Run one stage if it is not finished; those before it must be. Returns whether there was anything to do.

    Another process that runs the same stage is waited for. A stage that was interrupted goes on where it can.

    Raises:
        StageFailed: its command ended with an error.
    """
    this = keyed[name]
    folder = this.folder(out)
    if this.is_done(out):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / LOCK) as lock:
        if this.is_done(out):
            return False
        before = ancestors(name, keyed)
        (folder / PARAMS).write_text(yaml.safe_dump(dict(params), sort_keys=False), encoding="utf-8")
        link_outs([keyed[each] for each in before], folder, out)
        for file in {file for each in (*before, name) for file in keyed[each].stage.files}:
            _link(root / file, folder / file)
        started = time.monotonic()
        _call(this.stage, folder, root=root, lock=lock)
        for scratch in _SCRATCH:
            shutil.rmtree(folder / scratch, ignore_errors=True)
        write_json(folder / DONE, {"stage": name, "key": this.key, "seconds": round(time.monotonic() - started, 1)})
    return True


def ancestors(name: str, keyed: Mapping[str, Keyed]) -> list[str]:
    """All stages before `name`, in the order of the pipeline."""
    found: set[str] = set()
    waiting = list(keyed[name].stage.upstream)
    while waiting:
        found.add(each := waiting.pop())
        waiting += keyed[each].stage.upstream
    return [each for each in keyed if each in found]


def link_outs(keyed: Sequence[Keyed], folder: Path, out: Path) -> None:
    """Put links into `folder` to everything that the stages wrote, but for their scratch."""
    for each in keyed:
        for name in each.stage.outs:
            if Path(name) not in _SCRATCH:
                _link(each.folder(out) / name, folder / name)


def seconds_of(keyed: Keyed, out: Path) -> float:
    """How long a finished stage took; of one that was interrupted, since the last start."""
    return float(read_json(keyed.folder(out) / DONE, written_by="python -m bench.ablations")["seconds"])


def _read_stage(stage: Any, graph: Any, root: Path) -> Stage:
    """What DVC knows of a stage, in our words."""
    from dvc.dependency import ParamsDependency

    upstream = list(graph.successors(stage))
    written = [Path(out.fs_path) for each in upstream for out in each.outs]
    params, files = [], []
    for dep in stage.deps:
        path = Path(dep.fs_path)
        if isinstance(dep, ParamsDependency):
            params += list(dep.params)
        elif not any(path == out or out in path.parents or path in out.parents for out in written):
            files.append(path.relative_to(root).as_posix())
    return Stage(
        name=stage.name,
        cmd=stage.cmd,
        params=tuple(sorted(params)),
        files=tuple(files),
        outs=tuple(Path(out.fs_path).relative_to(root).as_posix() for out in stage.outs),
        upstream=tuple(sorted(each.name for each in upstream)),
    )


def _add_with_upstream(name: str, found: Mapping[str, Stage], ordered: dict[str, Stage]) -> None:
    for each in found[name].upstream:
        _add_with_upstream(each, found, ordered)
    ordered.setdefault(name, found[name])


def _lookup(params: Mapping[str, Any], key: str) -> Any:
    place: Any = params
    for section in key.split("."):
        place = place.get(section) if isinstance(place, Mapping) else None
    return place


@lru_cache
def _digest(path: Path) -> str:
    """Of a file, or of all files of a folder with their names."""
    if path.is_file():
        return sha256_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return sha256_json({file.relative_to(path).as_posix(): sha256_file(file) for file in files})


def _call(stage: Stage, folder: Path, *, root: Path, lock: int) -> None:
    """Run the command of a stage in `folder`; the process holds the lock too, in case that it outlives this one."""
    paths = [str(root / "src"), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    with (folder / LOG).open("a", encoding="utf-8") as log:
        done = subprocess.run(
            _command(stage.cmd),
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            check=False,
        )
    if done.returncode:
        raise StageFailed(f"{stage.name}: {last_line(folder)[:_SAID_AT_MOST]} (exit {done.returncode}; {folder / LOG})")
    if missing := [name for name in stage.outs if not (folder / name).exists()]:
        raise StageFailed(f"{stage.name}: ended without writing {missing[0]} ({folder / LOG}).")


def last_line(folder: Path) -> str:
    """What the stage in `folder` said last."""
    lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _command(cmd: str) -> list[str]:
    """`l2p train` or `python -m MODULE`, by this interpreter."""
    program, *arguments = shlex.split(cmd)
    start = {"l2p": [sys.executable, "-m", "l2p.cli"], "python": [sys.executable]}
    return [*start.get(program, [program]), *arguments]


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    with path.open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path.parent.name}: another process is at it; waiting for it", flush=True)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream.fileno()


def _link(target: Path, path: Path) -> None:
    """A relative link, so that OUT can be moved; an old one is replaced."""
    if path.is_symlink():
        path.unlink()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
