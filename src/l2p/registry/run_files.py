"""Owns holding the copies in a version's run (parameters, source pin, score cards) against its lineage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from l2p.config import PARAMS_FILE, Layout, load_params
from l2p.errors import ConfigError, LineageError
from l2p.files import read_json, sha256_file
from l2p.registry.lineage import Lineage, first_difference, params_inputs
from l2p.registry.store import Store
from l2p.registry.versions import ModelVersion


def check_run_files(store: Store, version: ModelVersion, recorded: Lineage, left_out: tuple[str, ...]) -> str:
    """Compute the digests of the run's copies again; returns what to tell.

    Args:
        store: of the run.
        version: whose run it is.
        recorded: lineage of the version.
        left_out: copies from which a secret was taken out, so that they cannot have their digest any more.

    Raises:
        LineageError: names the first copy that is not what the lineage says.
        RegistryError: the store cannot be reached.
    """
    checks: dict[str, tuple[Any, Callable[[Path], Any]]] = {
        f"project/{PARAMS_FILE.name}": (recorded.inputs["params"], _params),
        f"project/{Layout.source.name}": (
            recorded.inputs["source"]["digest"],
            lambda path: read_json(path, written_by="l2p register")["digest"],
        ),
        **{f"{name}/scores.json": (digest, sha256_file) for name, digest in recorded.inputs["scores"].items()},
    }
    names = [name for name in checks if name not in left_out]
    for name in names:
        expected, compute = checks[name]
        path = store.fetch(version.run_id, name)
        difference = first_difference({name: expected}, {name: compute(path)})
        if difference is not None:
            raise LineageError(f"{path}: {difference}. The copy in the run was changed; restore the store's files.")
    told = "" if len(names) == len(checks) else "; the others had a secret taken out of them"
    return f"{len(names)} of {len(checks)} copies in the run have the digests of the lineage{told}"


def _params(path: Path) -> dict[str, str]:
    try:
        return params_inputs(load_params(path))
    except ConfigError as error:
        raise LineageError(f"{error} The copy in the run was changed, or is of another version of l2p.") from error
