"""Owns `l2p export` and `l2p import`: a pixel model in the layouts of others, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from l2p.commands.locate import locate_model
from l2p.config import Layout, load_params
from l2p.errors import ConfigError

if TYPE_CHECKING:
    from l2p.models.formats.entries import Entry
    from l2p.models.source import SourcePin

PANEL = "Models"


def add_to(app: typer.Typer) -> None:
    """Add `export` and `import` to `app`."""
    app.command("export", rich_help_panel=PANEL)(export)
    app.command("import", rich_help_panel=PANEL)(import_)


def export(
    context: typer.Context,
    layout: Annotated[
        Literal["official", "comfyui", "diffusers"],
        typer.Option("--format", help="One file as published, one as ComfyUI spells it, or a pipeline folder."),
    ],
    model: Annotated[str, typer.Argument(help="Folder of a pixel model, or NAME@ALIAS of the registry.")] = str(
        Layout.pixel
    ),
    out: Annotated[Path | None, typer.Option(help="The .safetensors file to write, or the folder.")] = None,
    dtype: Annotated[
        Literal["keep", "float32", "bfloat16", "float16"], typer.Option(help="Of all tensors; keep: as stored.")
    ] = "keep",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be written.")] = False,
) -> None:
    """Write a pixel model in the layout of another program."""
    if out is None and not dry_run:
        raise ConfigError("--out: missing. Give the file or folder to write, or --dry-run to see what it would hold.")
    if out is not None and layout != "diffusers" and out.suffix != ".safetensors":
        raise ConfigError(f"--out {out}: expected a file name that ends in .safetensors for --format {layout}.")
    folder = locate_model(model, context.obj)
    from l2p.models.delta import open_delta
    from l2p.models.formats.exporting import export_file, plan_file
    from l2p.models.formats.pipeline_folder import export_pipeline, plan_transformer

    stored = open_delta(folder)
    wanted = _torch_dtype(dtype)
    if layout == "diffusers":
        entries = plan_transformer(stored, wanted)
    else:
        entries = plan_file(stored.model, stored.tensors, comfyui=layout == "comfyui", dtype=wanted)
    _print_report(entries)
    if dry_run:
        return
    assert out is not None
    if layout == "diffusers":
        export_pipeline(stored, out, wanted)
    else:
        export_file(stored, out, entries)
    typer.echo(out)


def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A .safetensors file in the official layout or ComfyUI's.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")] = Path("models/imported"),
    source: Annotated[
        str | None, typer.Option(help="Folder or repository of the source. [default: the project's pinned source]")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit of the repository.")] = None,
) -> None:
    """Read a pixel model in another layout as one of ours."""
    from l2p.models.formats.importing import import_file

    found = import_file(file, out, pin=_pin(source, revision, context.obj))
    _print_report(found.entries)
    typer.echo(
        f"{file}: {found.spelling}, patch {found.patch_size}. Of our {found.new + found.changed + found.equal} tensors "
        f"{found.new} are new, {found.changed} changed, and {found.equal} equal the source's, so they are not stored."
    )
    typer.echo(out)


def _pin(source: str | None, revision: str | None, params_file: Path) -> SourcePin:
    """The source that was asked for, else the project's: as pinned, or as params.yaml names it."""
    from l2p.models.source import SourcePin, pin_source

    if source is not None:
        return pin_source(source, revision)
    if revision is not None:
        raise ConfigError("--revision: give --source with it.")
    if Layout.source.is_file():
        return SourcePin.load(Layout.source)
    if not params_file.is_file():
        raise ConfigError(
            f"--source: missing, and there is no {Layout.source} or {params_file} to take it from. Give the folder or "
            "repository of the source that the file was made from."
        )
    params = load_params(params_file)
    return pin_source(params.source.path, params.source.revision)


def _torch_dtype(name: str) -> Any:
    import torch

    return None if name == "keep" else getattr(torch, name)


def _print_report(entries: list[Entry]) -> None:
    from rich.console import Console

    from l2p.models.formats.report import report

    Console().print(report(entries))
