"""Owns what a registration run records beside the model: parameters, curves, figures, samples, reports and digests."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from l2p.config import Layout, Params
from l2p.errors import DataError
from l2p.files import read_json
from l2p.registry.context import installed_packages
from l2p.registry.entries import Dataset, MetricPoint
from l2p.registry.gate import scores_of
from l2p.registry.lineage import MODELS, SCORES, Lineage
from l2p.registry.store import Store
from l2p.registry.usage import device_hours

LINEAGE_FILE = "lineage.json"
PIPELINE_COPY = "pipeline.yaml"  # a dvc.yaml under mlruns would be a pipeline of its own to DVC
LOCK_COPY = "pipeline.lock"
ENVIRONMENT_FILE = "environment.lock"
CARD_FILE = "model-card.md"
HOURS_FILE = "device-hours.json"
TRAINING_RUN_TAG = "l2p.training_run"

_PIPELINE, _LOCK = Path("dvc.yaml"), Path("dvc.lock")
_STEP = "step"


def log_evidence(store: Store, run_id: str, *, params: Params, summary: Mapping[str, Any], lineage: Lineage) -> None:
    """Log everything a reader of the run needs to judge the model.

    Args:
        store: where to.
        run_id: of the run.
        params: of the project.
        summary: scores and efficiency, as the report wrote them.
        lineage: of the model.
    """
    store.log_params(run_id, params.model_dump(mode="json", by_alias=True))
    store.log_metrics(run_id, [*curves(Layout.training / "curves.csv"), *_figures(summary)])
    store.log_datasets(run_id, datasets(lineage))
    store.log_json(run_id, lineage.to_json(), LINEAGE_FILE)
    store.log_text(run_id, "\n".join(installed_packages()) + "\n", f"project/{ENVIRONMENT_FILE}")
    _log_machine(store, run_id, params, lineage)
    if _PIPELINE.is_file():
        store.log_text(run_id, _PIPELINE.read_text(encoding="utf-8"), f"project/{PIPELINE_COPY}")
    if _LOCK.is_file():  # what DVC made before `register`, for `l2p reproduce`; lineage never reads it
        store.log_text(run_id, _LOCK.read_text(encoding="utf-8"), f"project/{LOCK_COPY}")
    for path, folder in _files():
        store.log_file(run_id, path, folder)


def curves(path: Path) -> Iterator[MetricPoint]:
    """Every number of the training curves as a metric at its step.

    Raises:
        DataError: a row has no step, or a value is no number.
    """
    if not path.is_file():
        return
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            try:
                step = int(float(row.pop(_STEP)))
                points = [MetricPoint.now(f"train.{name}", float(value), step) for name, value in row.items() if value]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}: row {row} is no row of curves ({error}). Run `dvc repro -f -s train`."
                ) from error
            yield from (point for point in points if not math.isnan(point.value))


def datasets(lineage: Lineage) -> list[Dataset]:
    """The data of a lineage as inputs of a run, with the digests by which DVC keeps them."""
    inputs, kept = lineage.inputs, lineage.context.get("dvc", {})
    found = [
        ("source", inputs["source"]["digest"], Layout.source, "source"),
        ("prompts", inputs["prompts"], Layout.prompts, "corpus"),
        ("corpus", inputs["corpus"]["digest"], Layout.corpus, "corpus"),
        ("manifest", inputs["manifest"], Layout.manifest, "training"),
        ("embeddings", inputs["embeddings"]["tokens.safetensors"], Layout.embeddings, "training"),
    ]
    return [
        Dataset(name, digest, path.as_posix(), used_for, kept.get(path.as_posix()))
        for name, digest, path, used_for in found
    ]


def _log_machine(store: Store, run_id: str, params: Params, lineage: Lineage) -> None:
    """Commit, hardware, device-hours, and what was recorded of the machine while the model was trained."""
    hours = device_hours(params)
    store.log_json(run_id, hours, f"project/{HOURS_FILE}")
    store.log_metrics(run_id, [MetricPoint.now(f"device_hours.{stage}", value, 0) for stage, value in hours.items()])
    git, hardware = lineage.context.get("git"), lineage.context.get("hardware", {})
    tags = {"l2p.hardware": ", ".join([*hardware.get("gpus", []), f"{hardware.get('cpus')} CPUs"])}
    if git:
        tags |= {"mlflow.source.git.commit": git["commit"], "l2p.git_dirty": str(git["dirty"]).lower()}
    run_file = Layout.checkpoints / "mlflow.json"
    if run_file.is_file():
        training = str(read_json(run_file, written_by="l2p train")["run_id"])
        if store.find_run(training):
            store.copy_system_metrics(run_id, of=training)
            tags[TRAINING_RUN_TAG] = training
    store.tag_run(run_id, tags)


def _figures(summary: Mapping[str, Any]) -> list[MetricPoint]:
    named: dict[str, Any] = {}
    for benchmark, score in scores_of(summary).items():
        named |= {f"{benchmark}.{name}": score[name] for name in ("source", "pixel", "retention")}
        low, high = score["interval"] or (None, None)
        named |= {f"{benchmark}.retention_low": low, f"{benchmark}.retention_high": high}
    return [MetricPoint.now(name, value, 0) for name, value in named.items() if value is not None]


def _files() -> Iterator[tuple[Path, str]]:
    """(file, artifact folder) of everything that is there."""
    candidates = [
        (Path("params.yaml"), "project"),
        (Layout.source, "project"),
        (Layout.training / "curves.csv", "training"),
        (Layout.training / "result.json", "training"),
        *((path, "training/samples") for path in sorted((Layout.training / "samples").glob("*.png"))),
        (Layout.validation / "result.json", "validation"),
        *(
            (folder / model / SCORES, f"{folder.name}/{model}")
            for folder in (Layout.geneval, Layout.dpg)
            for model in MODELS
        ),
        (Layout.fidelity, "reports"),
        (Layout.efficiency, "reports"),
        (Layout.comparison, "reports"),
        (Layout.report, "reports"),
    ]
    yield from ((path, folder) for path, folder in candidates if path.is_file())
