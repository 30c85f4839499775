"""Owns `l2p reproduce`: the project as it was when a version was registered, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from l2p.config import PARAMS_FILE, load_params
from l2p.errors import L2PError, LineageError
from l2p.redact import redact

if TYPE_CHECKING:
    from l2p.registry.store import Store
    from l2p.registry.versions import ModelVersion

_LOCK = Path("dvc.lock")
_DIRTY = " (dirty)"
_ALWAYS = "always changed"


def add_to(app: typer.Typer) -> None:
    """Add `reproduce` to `app`."""
    app.command("reproduce", rich_help_panel="Models")(reproduce)


def reproduce(
    context: typer.Context,
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="A registered version; or NAME/VERSION.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for it, a git worktree.")],
) -> None:
    """Lay out code, parameters and data of a registered version, and say whether the pipeline is up to date there.

    Exit code 0: `dvc status` is clean; 1: some stages would run again, and it says which.
    """
    from l2p.registry.store import Store
    from l2p.registry.versions import COMMIT_TAG, ModelRegistry

    settings = load_params(context.obj).register_
    version = ModelRegistry(settings.tracking_uri).resolve(reference)
    commit = version.tags.get(COMMIT_TAG)
    if commit is None:
        raise LineageError(f"{version}: was registered outside git, so there is no code to go back to.")
    if folder.exists():
        raise L2PError(f"{folder}: is there already. Name a folder that is not.")
    _run("git", "worktree", "add", "--detach", str(folder), commit.removesuffix(_DIRTY))
    typer.echo(f"{folder}: code at {commit[:12]}")
    if commit.endswith(_DIRTY):
        typer.echo("  it was registered with changes that git does not hold, so stages may differ")
    _restore(Store(settings.tracking_uri, settings.experiment), version, folder)
    _fetch_data(folder)
    waiting = _status(folder)
    if waiting:
        typer.echo(f"dvc status: not clean; `dvc repro` in {folder} would run these again:\n{waiting}")
        raise typer.Exit(1)
    typer.echo("dvc status: clean; code, parameters and data are those of the registered version")


def _restore(store: Store, version: ModelVersion, folder: Path) -> None:
    """Parameters and lock of the run, in place of those of the commit."""
    from l2p.registry.evidence import LOCK_COPY

    for artifact, name in ((f"project/{PARAMS_FILE.name}", PARAMS_FILE.name), (f"project/{LOCK_COPY}", _LOCK.name)):
        try:
            shutil.copyfile(store.fetch(version.run_id, artifact), folder / name)
        except L2PError:
            typer.echo(f"  {name}: not recorded with the version; the commit's own is used")


def _fetch_data(folder: Path) -> None:
    """What the lock names, from this project's cache, and from its remote where there is one."""
    cache = Path(_run("dvc", "cache", "dir").strip()).resolve()
    _run("dvc", "cache", "dir", "--local", str(cache), folder=folder)
    has_remote = bool(_run("dvc", "remote", "list", folder=folder).strip())
    command = ("pull", "--allow-missing") if has_remote else ("checkout", "--allow-missing")
    done = _try("dvc", *command, folder=folder)
    if done.returncode:
        typer.echo(f"  data: not all of it is at hand ({redact(' '.join(done.stderr.split())[:200])})")


def _status(folder: Path) -> str:
    """What DVC finds to do, apart from stages that run always and from outputs that it does not keep."""
    import yaml

    raw = yaml.safe_load(_run("dvc", "status", "--json", folder=folder))
    scratch = {f"changed outs: {name}: deleted" for name in _uncached(folder)}
    found = {}
    for stage, changes in raw.items():
        lines = [line for change in changes for line in _lines(change)]
        if _ALWAYS not in lines and (rest := [line for line in lines if line not in scratch]):
            found[stage] = rest
    return yaml.safe_dump(found, sort_keys=False).rstrip() if found else ""


def _lines(change: Any) -> Iterator[str]:
    """A change as DVC reports it, nested, as lines."""
    if not isinstance(change, dict):
        yield str(change)
        return
    for name, deeper in change.items():
        yield from (f"{name}: {line}" for line in _lines(deeper))


def _uncached(folder: Path) -> Iterator[str]:
    """Outputs that no cache holds, such as checkpoints; they are scratch, and come with the next run."""
    from dvc.repo import Repo

    with Repo(str(folder)) as repo:
        for stage in repo.index.stages:
            for out in stage.outs:
                if not out.use_cache:
                    yield Path(out.fs_path).relative_to(repo.root_dir).as_posix()


def _run(program: str, *arguments: str, folder: Path | None = None) -> str:
    done = _try(program, *arguments, folder=folder)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())[:400]
        raise L2PError(f"`{program} {' '.join(arguments)}` failed ({redact(reason)}).")
    return done.stdout


def _try(program: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dvc"] if program == "dvc" else [program]
    environment = os.environ | {"DVC_NO_ANALYTICS": "1"}
    return subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
