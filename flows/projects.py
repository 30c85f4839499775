"""Owns what flows ask of a project that need not be the working directory: parameters, and versions in its registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prefect.runtime import flow_run

from l2p.config import PARAMS_FILE, Params, load_params

if TYPE_CHECKING:
    from l2p.registry.versions import ModelVersion

_LOCAL_SCHEME = "sqlite:///"


@dataclass(frozen=True)
class Project:
    """A project: its root, absolute, and its parameters with a registry address that holds from anywhere."""

    root: Path
    params: Params


def read_project(root: Path) -> Project:
    """The project in a folder.

    Raises:
        MissingFileError: it has no params.yaml.
        ConfigError: its params.yaml is not valid.
    """
    root = root.resolve()
    params = load_params(root / PARAMS_FILE)
    uri = params.register_.tracking_uri
    path = uri.removeprefix(_LOCAL_SCHEME)
    if path != uri and path and not path.startswith((":", "/")):
        settings = params.register_.model_copy(update={"tracking_uri": f"{_LOCAL_SCHEME}{root / path}"})
        params = params.model_copy(update={"register_": settings})
    return Project(root, params)


def find_version(project: Project, reference: str) -> ModelVersion:
    """The version that NAME@ALIAS, NAME/VERSION, @ALIAS or /VERSION names; without a name, of the project's model.

    Raises:
        RegistryError: there is none.
    """
    from l2p.registry.versions import ModelRegistry

    settings = project.params.register_
    full = f"{settings.name}{reference}" if reference.startswith(("@", "/")) else reference
    return ModelRegistry(settings.tracking_uri).resolve(full)


def run_name() -> str:
    """What the UI calls the present flow run."""
    return f"flow run {flow_run.name}" if flow_run.name else "a flow"
