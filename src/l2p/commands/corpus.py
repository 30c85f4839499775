"""Owns `l2p corpus`: take in, hand out, show, compare, pack, check and redraw the images that are trained on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from l2p.config import Layout, load_params
from l2p.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from l2p.data.corpora.importing import PlannedImport

DIFFERENT = 1  # exit code: the command ran, and what it compared is not the same
SHOWN = 20
_SIGNS = {"came": "+", "went": "-", "changed": "~", "moved": ">", "described": "."}
_CAPTION_CHARACTERS = 80

Corpus = Annotated[Path, typer.Option("--corpus", help="Folder of the corpus.")]
Limit = Annotated[int, typer.Option(min=0, help="How many files to name of each kind.")]


def add_to(app: typer.Typer) -> None:
    """Add `corpus` with its commands to `app`."""
    group = typer.Typer(help="Take in, hand out, show, compare, pack and check the corpus.", no_args_is_help=True)
    for command in (import_, export, show, diff, pack, unpack, verify, redraw):
        group.command(command.__name__.rstrip("_"))(command)
    app.add_typer(group, name="corpus", rich_help_panel="Project")


def import_(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Images with a table (CSV, JSON Lines, parquet) or with .txt files.")],
    table: Annotated[Path | None, typer.Option(help="The table, if it has no usual name.")] = None,
    file_column: Annotated[str | None, typer.Option(help="Its column of file names.")] = None,
    text_column: Annotated[str | None, typer.Option(help="Its column of captions.")] = None,
    follow_links: Annotated[bool, typer.Option("--follow-links", help="Read links that leave the folder.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Delete the corpus and prompts there are.")] = False,
) -> None:
    """Take images of others in as the project's prompts and corpus."""
    from l2p.data.corpora.foreign import count_without_row, read_foreign
    from l2p.data.corpora.importing import plan_import, write_import
    from l2p.data.synthesis.rejection import write_no_rejections

    images = read_foreign(
        folder, table=table, file_column=file_column, text_column=text_column, follow_links=follow_links
    )
    plan = plan_import(images)
    write_import(plan, corpus=Layout.corpus, prompts=Layout.prompts_table, replace=replace)
    write_no_rejections(Layout.rejected)
    typer.echo(f"{Layout.corpus}: {len(images)} images of {len(plan.prompts)} prompts from {folder}")
    if left := count_without_row(folder, images):
        typer.echo(f"{left} images of {folder} have no row and were left out.")
    _tell_sizes(plan, context.obj)
    typer.echo(
        "next: `l2p embed`; `dvc commit -f prompts embed synthesize` tells DVC that these are the outputs; then "
        "`dvc repro` goes on."
    )


def _tell_sizes(plan: PlannedImport, params_file: Path) -> None:
    sizes = plan.sizes_px()
    typer.echo("sizes: " + ", ".join(f"{width}x{height} px {n}" for (height, width), n in sizes.most_common(5)))
    if not params_file.is_file():
        return
    wanted = load_params(params_file).synthesize
    if set(sizes) != {(wanted.height_px, wanted.width_px)}:
        typer.echo(
            f"{params_file} says {wanted.width_px}x{wanted.height_px} px: `l2p validate` puts images of other sizes "
            "into quarantine. Set synthesize.width_px and height_px to the size you mean to train."
        )


def export(
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write.")],
    layout: Annotated[
        Literal["official", "imagefolder"],
        typer.Option(help="`official`: images/ and metadata.csv; `imagefolder`: images and metadata.jsonl."),
    ],
    accepted: Annotated[bool, typer.Option("--accepted", help="Only images that `l2p validate` accepted.")] = False,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Write the corpus in the layout of others."""
    from l2p.data.corpora.exporting import export_corpus
    from l2p.data.corpora.names import check_table
    from l2p.data.corpus import read_table

    table = _read(corpus)
    if accepted:
        table = read_table(Layout.manifest, written_by="l2p validate")
        check_table(table, str(Layout.manifest))
    written = export_corpus(table, corpus, out, layout=layout)
    typer.echo(f"{written}: {len(table)} images")


def show(
    out: Annotated[Path, typer.Option(help="PNG to write.")] = Path("sheet.png"),
    rows: Annotated[int, typer.Option(min=1, help="Rows of images.")] = 4,
    columns: Annotated[int, typer.Option(min=1, help="Images in a row.")] = 6,
    where: Annotated[str | None, typer.Option(help="Condition of pandas, e.g. \"style == 'dense'\".")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw the images by lot. [default: spread evenly]")] = None,
    cell: Annotated[int, typer.Option(min=16, help="Side of an image in the sheet, px.")] = 192,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Make a contact sheet: images with their captions."""
    from l2p.data.corpora.sheet import choose_rows, write_sheet

    if out.suffix.lower() != ".png":
        raise ConfigError(f"--out {out}: expected a file name that ends in .png.")
    table = _read(corpus)
    chosen = choose_rows(table, where=where, count=rows * columns, seed=seed)
    title = f"{len(chosen)} of {len(table)} images of {corpus}" + (f", where {where}" if where else "")
    write_sheet(chosen, corpus, out, columns=columns, cell_px=cell, title=title)
    typer.echo(f"{out}: {len(chosen)} of {len(table)} images")


def diff(
    revision: Annotated[str | None, typer.Argument(metavar="[REV]", help="Git revision to compare with.")] = None,
    newer: Annotated[str | None, typer.Argument(metavar="[REV2]", help="[default: the folder as it is]")] = None,
    against: Annotated[Path | None, typer.Option(help="Compare with the corpus in this folder instead.")] = None,
    limit: Limit = SHOWN,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Say which images came, went or changed since a git revision, or against another folder."""
    if (revision is None) == (against is None):
        raise ConfigError("give a git revision, or --against FOLDER.")
    from l2p.data.corpora.difference import compare
    from l2p.data.corpora.revisions import read_revision

    old = _read(against) if against is not None else read_revision(str(revision))
    new = read_revision(newer) if newer is not None else _read(corpus)
    found = compare(old, new)
    typer.echo(", ".join(f"{kind} {count}" for kind, count in found.counts().items()))
    for kind, sign in _SIGNS.items():
        _print_rows(getattr(found, kind), sign, limit)


def _print_rows(rows: pd.DataFrame, sign: str, limit: int) -> None:
    for row in rows.head(limit).to_dict("records"):
        note = f" (was {row['old_name']})" if sign == ">" else f" ({row['fields']})" if sign == "." else ""
        text = str(row["text"])
        shown = text if len(text) <= _CAPTION_CHARACTERS else text[: _CAPTION_CHARACTERS - 1] + "…"
        typer.echo(f"{sign} {row['file_name']}{note}  {' '.join(shown.split())}")
    if len(rows) > limit:
        typer.echo(f"{sign} and {len(rows) - limit} more (--limit)")


def pack(
    out: Annotated[Path, typer.Argument(help="Folder for the shards.")],
    images_per_shard: Annotated[int, typer.Option(min=1, help="Images in a tar file.")] = 1000,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Pack the corpus into tar shards (WebDataset) with an index, for object stores."""
    from l2p.data.corpora.names import OWN_FILES, files_in
    from l2p.data.corpora.packing import pack_corpus

    table = _read(corpus)
    done = pack_corpus(table, corpus, out, images_per_shard=images_per_shard)
    typer.echo(f"{out}: {len(table)} images in {done.written + done.kept} shards, {done.total_bytes / 1e6:.1f} MB")
    typer.echo(f"{done.written} shards written, {done.kept} kept from before")
    if others := len(files_in(corpus) - set(table["file_name"]) - set(OWN_FILES)):
        typer.echo(f"{others} files of {corpus} belong to no row and were left out; `l2p corpus verify` names them.")


def unpack(
    folder: Annotated[Path, typer.Argument(help="Folder of the shards.")],
    out: Annotated[Path, typer.Option(help="Folder for the corpus.")] = Layout.corpus,
) -> None:
    """Restore a corpus from its shards, byte for byte."""
    from l2p.data.corpora.unpacking import unpack_corpus

    written = unpack_corpus(folder, out)
    typer.echo(f"{out}: {written} images written, table and digests as packed")


def verify(
    limit: Limit = SHOWN,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Compute every image's sha256 anew; exit code 1 if files are missing, changed or nobody's."""
    from l2p.data.corpora.verifying import verify_corpus

    found = verify_corpus(_read(corpus), corpus)
    counts = {"missing": found.missing, "changed": found.changed, "extra": found.extra}
    told = ", ".join(f"{kind} {len(names)}" for kind, names in counts.items())
    typer.echo(f"{corpus}: intact {found.intact}, {told}")
    for kind, names in counts.items():
        _print_names(kind, names, limit)
    if not found.success:
        raise typer.Exit(DIFFERENT)


def redraw(
    rows: Annotated[int, typer.Option(min=1, help="How many images.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the choice.")] = 0,
    corpus: Corpus = Layout.corpus,
) -> None:
    """Draw random images again with the pinned source; exit code 1 unless their bytes are the same."""
    from l2p.data.corpora.redrawing import choose_names
    from l2p.data.corpora.redrawing import redraw as draw_again
    from l2p.models.source import SourcePin

    table = _read(corpus)
    names = choose_names(table, rows, seed)
    found = draw_again(table, corpus, names, embeddings=Layout.embeddings, pin=SourcePin.load(Layout.source))
    different = [image for image in found if not image.identical]
    typer.echo(f"{len(found) - len(different)} of {len(found)} images have the same bytes again")
    for image in different:
        why = "".join(f"; {reason}" for reason in image.reasons)
        typer.echo(f"different {image.file_name} (by up to {image.max_difference} of 255){why}")
    if different:
        raise typer.Exit(DIFFERENT)


def _read(corpus: Path) -> pd.DataFrame:
    from l2p.data.corpora.names import read_corpus

    return read_corpus(corpus)


def _print_names(kind: str, names: Iterable[str], limit: int) -> None:
    names = list(names)
    for name in names[:limit]:
        typer.echo(f"{kind} {name}")
    if len(names) > limit:
        typer.echo(f"{kind} and {len(names) - limit} more (--limit)")
