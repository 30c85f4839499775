"""Owns the MLflow store: its address, runs, what is logged to them, and reading it back.

This module is the only importer of mlflow: on first use, without telemetry; importing this module does nothing. Locally
the store is SQLite (`sqlite:///mlflow.db`) with artifacts under `./mlruns`.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2p.errors import RegistryError
from l2p.redact import redact, redact_values
from l2p.registry.entries import Dataset, MetricPoint, chunks, flatten, param_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = Path("mlruns")

_LOCAL_SCHEME = "sqlite:///"
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that is away costs seconds, not the default's minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # local files are there before a bar is drawn
}
# Not a default that a user may change: a model that needs a pickle is never loaded.
ENVIRONMENT = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false"}
_QUIET_LOGGERS = ("mlflow", "alembic")
_MAX_METRICS_PER_CALL = 1000  # of MLflow's own API
_MAX_PARAMS_PER_CALL = 100
_MAX_DATASET_DIGEST_CHARS = 36
_SYSTEM_METRICS_EVERY_S = 10
_COLLISIONS, _COLLISION_WAIT_S = 5, 0.5
_SYSTEM_PREFIX = "system/"
_TEXTS = (".csv", ".html", ".json", ".jsonl", ".lock", ".txt", ".yaml", ".yml")  # looked through for secrets


def load_mlflow() -> Any:
    """Import mlflow without telemetry and without its notes on database migrations."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(ENVIRONMENT)
    import mlflow

    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def absolute_uri(tracking_uri: str) -> str:
    """A SQLite address relative to the working directory as an absolute one, any other unchanged.

    MLflow keeps connections by address, so a relative one would go on meaning the directory in which it was first used.
    """
    path = tracking_uri.removeprefix(_LOCAL_SCHEME)
    if path == tracking_uri or not path or path.startswith(":"):
        return tracking_uri
    return f"{_LOCAL_SCHEME}{Path(path).resolve()}"


def open_client(tracking_uri: str) -> MlflowClient:
    """Client of the store at an absolute address, for runs and for registered models."""
    return load_mlflow().MlflowClient(tracking_uri, registry_uri=tracking_uri)


@contextmanager
def registry_errors(doing: str) -> Iterator[None]:
    """Turn MLflow's and its database's errors in the block into one RegistryError that says what was being done."""
    load_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = redact(" ".join(str(error).split())[:400])
        raise RegistryError(
            f"MLflow: {redact(doing)} failed ({reason}). Check `register.tracking_uri` with `l2p doctor`."
        ) from error


class Store:
    """One MLflow experiment, with the calls that this package makes of it."""

    def __init__(self, tracking_uri: str, experiment: str, *, secrets: Iterable[str] = ()) -> None:
        """Open the store at `tracking_uri`; a missing database or experiment is created.

        Args:
            tracking_uri: of the store.
            experiment: in it.
            secrets: environment variables whose values are kept out of what is logged, beside those whose names tell.

        Raises:
            RegistryError: the store cannot be reached.
        """
        self.tracking_uri = absolute_uri(tracking_uri)
        self.experiment, self._secrets = experiment, tuple(secrets)
        self.redacted: list[str] = []  # artifacts from which a secret was taken out
        with registry_errors(f"opening {tracking_uri}"):
            self.client: MlflowClient = open_client(self.tracking_uri)
            self.experiment_id = self._experiment_id()

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server decides itself where artifacts lie.
            local = self.tracking_uri.startswith(_LOCAL_SCHEME)
            place = str(ARTIFACTS.resolve()) if local else None
            try:
                return self.client.create_experiment(self.experiment, artifact_location=place)
            except load_mlflow().exceptions.MlflowException:  # another process was faster
                found = self.client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RegistryError(
                f"MLflow: experiment {self.experiment!r} is deleted. Restore it or change `register.experiment`."
            )
        return str(found.experiment_id)

    def create_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run; returns its id."""
        with registry_errors(f"starting run {name}"):
            return str(self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags)).info.run_id)

    def end_run(self, run_id: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        with registry_errors(f"ending run {run_id}"):
            self.client.set_terminated(run_id, status)

    @contextmanager
    def run(self, name: str, tags: Mapping[str, str]) -> Iterator[str]:
        """A run for the block: finished when it succeeds, failed when it raises; yields its id."""
        run_id = self.create_run(name, tags)
        try:
            yield run_id
        except BaseException:
            self.end_run(run_id, "FAILED")
            raise
        self.end_run(run_id, "FINISHED")

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log parameters, nested mappings under dotted names."""
        from mlflow.entities import Param

        known = redact_values(flatten(params), also=self._secrets)
        entities = [Param(name, param_text(value)) for name, value in known.items()]
        with registry_errors("logging parameters"):
            for chunk in chunks(entities, _MAX_PARAMS_PER_CALL):
                self.client.log_batch(run_id, params=chunk)

    def log_metrics(self, run_id: str, points: Iterable[MetricPoint]) -> None:
        """Log many metric values in few calls."""
        from mlflow.entities import Metric

        entities = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        with registry_errors("logging metrics"):
            for chunk in chunks(entities, _MAX_METRICS_PER_CALL):
                self.client.log_batch(run_id, metrics=chunk)

    def log_datasets(self, run_id: str, datasets: Iterable[Dataset]) -> None:
        """Log inputs; MLflow keeps the first 36 characters of a digest, the lineage has them whole."""
        from mlflow.entities import Dataset as Entity
        from mlflow.entities import DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Entity(
                    name=dataset.name,
                    digest=dataset.sha256[:_MAX_DATASET_DIGEST_CHARS],
                    source_type="local",
                    source=json.dumps(
                        {"uri": dataset.path} | ({"dvc_md5": dataset.dvc_md5} if dataset.dvc_md5 else {})
                    ),
                ),
                tags=[
                    InputTag("mlflow.data.context", dataset.context),
                    *([InputTag("dvc_md5", dataset.dvc_md5)] if dataset.dvc_md5 else []),
                ],
            )
            for dataset in datasets
        ]
        with registry_errors("logging datasets"):
            self._log_inputs(run_id, inputs)

    def _log_inputs(self, run_id: str, inputs: list[Any]) -> None:
        """Two runs that name the same data at the same moment collide in MLflow; the second attempt finds the data."""
        from mlflow.exceptions import MlflowException
        from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random

        again = retry(
            retry=retry_if_exception_type(MlflowException),
            stop=stop_after_attempt(_COLLISIONS),
            wait=wait_random(0, _COLLISION_WAIT_S),
            reraise=True,
        )
        again(self.client.log_inputs)(run_id, datasets=inputs)

    def log_image(self, run_id: str, image: Any, *, key: str, step: int) -> None:
        """Log an image (uint8 RGB array or PIL image) so that the MLflow UI shows its development over steps."""
        with registry_errors(f"logging image {key}"):
            self.client.log_image(run_id, image, key=key, step=step)

    def watch_system(self, run_id: str, *, resumed: bool) -> Any:
        """Start a thread that records CPU, memory, disk and GPU use; `finish()` on the result ends it."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(
            run_id,
            sampling_interval=_SYSTEM_METRICS_EVERY_S,
            samples_before_logging=3,
            resume_logging=resumed,
            tracking_uri=self.tracking_uri,
        )
        monitor.start()
        return monitor

    def copy_system_metrics(self, run_id: str, *, of: str) -> int:
        """Copy what was recorded of the machine during the run `of` into another; returns how many values."""
        with registry_errors(f"reading the system metrics of run {of}"):
            names = [name for name in self.client.get_run(of).data.metrics if name.startswith(_SYSTEM_PREFIX)]
            found = [point for name in names for point in self.client.get_metric_history(of, name)]
        self.log_metrics(run_id, [MetricPoint(point.key, point.value, point.step, point.timestamp) for point in found])
        return len(found)

    def find_run(self, run_id: str) -> bool:
        """Whether this experiment has the run."""
        with registry_errors(f"looking for run {run_id}"):
            return bool(self.client.search_runs([self.experiment_id], f"attributes.run_id = '{run_id}'"))

    def tag_run(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with registry_errors(f"tagging run {run_id}"):
            for name, value in tags.items():
                self.client.set_tag(run_id, name, redact(value, also=self._secrets))

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts; a text that holds a secret is copied without it."""
        with registry_errors(f"logging {path}"):
            if path.suffix in _TEXTS:
                text = path.read_text(encoding="utf-8", errors="surrogateescape")
                clean = redact(text, also=self._secrets)
                if clean != text:
                    with tempfile.TemporaryDirectory() as scratch:
                        copy = Path(scratch) / path.name
                        copy.write_text(clean, encoding="utf-8", errors="surrogateescape")
                        self.client.log_artifact(run_id, str(copy), folder)
                    self.redacted.append(f"{folder}/{path.name}" if folder else path.name)
                    return
            self.client.log_artifact(run_id, str(path), folder)

    def log_picture(self, run_id: str, image: Any, name: str) -> None:
        """Write one image (uint8 RGB array or PIL image) as the artifact `name`."""
        with registry_errors(f"logging {name}"):
            self.client.log_image(run_id, image, artifact_file=name)

    def log_json(self, run_id: str, value: Any, name: str) -> None:
        """Write a JSON artifact."""
        self.log_text(run_id, json.dumps(value, indent=2) + "\n", name)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Write a text artifact."""
        with registry_errors(f"logging {name}"):
            self.client.log_text(run_id, redact(text, also=self._secrets), name)

    def has_artifact(self, run_id: str, name: str) -> bool:
        """Whether the run has an artifact of this name at its top."""
        with registry_errors(f"listing the artifacts of run {run_id}"):
            return any(item.path == name for item in self.client.list_artifacts(run_id))

    def fetch(self, run_id: str, name: str) -> Path:
        """Path of an artifact; a local store hands out its own file, a remote one a copy."""
        with registry_errors(f"reading {name} of run {run_id}"):
            folder = self.client.get_run(run_id).info.artifact_uri
            return download(f"{folder}/{name}", tracking_uri=self.tracking_uri)


def download(uri: str, *, tracking_uri: str) -> Path:
    """Path of the artifact at `uri`; a local store hands out its own file or folder, a remote one a copy."""
    return Path(load_mlflow().artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri))
