"""Owns weights that are registered by reference: what is recorded of them, and finding them again.

A delta folder without `delta.safetensors` has `weights.json` in its place: the file's path in its project, its digests
and size. It is looked for in the project of `L2P_WORKSPACE`, of the working directory, and in the one that registered
it; in each as a file, in DVC's cache, and in DVC's remote. Nothing but the recorded bytes is ever accepted.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from l2p.errors import LineageError, RegistryError
from l2p.files import read_json, sha256_file, write_json

REFERENCE, WEIGHTS = "weights.json", "delta.safetensors"
WORKSPACE_VARIABLE = "L2P_WORKSPACE"
MB = 1_000_000

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Reference:
    """Weights that stay where they are.

    Attributes:
        path: of the file, relative to its project.
        sha256: of its bytes; the one that counts.
        md5: by which DVC's cache and remote name it.
        size_bytes: of the file.
        workspace: the project that registered it, where it may still be.
    """

    path: str
    sha256: str
    md5: str
    size_bytes: int
    workspace: str

    @classmethod
    def of(cls, weights: Path) -> Reference:
        """Of a file below the working directory."""
        workspace = Path.cwd().resolve()
        path = weights.resolve()
        if not path.is_relative_to(workspace):  # a link into a cache is named by where it stands
            path = Path(os.path.abspath(weights))  # noqa: PTH100 - `resolve` would follow the link
        return cls(
            path=path.relative_to(workspace).as_posix(),
            sha256=sha256_file(weights),
            md5=_md5(weights),
            size_bytes=weights.stat().st_size,
            workspace=str(workspace),
        )

    @classmethod
    def load(cls, folder: Path) -> Reference:
        """Of a delta folder.

        Raises:
            LineageError: its record is damaged, or names a path outside of the project.
        """
        raw = read_json(folder / REFERENCE, written_by="l2p register")
        try:
            found = cls(**raw)
        except TypeError as error:
            raise LineageError(f"{folder / REFERENCE}: damaged ({error}). Register the model again.") from error
        path = PurePosixPath(found.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in found.path:
            raise LineageError(f"{folder / REFERENCE}: names {found.path!r}, which is not below a project. Refused.")
        return found

    def save(self, folder: Path) -> None:
        """Write it in place of the weights."""
        write_json(folder / REFERENCE, asdict(self))


def is_by_reference(delta: Path) -> bool:
    """Whether the weights of a delta folder are elsewhere."""
    return (delta / REFERENCE).is_file() and not (delta / WEIGHTS).exists()


def complete(delta: Path) -> Path:
    """A delta folder with its weights: `delta` itself, or a copy in which a link leads to the weights it refers to.

    Raises:
        RegistryError: the weights are in none of the places where they may be.
        LineageError: the record is damaged.
    """
    if not is_by_reference(delta):
        return delta
    weights = find_weights(Reference.load(delta))
    folder = Path(tempfile.mkdtemp(prefix="l2p-delta-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for path in delta.iterdir():
        if path.is_file() and path.name != REFERENCE:
            shutil.copyfile(path, folder / path.name)
    (folder / WEIGHTS).symlink_to(weights)
    return folder


def find_weights(reference: Reference) -> Path:
    """The file with exactly the recorded bytes.

    Raises:
        RegistryError: it is nowhere; the message says where was looked and what was there.
    """
    told: list[str] = []
    for workspace in _workspaces(reference):
        for place, path in _candidates(workspace, reference):
            if path is None or not path.is_file():
                told.append(f"{place}: not there")
            elif (found := sha256_file(path)) != reference.sha256:
                told.append(f"{place}: other weights ({found[:12]})")
            else:
                return path.resolve()
    raise RegistryError(
        f"weights {reference.sha256[:12]} ({reference.size_bytes / MB:,.1f} MB) are registered by reference and were "
        f"not found: {'; '.join(told)}. Set {WORKSPACE_VARIABLE} to a clone of the project whose DVC remote holds them."
    )


def _workspaces(reference: Reference) -> list[Path]:
    named = os.environ.get(WORKSPACE_VARIABLE)
    places = [Path(named)] if named else []
    places += [Path.cwd(), Path(reference.workspace)]
    return list(dict.fromkeys(place.resolve() for place in places if place.is_dir()))


def _candidates(workspace: Path, reference: Reference) -> Iterator[tuple[str, Path | None]]:
    """(what a message calls it, path) of each place in a project, the cheapest first."""
    yield str(workspace / reference.path), workspace / reference.path
    if not (workspace / ".dvc").is_dir():
        return
    try:
        from dvc.repo import Repo
    except ImportError:
        yield f"DVC cache and remote of {workspace} (DVC is not installed)", None
        return
    with Repo(str(workspace)) as repo:
        cached = Path(repo.cache.local.oid_to_path(reference.md5))
        yield f"DVC cache of {workspace}", cached
        name = repo.config["core"].get("remote")
        if name:
            problem = _pull(repo, reference.md5)
            yield f"DVC remote {name!r} of {workspace}{problem}", cached


def _pull(repo: object, md5: str) -> str:
    """Bring one object from the remote into the cache; what went wrong, for a message."""
    from dvc.exceptions import DvcException
    from dvc_data.hashfile.hash_info import HashInfo

    try:
        result = repo.cloud.pull([HashInfo("md5", md5)])  # type: ignore[attr-defined]
    except (DvcException, OSError) as error:
        return f" ({' '.join(str(error).split())[:200]})"
    return " (does not have it)" if result.failed else ""


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
