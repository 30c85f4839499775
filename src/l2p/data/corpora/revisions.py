"""Owns reading the corpus table of a git revision: dvc.lock in git names its digest, DVC's cache or remote has it."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pandas as pd

from l2p.config import Layout
from l2p.data.corpora.names import check_table
from l2p.errors import DataError, MissingFileError

_LOCK = "dvc.lock"
_NEEDED = ("file_name", "sha256", "text")


def read_revision(revision: str, project: Path = Path()) -> pd.DataFrame:
    """Corpus table of the project at a git revision.

    Raises:
        MissingFileError: no git repository, no dvc.lock in that revision, or the table is neither cached nor fetched.
        DataError: no such revision, or its table is damaged.
    """
    commit = _resolve(revision, project)
    if _git(project, "cat-file", "-e", f"{commit}:./{_LOCK}") is None:
        raise MissingFileError(
            f"{_LOCK}: not in git at revision {revision}, so nothing says which corpus belonged to it. Commit {_LOCK} "
            "after `dvc repro` from now on, or compare two folders with --against."
        )
    where = f"{Layout.corpus_table} at {revision}"
    try:
        table = pd.read_parquet(io.BytesIO(_read_by_dvc(commit, project, revision)))
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: not a parquet file ({' '.join(str(error).split())}).") from error
    missing = [name for name in _NEEDED if name not in table.columns]
    if missing:
        raise DataError(f"{where}: no column {missing[0]!r}, so it is no corpus table.")
    check_table(table, where)
    return table


def _read_by_dvc(commit: str, project: Path, revision: str) -> bytes:
    import dvc.api
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        content: bytes = dvc.api.read(Layout.corpus_table.as_posix(), repo=str(project), rev=commit, mode="rb")
    except (DvcException, DataIndexDirError, OSError) as error:
        raise MissingFileError(
            f"{Layout.corpus_table} at {revision}: DVC cannot read it ({' '.join(str(error).split())[:200]}). If its "
            "cache does not hold that revision, `dvc fetch --all-commits` gets it from the remote."
        ) from error
    return content


def _resolve(revision: str, project: Path) -> str:
    if _git(project, "rev-parse", "--git-dir") is None:
        raise MissingFileError(f"{project.absolute()}: no git repository. Compare two folders with --against.")
    commit = None if revision.startswith("-") else _git(project, "rev-parse", "--verify", f"{revision}^{{commit}}")
    if commit is None:
        raise DataError(f"{revision!r}: git knows no such revision. `git log --oneline` lists them.")
    return commit


def _git(project: Path, *arguments: str) -> str | None:
    """What git says, None where it refuses."""
    try:
        done = subprocess.run(["git", *arguments], cwd=project, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise MissingFileError("git: not installed. It is needed to compare revisions; install it.") from error
    return done.stdout.strip() if done.returncode == 0 else None
