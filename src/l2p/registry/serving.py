"""Owns what a server of a registered model is given: checked files, and an environment without pickles or telemetry."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from l2p.registry.logged_model import check_form, check_logged_model
from l2p.registry.record import read_record
from l2p.registry.store import ENVIRONMENT, Store, absolute_uri
from l2p.registry.verify import require_tags
from l2p.registry.versions import FILES_TAG, ModelRegistry


def fetch_model_folder(reference: str, *, tracking_uri: str, experiment: str) -> Path:
    """Folder of a version's logged model, every file of it the registered one.

    Raises:
        RegistryError: no such version, or the store cannot be reached.
        LineageError: a file differs, or it is no model of `l2p register`.
    """
    registry = ModelRegistry(tracking_uri)
    version = registry.resolve(reference)
    require_tags(version)
    folder = registry.download_model_of(version.source)
    check_form(folder)
    record = read_record(Store(tracking_uri, experiment), version)
    check_logged_model(folder, recorded=record.files if record else None, digest=version.tags.get(FILES_TAG))
    return folder


def server_environment(tracking_uri: str) -> dict[str, str]:
    """Variables for the server's process; MLflow starts a program that lies beside this interpreter, by its name."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {**ENVIRONMENT, "MLFLOW_TRACKING_URI": absolute_uri(tracking_uri), "PATH": programs}
