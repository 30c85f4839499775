"""Owns `l2p evaluate`: GenEval or DPG-Bench of any model or of ready images, without the pipeline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from l2p.commands.generate import parse_size
from l2p.commands.locate import locate_model
from l2p.config import BenchmarkParams, DpgParams, EvaluationParams, Params, load_params, validate_section
from l2p.errors import ConfigError

if TYPE_CHECKING:
    from l2p.evaluation.runs import Outcome, Run
    from l2p.evaluation.subject import Subject

OUT, PAGE = Path("evaluations"), "index.html"
# Without a params.yaml, a benchmark is the official one.
_OFFICIAL: dict[str, dict[str, Any]] = {
    "geneval": {"data": "benchmarks/geneval/evaluation_metadata.jsonl", "judge": "mask2former"},
    "dpg": {"data": "benchmarks/dpg/dpg_bench.csv", "judge": "vqa", "protocol": "fixed"},
}
_COMMON: dict[str, Any] = {"images_per_prompt": 4, "seed": 0, "max_failed_share": 0.02}
_MACHINE: dict[str, Any] = {"judge_batch_size": 16, "engine": "local", "num_workers": 1}

Benchmark = Literal["geneval", "dpg"]


def add_to(app: typer.Typer) -> None:
    """Add `evaluate` to `app`."""
    app.command("evaluate", rich_help_panel="Models")(evaluate)


def evaluate(
    context: typer.Context,
    benchmark: Annotated[Benchmark, typer.Argument(help="Which benchmark.")],
    model: Annotated[
        str | None,
        typer.Option(help="Folder of a pixel model or a diffusers pipeline, NAME@ALIAS, or REPOSITORY@REVISION."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of ready images in the official layout.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results. [default: evaluations/MODEL/BENCHMARK]")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="`shapes`, or the official file. [default: params.yaml's, else the official]")
    ] = None,
    judge: Annotated[
        str | None, typer.Option(help="Name of the judge. [default: params.yaml's, else a real one]")
    ] = None,
    judge_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Setting of the judge; may be repeated.")
    ] = None,
    protocol: Annotated[
        Literal["official", "fixed"] | None, typer.Option(help="DPG-Bench: with or without the published faults.")
    ] = None,
    subset: Annotated[float | None, typer.Option(help="Share of the prompts, a stratified sample.")] = None,
    images_per_prompt: Annotated[int | None, typer.Option(help="Images of each prompt. [default: 4]")] = None,
    seed: Annotated[int | None, typer.Option(help="First seed. [default: 0]")] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Pixels of an image. [default: params.yaml's, the model's]"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. [default: the model's]")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance scale. [default: the model's]")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Precision of the model.")] = "float32",
    batch_size: Annotated[int, typer.Option(min=1, help="Images drawn at once.")] = 8,
    judge_batch_size: Annotated[int | None, typer.Option(help="Images or questions judged at once.")] = None,
    engine: Annotated[Literal["local", "ray"] | None, typer.Option(help="Where it is computed.")] = None,
    workers: Annotated[int | None, typer.Option(help="For `ray`: how many workers.")] = None,
    max_failed_share: Annotated[float | None, typer.Option(help="Fail when more images than this fail.")] = None,
) -> None:
    """Score any model, or ready images, on GenEval or DPG-Bench. Resumes; what is there is not drawn again."""
    if (model is None) == (images is None):
        raise ConfigError("l2p evaluate: give either --model or --images.")
    if protocol is not None and benchmark != "dpg":
        raise ConfigError("--protocol: GenEval has only one. Leave it out.")
    project = load_params(context.obj) if context.obj.is_file() else None
    asked = {
        "data": data,
        "judge": judge,
        "judge_options": None if judge_option is None and judge is None else _options(judge_option or []),
        "protocol": protocol,
        "subset": subset,
        "images_per_prompt": images_per_prompt,
        "seed": seed,
        "max_failed_share": max_failed_share,
    }
    settings = _settings(benchmark, project, asked)
    machine = _machine(project, {"judge_batch_size": judge_batch_size, "engine": engine, "num_workers": workers})
    place = _place(out or OUT / _slug(model or str(images)) / benchmark, machine, batch_size)
    if images is not None:
        size_px = None if size is None else parse_size(size)
        outcome = _score_images(
            images, settings, place, images_per_prompt=images_per_prompt, data=data, size_px=size_px
        )
    else:
        from l2p.evaluation.any_model import Choices

        choices = Choices(steps, guidance, _size_px(size, project), dtype)
        outcome = _score_model(_open(str(model), context.obj, choices), settings, place)
    _tell(outcome, place)


def _settings(benchmark: str, project: Params | None, asked: dict[str, Any]) -> BenchmarkParams:
    """The project's settings or the official ones, with what the user asks for; a project's judge keeps its options."""
    own = _COMMON | _OFFICIAL[benchmark] if project is None else getattr(project, benchmark).model_dump()
    chosen = own | {name: value for name, value in asked.items() if value is not None}
    section = DpgParams if benchmark == "dpg" else BenchmarkParams
    return validate_section(section, chosen, "l2p evaluate")


def _machine(project: Params | None, asked: dict[str, Any]) -> EvaluationParams:
    own = _MACHINE if project is None else project.evaluation.model_dump()
    chosen = own | {name: value for name, value in asked.items() if value is not None}
    return validate_section(EvaluationParams, chosen, "l2p evaluate")


def _options(pairs: list[str]) -> dict[str, Any]:
    import yaml

    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--judge-option {pair}: expected KEY=VALUE.")
        options[key] = yaml.safe_load(value)
    return options


def _slug(name: str) -> str:
    """A folder name that tells the model, wherever it comes from."""
    return re.sub(r"[^A-Za-z0-9._@-]+", "-", name).strip("-.") or "model"


def _size_px(size: str | None, project: Params | None) -> tuple[int, int] | None:
    if size is not None:
        return parse_size(size)
    return None if project is None else (project.synthesize.height_px, project.synthesize.width_px)


def _place(folder: Path, machine: EvaluationParams, batch_size: int) -> Run:
    from l2p.evaluation.runs import Run

    return Run(folder, folder / "judgements.jsonl", machine, batch_size)


def _open(model: str, params_file: Path, choices: Any) -> Subject:
    """A model of the registry is NAME@ALIAS; a repository has a slash in its name."""
    from dataclasses import replace

    from l2p.evaluation.any_model import open_model

    if "@" in model and "/" not in model and not Path(model).exists():
        return replace(open_model(str(locate_model(model, params_file)), choices), name=model)
    return open_model(model, choices)


def _score_model(subject: Subject, settings: BenchmarkParams, place: Run) -> Outcome:
    from l2p.evaluation import runs
    from l2p.evaluation.benchmark_data import load_dpg, load_geneval

    if isinstance(settings, DpgParams):
        return runs.run_dpg(subject, load_dpg(settings.data, place.folder / "benchmark"), settings, place)
    return runs.run_geneval(subject, load_geneval(settings.data, place.folder / "benchmark"), settings, place)


def _score_images(
    folder: Path,
    settings: BenchmarkParams,
    place: Run,
    *,
    images_per_prompt: int | None,
    data: str | None,
    size_px: tuple[int, int] | None,
) -> Outcome:
    """GenEval's folders name their prompts themselves, so no file is needed unless the user gives one."""
    from l2p.evaluation import image_folders, runs
    from l2p.evaluation.benchmark_data import load_dpg, load_geneval
    from l2p.evaluation.subset import dpg_subset, geneval_subset

    if isinstance(settings, DpgParams):
        items = dpg_subset(load_dpg(settings.data, place.folder / "benchmark"), settings.subset)
        tiles = image_folders.dpg_images(folder, items, images_per_prompt, size_px)
        settings = settings.model_copy(update={"images_per_prompt": len(tiles) // len(items.items)})
        return runs.score_dpg_images(tiles, items, settings, place, name=str(folder))
    whole = (
        image_folders.read_geneval_prompts(folder) if data is None else load_geneval(data, place.folder / "benchmark")
    )
    prompts = geneval_subset(whole, settings.subset)
    images = image_folders.geneval_images(folder, prompts, images_per_prompt)
    settings = settings.model_copy(update={"images_per_prompt": len(images) // len(prompts.prompts)})
    return runs.score_geneval_images(images, prompts, settings, place, name=str(folder))


def _tell(outcome: Outcome, place: Run) -> None:
    from l2p.evaluation.run_page import write_run_page

    card = outcome.scores["card"]
    names = {"geneval": "GenEval", "dpg": "DPG-Bench"}
    typer.echo(f"{names[card['benchmark']]} of {card['model']['name']}: {outcome.told}")
    for failure in card["failures"]:
        typer.echo(f"  failed: {failure['image']}: {failure['reason']}")
    write_run_page(place.folder, place.folder / PAGE)
    typer.echo(f"wrote {place.folder}, to look at: {place.folder / PAGE}")
