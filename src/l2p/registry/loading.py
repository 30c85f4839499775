"""Owns finding the weights of a registered model for whoever wants to draw with it, from any working directory."""

from __future__ import annotations

import os
from pathlib import Path

from l2p.config import PARAMS_FILE, load_params
from l2p.errors import RegistryError
from l2p.registry.verify import check_weights
from l2p.registry.versions import WEIGHTS_TAG, ModelRegistry

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


def fetch_verified(reference: str, *, tracking_uri: str | None = None) -> Path:
    """Delta folder of a registered model, `NAME@ALIAS` or `NAME/VERSION`, whose weights are those registered.

    Args:
        reference: of the version.
        tracking_uri: of the store; None = MLFLOW_TRACKING_URI, or else that of params.yaml in the working directory.

    Raises:
        RegistryError: no store is named, no such version, or its weights cannot be found.
        LineageError: the weights are not those that were registered.
    """
    registry = ModelRegistry(tracking_uri or _known_store())
    version = registry.resolve(reference)
    if WEIGHTS_TAG not in version.tags:
        raise RegistryError(f"{version}: has no tag {WEIGHTS_TAG}, so it was not registered by `l2p register`.")
    delta = registry.download_delta_of(version.source)
    check_weights(delta, version.tags[WEIGHTS_TAG])
    return delta


def _known_store() -> str:
    named = os.environ.get(TRACKING_VARIABLE)
    if named:
        return named
    if not PARAMS_FILE.is_file():
        raise RegistryError(
            f"no MLflow store is named: give tracking_uri, set {TRACKING_VARIABLE}, or have {PARAMS_FILE}."
        )
    return load_params().register_.tracking_uri
