"""Owns finding the model that a command is given: a folder, or a name in the registry."""

from __future__ import annotations

from pathlib import Path

from l2p.config import Layout, load_params
from l2p.errors import MissingFileError


def locate_model(model: str, params: Path) -> Path:
    """Delta folder of `model`: the path of a folder, or NAME@ALIAS in the registry that the file `params` names.

    Raises:
        MissingFileError: no such folder.
        RegistryError: no such model, alias or version.
    """
    if "@" in model and not Path(model).exists():
        from l2p.registry.loading import fetch_verified

        return fetch_verified(model, tracking_uri=load_params(params).register_.tracking_uri)
    if not Path(model).is_dir():
        raise MissingFileError(
            f"{model}: no such folder. `dvc repro train` writes {Layout.pixel}; or give NAME@ALIAS of the registry."
        )
    return Path(model)
