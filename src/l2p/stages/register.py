"""Stage `register`: the pixel model becomes a version in the registry, or is found there and verified.

It runs with every `dvc repro`, so it must be quick; it also completes reports/summary.json with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from l2p.config import Layout, Params
from l2p.errors import LineageError
from l2p.evaluation.subject import open_subject
from l2p.files import read_json, write_json
from l2p.models.delta import read_delta_card
from l2p.models.source import SourcePin
from l2p.registry.context import describe_context
from l2p.registry.lineage import MODELS, SCORES, Lineage, compute_lineage
from l2p.registry.links import Link, attempt, check_links
from l2p.registry.registration import Registration, register
from l2p.registry.served import Drawing
from l2p.registry.store import Store
from l2p.registry.versions import ModelRegistry

SAMPLE_SEED = 0


def run(params: Params) -> None:
    """Register `models/pixel` and write reports/registration.json and reports/summary.json."""
    comparison = read_json(Layout.comparison, written_by="l2p report")
    lineage = current_lineage(params)
    done = register(params, summary=comparison, lineage=lineage, drawing=example_drawing(params))
    gate = {"passed": done.decision.passed, "reasons": list(done.decision.reasons)}
    record = done.model() | {"run_id": done.version.run_id, "gate": gate, "lineage": lineage.to_json()}
    write_json(Layout.registration, record)
    write_json(Layout.summary, comparison | {"model": done.model(), "verified": True})
    print(_told(done))


def verify(params: Params, reference: str) -> Iterator[Link]:
    """Check a registered version, `NAME@ALIAS` or `NAME/VERSION`, link by link against the project's files.

    Raises:
        RegistryError: no such version.
    """
    settings = params.register_
    registry = ModelRegistry(settings.tracking_uri)
    version = registry.resolve(reference)
    yield from check_links(
        Store(settings.tracking_uri, settings.experiment),
        registry,
        version,
        params,
        lambda: SourcePin.load(Layout.source).folder,
    )
    if Layout.source.is_file() and Layout.geneval.is_dir():
        yield attempt("scored models", lambda: _scored(params))


def _scored(params: Params) -> str:
    check_scores(params)
    return "scores were measured on the models that are here"


def current_lineage(params: Params) -> Lineage:
    """Lineage of `models/pixel` from the files as they are now.

    Raises:
        LineageError: an input is missing, damaged, or belongs to another model.
    """
    pin = SourcePin.load(Layout.source)
    lineage = compute_lineage(params, source_folder=pin.folder, context=describe_context())
    check_scores(params)
    return lineage


def check_scores(params: Params) -> None:
    """Every score must have been measured on the models that are there now.

    Raises:
        LineageError: names the first score of another model.
    """
    for folder in (Layout.geneval, Layout.dpg):
        for model in MODELS:
            path = folder / model / SCORES
            card: dict[str, Any] = read_json(path, written_by=f"l2p {folder.name} --model {model}")["card"]
            measured, present = card["model"]["digest"], open_subject(model, params).digest
            if measured != present:
                raise LineageError(
                    f"{path}: measured on {model} {measured[:12]}, but what is there now is {present[:12]}. "
                    f"Run `dvc repro {folder.name}@{model}`."
                )


def example_drawing(params: Params) -> Drawing:
    """What is drawn to check the model: the project's first prompt, with the sampler that the model was made for."""
    import pandas as pd

    sampler = read_delta_card(Layout.pixel)["sampler"]
    return Drawing(
        prompt=str(pd.read_parquet(Layout.prompts_table, columns=["text"])["text"].iloc[0]),
        seed=SAMPLE_SEED,
        height_px=params.synthesize.height_px,
        width_px=params.synthesize.width_px,
        num_steps=sampler["num_steps"],
        guidance_scale=float(sampler["guidance_scale"]),
    )


def _told(done: Registration) -> str:
    aliases = ", ".join(f"@{alias}" for alias in done.version.aliases) or "no alias"
    lines = [
        f"{'registered' if done.is_new else 'found'} {done.version.name} version {done.version.version} ({aliases}): "
        "lineage, weights and a drawing from the registry verified",
        f"champion gate {'open' if done.decision.passed else 'shut'}:",
        *(f"  {reason}" for reason in done.decision.reasons),
    ]
    return "\n".join(lines)
