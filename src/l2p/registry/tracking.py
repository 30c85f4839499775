"""Owns the live record of a training: one MLflow run that survives interruptions, for rank 0.

Metrics are buffered and sent every few seconds. A store that is away for a while does not stop a training that is worth
hours: unsent metrics are kept, told of once, and sent later; `finish` insists on all of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from l2p.errors import RegistryError
from l2p.files import read_json, write_json
from l2p.redact import redact, redact_values
from l2p.registry.entries import MetricPoint, flatten, param_text
from l2p.registry.store import Store, absolute_uri

FLUSH_EVERY_S = 2.0

_log = logging.getLogger(__name__)


class TrainingRun:
    """A run to which a training logs while it goes on.

    Use it as a context manager, or call `finish` or `fail` at the end.
    """

    def __init__(self, store: Store, run_id: str, *, resumed: bool) -> None:
        """Use `TrainingRun.open`."""
        self._store, self.run_id, self.resumed = store, run_id, resumed
        self._unsent: list[MetricPoint] = []
        self._sent_at = time.monotonic()
        self._told = False
        self._monitor: Any = None

    @classmethod
    def open(cls, *, tracking_uri: str, experiment: str, run_file: Path, name: str) -> TrainingRun:
        """Resume the run named in `run_file`, or start one and write its id there.

        Args:
            tracking_uri: of the MLflow store.
            experiment: MLflow experiment.
            run_file: JSON beside the checkpoints, so that the run lives exactly as long as they do.
            name: of a new run.

        Raises:
            RegistryError: the store cannot be reached.
        """
        store = Store(tracking_uri, experiment)
        run_id = _known_run(store, run_file)
        if run_id is not None:
            store.client.update_run(run_id, status="RUNNING")
            return cls(store, run_id, resumed=True)
        run_id = store.create_run(name, {"l2p.kind": "training"})
        write_json(run_file, {"run_id": run_id, "tracking_uri": redact(tracking_uri)})
        return cls(store, run_id, resumed=False)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters (nested mappings allowed); those that changed since the run began become tags."""
        known = self._store.client.get_run(self.run_id).data.params
        flat = redact_values(flatten(params))
        self._store.log_params(self.run_id, {name: value for name, value in flat.items() if name not in known})
        for name, value in flat.items():
            if name in known and known[name] != param_text(value):
                self._store.client.set_tag(self.run_id, f"changed.{name}", f"{known[name]} -> {value}")

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record the metrics of one step; they are sent within a few seconds."""
        self._unsent += [MetricPoint.now(name, value, step) for name, value in metrics.items()]
        if time.monotonic() - self._sent_at >= FLUSH_EVERY_S:
            self._try_to_send()

    def log_image(self, image: Any, *, key: str, step: int) -> None:
        """Log a sample grid (uint8 RGB array or PIL image)."""
        try:
            self._store.log_image(self.run_id, image, key=key, step=step)
        except RegistryError as error:
            self._tell(error)

    def watch_system(self) -> None:
        """Record CPU, memory, disk and GPU use of this machine until the run ends (a thread, one look each 10 s)."""
        self._monitor = self._store.watch_system(self.run_id, resumed=self.resumed)

    def finish(self) -> None:
        """Send what is unsent and end the run.

        Raises:
            RegistryError: the store does not take the remaining metrics.
        """
        self._end("FINISHED")

    def fail(self, status: str = "FAILED") -> None:
        """End the run as FAILED or KILLED; a resumed training takes it up again."""
        try:
            self._end(status)
        except RegistryError as error:
            self._tell(error)

    def __enter__(self) -> Self:
        """The run itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish, or fail when the block raised."""
        if kind is None:
            self.finish()
        else:
            self.fail("KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED")

    def _end(self, status: str) -> None:
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        self._send()
        self._store.end_run(self.run_id, status)

    def _try_to_send(self) -> None:
        try:
            self._send()
        except RegistryError as error:
            self._tell(error)
        self._sent_at = time.monotonic()

    def _send(self) -> None:
        self._store.log_metrics(self.run_id, self._unsent)
        self._unsent = []

    def _tell(self, error: RegistryError) -> None:
        if not self._told:
            _log.warning("%s Training goes on; metrics are kept and sent later.", error)
            self._told = True


def _known_run(store: Store, run_file: Path) -> str | None:
    """Id in `run_file`, if that run is in this store."""
    if not run_file.is_file():
        return None
    known = read_json(run_file, written_by="l2p train")
    if redact(absolute_uri(known["tracking_uri"])) != redact(store.tracking_uri):
        return None
    found = store.client.search_runs([store.experiment_id], filter_string=f"attributes.run_id = '{known['run_id']}'")
    return str(found[0].info.run_id) if found else None
