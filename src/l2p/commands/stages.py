"""Owns one command per pipeline stage: read params.yaml, import the stage, run it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from l2p.commands.dvc_parent import die_with_dvc
from l2p.config import Params, load_params
from l2p.registry.usage import record_use

# In the order of the pipeline; the keys are the names of stages in dvc.yaml and of modules in l2p.stages.
STAGES = {
    "source": "Pin the source model by the digest of its files.",
    "prompts": "Draw the prompts of the corpus.",
    "embed": "Compute the prompt embeddings once.",
    "synthesize": "Let the source draw the corpus.",
    "validate": "Accept or quarantine each image of the corpus.",
    "convert": "Graft the source onto pixels (untrained).",
    "train": "Transfer the source to pixels.",
    "geneval": "Score a model on GenEval.",
    "dpg": "Score a model on DPG-Bench.",
    "fidelity": "Compare the images of both models.",
    "efficiency": "Time both models and measure their memory.",
    "report": "Write reports/index.html.",
    "register": "Register the pixel model with its lineage.",
}
PER_MODEL = ("geneval", "dpg")
PANEL = "Stages (`dvc repro` runs those that have work)"

Model = Annotated[Literal["source", "pixel"], typer.Option(help="The latent source or the pixel model.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands of all stages to `app`."""
    for name, summary in STAGES.items():
        command = _prompts if name == "prompts" else _per_model_command(name) if name in PER_MODEL else _command(name)
        app.command(name, help=summary, rich_help_panel=PANEL)(command)


def run_stage(name: str, params_file: Path, **options: str | bool) -> None:
    """Run one stage with the parameters in `params_file`."""
    die_with_dvc()
    params = load_params(params_file)
    _stay_offline_if_local(params)
    with record_use(name, params, **options):
        importlib.import_module(f"l2p.stages.{name}").run(params, **options)


def _command(name: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        run_stage(name, context.obj)

    return command


def _prompts(
    context: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what a language model would be asked, and its tokens.")
    ] = False,
) -> None:
    run_stage("prompts", context.obj, dry_run=dry_run)


def _per_model_command(name: str) -> Callable[[typer.Context, Literal["source", "pixel"]], None]:
    def command(context: typer.Context, model: Model) -> None:
        run_stage(name, context.obj, model=model)

    return command


def _stay_offline_if_local(params: Params) -> None:
    """A local source needs nothing from the Hugging Face hub, so no library should wait for it."""
    if Path(params.source.path).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
