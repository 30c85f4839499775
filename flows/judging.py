"""Owns judging a registered version again: `python -m flows.judging NAME/VERSION --root PROJECT`.

Source and version are drawn and judged as they were before registration, by the parameters in the version's run, on the
machine of now. An evaluation that was interrupted goes on; one that was finished is begun anew.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from l2p.config import PARAMS_FILE, Params, load_params
from l2p.errors import L2PError
from l2p.files import read_json, write_json
from l2p.quiet import quiet_third_parties

FOLDER = Path("evaluations/registered")
RESULT = "drift.json"

_USER_MISTAKE = 2


def main(
    reference: Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="A registered version; or NAME/VERSION.")],
    root: Annotated[Path, typer.Option(help="Folder of the project.")] = Path(),
) -> None:
    """Judge a registered version again and record the drift of its scores."""
    os.chdir(root)
    try:
        judge(load_params(), reference)
    except L2PError as error:
        typer.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(_USER_MISTAKE)


def judge(params: Params, reference: str) -> Path:
    """Judge a version of the registry that `params` names and record the drift; returns the file with the result.

    Raises:
        RegistryError: no such version, or it was registered without scores or parameters.
        SourceError, EvaluationError: its source or a judge is not what it was.
    """
    from l2p.registry.drift import find_drift, record_drift
    from l2p.registry.registration import version_scores
    from l2p.registry.store import Store
    from l2p.registry.versions import SCORES_TAG, ModelRegistry

    settings = params.register_
    registry = ModelRegistry(settings.tracking_uri)
    version = registry.resolve(reference)
    if SCORES_TAG not in version.tags:
        raise L2PError(f"{version}: has no scores to compare with. Register it with `l2p register`.")
    store = Store(settings.tracking_uri, settings.experiment)
    recorded = load_params(store.fetch(version.run_id, f"project/{PARAMS_FILE.name}"))
    folder = begin(FOLDER / version.name / str(version.version))
    delta = registry.download_delta_of(version.source)
    drifts = find_drift(version_scores(version), measure(delta, recorded, params, folder))
    run_id = record_drift(store, registry, version, drifts)
    for drift in drifts:
        print(drift.told)
    result = {
        "version": str(version),
        "run_id": run_id,
        "benchmarks": [
            {
                "name": d.benchmark,
                "recorded": d.recorded,
                "measured": d.measured,
                "verdict": d.verdict.value,
                "told": d.told,
            }
            for d in drifts
        ],
    }
    write_json(folder / RESULT, result)
    return folder / RESULT


def begin(folder: Path) -> Path:
    """The folder of an evaluation: what a finished one left is deleted, what an interrupted one left is kept."""
    if (folder / RESULT).is_file():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def measure(delta: Path, recorded: Params, now: Params, folder: Path) -> dict[str, dict[str, Any]]:
    """Scores and retention of both benchmarks, {benchmark: {source, pixel, retention, interval}}.

    Args:
        delta: of the version.
        recorded: parameters at registration: prompts, seeds, judge, sizes, samplers.
        now: parameters of the project: workers and batch sizes.
        folder: gets images and judgements.
    """
    from l2p.evaluation import retention
    from l2p.evaluation.benchmark_data import load_dpg, load_geneval
    from l2p.evaluation.runs import Run, run_dpg, run_geneval

    scores: dict[str, dict[str, Any]] = {"geneval": {}, "dpg": {}}
    for subject in _subjects(delta, recorded):
        for name in scores:
            place = folder / name / subject.name
            scratch = folder / "scratch" / name / subject.name
            run = Run(place, scratch / "judgements.jsonl", now.evaluation, recorded.sampling.batch_size)
            if name == "geneval":
                done = run_geneval(subject, load_geneval(recorded.geneval.data, scratch), recorded.geneval, run)
            else:
                done = run_dpg(subject, load_dpg(recorded.dpg.data, scratch), recorded.dpg, run)
            print(f"{name} {subject.name}: {done.told}", flush=True)
            scores[name][subject.name] = done.scores["overall"]
    for name, find in (("geneval", retention.geneval_retention), ("dpg", retention.dpg_retention)):
        kept = find(folder / name)
        scores[name] |= {"retention": kept.value, "interval": kept.interval}
    return scores


def _subjects(delta: Path, recorded: Params) -> list[Any]:
    """The version's source and the version itself, as the pipeline drew them."""
    from l2p.evaluation.subject import Subject, default_device, delta_digest, load_pixel, load_source
    from l2p.models.delta import read_delta_card
    from l2p.models.source import SourcePin

    pin = SourcePin(**read_delta_card(delta)["source"])
    sampling, device = recorded.sampling, default_device()
    size_px = (recorded.synthesize.height_px, recorded.synthesize.width_px)
    source = functools.partial(load_source, pin, sampling.source.shift, sampling.precision, device)
    pixel = functools.partial(load_pixel, delta, sampling.pixel.shift, sampling.precision, device)
    return [
        Subject("source", pin.digest, sampling.source, size_px, device, sampling.precision, source),
        Subject("pixel", delta_digest(delta), sampling.pixel, size_px, device, sampling.precision, pixel),
    ]


def read_result(root: Path, version: str) -> dict[str, Any]:
    """What the last finished evaluation of NAME/VERSION found."""
    result: dict[str, Any] = read_json(root / FOLDER / version / RESULT, written_by="python -m flows.judging")
    return result


if __name__ == "__main__":
    quiet_third_parties()
    typer.run(main)
