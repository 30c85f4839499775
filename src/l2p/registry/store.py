"""Owns the MLflow store: its address, runs, what is logged to them, and reading it back.

This module is the only importer of mlflow: on first use, without telemetry; importing this module does nothing. Locally
the store is SQLite (`sqlite:///mlflow.db`) with artifacts under `./mlruns`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from l2p.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = Path("mlruns")

_LOCAL_SCHEME = "sqlite:///"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # a server that is away costs seconds, not the default's minutes
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # local files are there before a bar is drawn
}
_QUIET_LOGGERS = ("mlflow", "alembic")
_MAX_METRICS_PER_CALL = 1000  # of MLflow's own API
_MAX_PARAMS_PER_CALL = 100
_MAX_DATASET_DIGEST_CHARS = 36
_MAX_PARAM_CHARS = 6000
_SYSTEM_METRICS_EVERY_S = 10


def load_mlflow() -> Any:
    """Import mlflow without telemetry and without its notes on database migrations."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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
        reason = " ".join(str(error).split())[:400]
        raise RegistryError(
            f"MLflow: {doing} failed ({reason}). Check `register.tracking_uri` with `l2p doctor`."
        ) from error


@dataclass(frozen=True)
class Dataset:
    """An input of a run, named by its content."""

    name: str
    sha256: str
    path: str
    context: str


class Store:
    """One MLflow experiment, with the calls that this package makes of it."""

    def __init__(self, tracking_uri: str, experiment: str) -> None:
        """Open the store at `tracking_uri`; a missing database or experiment is created.

        Raises:
            RegistryError: the store cannot be reached.
        """
        self.tracking_uri = absolute_uri(tracking_uri)
        self.experiment = experiment
        with registry_errors(f"opening {tracking_uri}"):
            self.client: MlflowClient = open_client(self.tracking_uri)
            self.experiment_id = self._experiment_id()

    def _experiment_id(self) -> str:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None:
            # A server decides itself where artifacts lie.
            local = self.tracking_uri.startswith(_LOCAL_SCHEME)
            return self.client.create_experiment(
                self.experiment, artifact_location=str(ARTIFACTS.resolve()) if local else None
            )
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

        entities = [Param(name, param_text(value)) for name, value in flatten(params).items()]
        with registry_errors("logging parameters"):
            for chunk in _chunks(entities, _MAX_PARAMS_PER_CALL):
                self.client.log_batch(run_id, params=chunk)

    def log_metrics(self, run_id: str, points: Iterable[MetricPoint]) -> None:
        """Log many metric values in few calls."""
        from mlflow.entities import Metric

        entities = [Metric(point.name, point.value, point.time_ms, point.step) for point in points]
        with registry_errors("logging metrics"):
            for chunk in _chunks(entities, _MAX_METRICS_PER_CALL):
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
                    source=json.dumps({"uri": dataset.path}),
                ),
                tags=[InputTag("mlflow.data.context", dataset.context)],
            )
            for dataset in datasets
        ]
        with registry_errors("logging datasets"):
            self.client.log_inputs(run_id, datasets=inputs)

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

    def log_file(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artifacts."""
        with registry_errors(f"logging {path}"):
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
            self.client.log_text(run_id, text, name)

    def fetch(self, run_id: str, name: str) -> Path:
        """Path of an artifact; a local store hands out its own file, a remote one a copy."""
        with registry_errors(f"reading {name} of run {run_id}"):
            folder = self.client.get_run(run_id).info.artifact_uri
            return download(f"{folder}/{name}", tracking_uri=self.tracking_uri)


@dataclass(frozen=True)
class MetricPoint:
    """One value of one metric; `time_ms` is milliseconds since 1970."""

    name: str
    value: float
    step: int
    time_ms: int

    @classmethod
    def now(cls, name: str, value: float, step: int) -> MetricPoint:
        """A value measured just now."""
        return cls(name, float(value), step, time.time_ns() // 1_000_000)


def download(uri: str, *, tracking_uri: str) -> Path:
    """Path of the artifact at `uri`; a local store hands out its own file or folder, a remote one a copy."""
    return Path(load_mlflow().artifacts.download_artifacts(artifact_uri=uri, tracking_uri=tracking_uri))


def param_text(value: Any) -> str:
    """A parameter's value as MLflow keeps it."""
    return str(value)[:_MAX_PARAM_CHARS]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted names: {"a": {"b": 1}} becomes {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
