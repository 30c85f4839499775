"""Owns the registered model: its versions, their tags, and the aliases that move between them.

`candidate` is the newest registered version, `champion` the one that passed the gate last, `previous` the champion
before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from l2p.errors import RegistryError
from l2p.redact import redact
from l2p.registry.references import complete
from l2p.registry.store import absolute_uri, download, load_mlflow, open_client, registry_errors

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"

# Tags of a version.
TAG_PREFIX = "l2p."
WEIGHTS_TAG = "l2p.weights_sha256"
ROOT_TAG = "l2p.lineage_root"
SCORES_TAG = "l2p.scores"
DRAWING_TAG = "l2p.drawing"
GATE_TAG = "l2p.gate"
COMMIT_TAG = "l2p.git_commit"
ORIGIN_TAG = "l2p.origin"  # source, corpus and weights, for the model card
FILES_TAG = "l2p.model_files_sha256"  # over the digests of all files of the logged model

# Folder of the delta inside a logged model.
DELTA_ARTIFACT = "artifacts/delta"

_LOGGED_MODEL = "models:/"


@dataclass(frozen=True)
class ModelVersion:
    """One registered version."""

    name: str
    version: int
    run_id: str
    source: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        """NAME/VERSION."""
        return f"{self.name}/{self.version}"


class ModelRegistry:
    """The registered models of one MLflow store."""

    def __init__(self, tracking_uri: str) -> None:
        """Open the registry at `tracking_uri`.

        Raises:
            RegistryError: it cannot be reached.
        """
        self.tracking_uri = absolute_uri(tracking_uri)
        with registry_errors(f"opening {tracking_uri}"):
            self._client = open_client(self.tracking_uri)

    def resolve(self, reference: str) -> ModelVersion:
        """The version that `NAME@ALIAS` or `NAME/VERSION` names.

        Raises:
            RegistryError: malformed, or there is no such model, alias or version.
        """
        name, at, alias = reference.partition("@")
        if at and name and alias:
            found = self.by_alias(name, alias)
            if found is None:
                raise RegistryError(f"{reference}: {self._known(name)}")
            return found
        name, slash, version = reference.rpartition("/")
        if not (slash and name and version.isdigit()):
            raise RegistryError(
                f"{reference!r}: expected NAME@ALIAS or NAME/VERSION, for example shapes-pixel@champion."
            )
        for candidate in self.all(name):
            if candidate.version == int(version):
                return candidate
        raise RegistryError(f"{reference}: {self._known(name)}")

    def all(self, name: str) -> list[ModelVersion]:
        """All versions of a model, newest first; none when there is no such model."""
        with registry_errors(f"listing versions of {name}"):
            found = list(self._pages(name))
            aliases = self._aliases(name) if found else {}
        versions = [_version(entity, aliases) for entity in found]
        return sorted(versions, key=lambda version: version.version, reverse=True)

    def by_alias(self, name: str, alias: str) -> ModelVersion | None:
        """The version that has `alias`, if any."""
        for version in self.all(name):
            if alias in version.aliases:
                return version
        return None

    def find(self, name: str, tags: Mapping[str, str]) -> ModelVersion | None:
        """The first version with all of `tags`, if any."""
        fitting = [version for version in self.all(name) if tags.items() <= version.tags.items()]
        return fitting[-1] if fitting else None

    def create(self, name: str, *, source: str, run_id: str, tags: Mapping[str, str], description: str) -> ModelVersion:
        """Register the logged model `source`; returns its new version, without aliases."""
        with registry_errors(f"registering {name}"):
            self._require_name(name)
            load_mlflow().set_tracking_uri(self.tracking_uri)  # where MLflow itself looks for `source`
            model_id = source.removeprefix(_LOGGED_MODEL) if source.startswith(_LOGGED_MODEL) else None
            entity = self._client.create_model_version(
                name, source, run_id, tags=dict(tags), description=description, model_id=model_id
            )
        return _version(entity, {})

    def delete(self, version: ModelVersion) -> None:
        """Delete a version with its logged model and its run: another process registered the same before."""
        with registry_errors(f"deleting {version}"):
            self._client.delete_model_version(version.name, str(version.version))
            self._client.delete_logged_model(version.source.removeprefix(_LOGGED_MODEL))
            self._client.delete_run(version.run_id)

    def set_tag(self, version: ModelVersion, key: str, value: str) -> None:
        """Tag a version."""
        with registry_errors(f"tagging {version}"):
            self._client.set_model_version_tag(version.name, str(version.version), key, value)

    def set_alias(self, version: ModelVersion, alias: str) -> None:
        """Give `alias` to `version`; whichever version had it loses it."""
        with registry_errors(f"setting the alias {alias} of {version}"):
            self._client.set_registered_model_alias(version.name, alias, str(version.version))

    def make_champion(self, version: ModelVersion) -> None:
        """Make `version` the champion and the present champion `previous`."""
        present = self.by_alias(version.name, CHAMPION)
        if present is not None and present.version == version.version:
            return
        if present is not None:
            self.set_alias(present, PREVIOUS)
        self.set_alias(version, CHAMPION)

    def download_delta_of(self, source: str) -> Path:
        """Folder of a logged model's delta; a local store hands out its own folder, a remote one a copy.

        Raises:
            RegistryError: it cannot be fetched, or weights that are registered by reference cannot be found.
        """
        with registry_errors(f"fetching {source}"):
            folder = download(f"{self._location(source)}/{DELTA_ARTIFACT}", tracking_uri=self.tracking_uri)
        return complete(folder)

    def download_model_of(self, source: str) -> Path:
        """Folder of the whole logged model, likewise."""
        with registry_errors(f"fetching {source}"):
            return download(self._location(source), tracking_uri=self.tracking_uri)

    def _location(self, source: str) -> str:
        return str(self._client.get_logged_model(source.removeprefix(_LOGGED_MODEL)).artifact_location)

    def _require_name(self, name: str) -> None:
        if self._client.search_registered_models(f"name='{name}'"):
            return
        try:
            self._client.create_registered_model(name)
        except load_mlflow().exceptions.MlflowException:  # another process was faster
            if not self._client.search_registered_models(f"name='{name}'"):
                raise

    def _pages(self, name: str) -> Iterator[Any]:
        page = self._client.search_model_versions(f"name='{name}'")
        yield from page
        while page.token:
            page = self._client.search_model_versions(f"name='{name}'", page_token=page.token)
            yield from page

    def _aliases(self, name: str) -> dict[str, str]:
        return dict(self._client.get_registered_model(name).aliases)

    def _known(self, name: str) -> str:
        versions = self.all(name)
        if not versions:
            return f"no model {name!r} in {redact(self.tracking_uri)}. `dvc repro register` registers one."
        aliases = sorted({alias for version in versions for alias in version.aliases})
        return (
            f"not registered; {name} has versions 1 to {versions[0].version}, aliases {', '.join(aliases) or 'none'}."
        )


def _version(entity: Any, aliases: Mapping[str, str]) -> ModelVersion:
    return ModelVersion(
        name=str(entity.name),
        version=int(entity.version),
        run_id=str(entity.run_id),
        source=str(entity.source),
        tags=dict(entity.tags),
        aliases=tuple(sorted(alias for alias, version in aliases.items() if str(version) == str(entity.version))),
    )
