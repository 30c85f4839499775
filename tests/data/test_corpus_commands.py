"""`l2p corpus`: in from the layouts of others and out again, shown, compared, and never out of its folder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from l2p.cli import app
from l2p.config import Layout, load_params
from l2p.data.corpora.importing import IMPORTED
from l2p.data.corpora.names import read_corpus
from l2p.data.corpus import COLUMNS, read_table
from l2p.data.prompts import read_prompts
from l2p.errors import ConfigError, DataError, MissingFileError
from l2p.files import sha256_file
from l2p.stages import synthesize
from tests.data.corpora import Corpus

CAPTIONS = [
    "a red star",
    'two "quoted", circles',
    "a line\nbreak\r\nand\rreturns",
    "NA",
    " 007 ",
    "ein grüner Stern 星",
]


def l2p(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["corpus", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in folder.rglob("*") if path.is_file()}


def images_of(folder: Path) -> set[str]:
    return {digest for name, digest in contents(folder).items() if name.endswith((".png", ".jpg"))}


def write_image(path: Path, index: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(index).integers(0, 255, (32, 32, 3), np.uint8)
    pixels = np.kron(blocks, np.ones((2, 2, 1), np.uint8))
    Image.fromarray(pixels).save(path)


@pytest.fixture
def project(workspace: Path) -> Corpus:
    """A project, already the working directory, with a corpus of eight real renders."""
    return Corpus(workspace / Layout.corpus, 8)


@pytest.fixture
def foreign(workspace: Path) -> Path:
    """A folder in the official layout, with captions that a careless table would change."""
    folder = workspace / "foreign"
    for index in range(len(CAPTIONS)):
        write_image(folder / "images" / f"picture {index}{'.jpg' if index == 1 else '.png'}", index)
    write_csv(folder / "metadata.csv", [[path.name, text] for path, text in zip(files(folder), CAPTIONS, strict=True)])
    return folder


def files(folder: Path) -> list[Path]:
    return sorted((folder / "images").iterdir())


def write_csv(path: Path, rows: list[list[str]], names: tuple[str, ...] = ("file_name", "text")) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([names, *rows])


def test_hugging_face_reads_the_corpus_as_an_image_folder(project: Corpus, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(Layout.corpus), split="train", cache_dir=str(Path("cache").absolute())
    )
    assert loaded.num_rows == 8
    assert set(loaded.column_names) == {"image", *COLUMNS} - {"file_name"}
    for row in loaded:
        known = project.rows[project.rows["sha256"] == row["sha256"]].iloc[0]
        assert row["text"] == known["text"]
        assert row["seed"] == known["seed"]
        assert (np.asarray(row["image"]) == np.asarray(Image.open(project.folder / known["file_name"]))).all()


def test_pandas_reads_the_table_of_the_corpus(project: Corpus):
    assert pd.read_parquet(Layout.corpus_table).equals(project.rows)


def test_an_import_writes_prompts_and_a_corpus_with_every_column(foreign: Path):
    before = contents(foreign)
    told = l2p("import", str(foreign)).stdout
    assert "data/corpus: 6 images of 6 prompts" in told
    table = read_table(Layout.corpus_table)
    assert set(COLUMNS) <= set(table.columns)
    assert table["text"].tolist() == CAPTIONS
    assert table["imported_from"].tolist() == [f"images/{path.name}" for path in files(foreign)]
    assert table["file_name"].tolist()[:2] == ["00000/000000.png", "00000/000001.jpg"]
    assert set(table["source_digest"]) == {IMPORTED}
    assert len(pd.read_parquet(Layout.rejected / "metadata.parquet")) == 0
    assert table["num_steps"].isna().all()
    assert images_of(Layout.corpus) == images_of(foreign)
    assert read_prompts(Layout.prompts_table)["text"].tolist() == CAPTIONS
    assert contents(foreign) == before
    assert l2p("verify").exit_code == 0


def test_an_imported_corpus_is_validated(foreign: Path):
    l2p("import", str(foreign))
    assert CliRunner().invoke(app, ["validate"]).exit_code == 0
    assert len(read_table(Layout.manifest)) == 6


def test_a_size_that_is_not_in_params_is_told(foreign: Path):
    Image.new("RGB", (80, 48), "red").save(foreign / "images" / "picture 0.png")
    told = l2p("import", str(foreign)).stdout
    assert "64x64 px 5, 80x48 px 1" in told
    assert "Set synthesize.width_px and height_px" in told


@pytest.mark.parametrize("layout", ["official", "imagefolder"])
def test_export_and_import_lose_nothing(project: Corpus, layout: str):
    texts = [f"{text} {number}" for number, text in enumerate((CAPTIONS * 2)[:8])]
    project.rows["text"] = texts
    project.save()
    l2p("export", "out", "--layout", layout)
    shutil.move("data", "old")
    l2p("import", "out")
    table = read_table(Layout.corpus_table)
    same = [name for name in COLUMNS if name != "prompt_id"]  # that of the old texts
    pd.testing.assert_frame_equal(table[same], project.rows[same])
    old, new = contents(Path("old/corpus")), contents(Layout.corpus)
    assert {name: old[name] for name in old if name.endswith(".png")}.items() <= new.items()


def test_a_foreign_folder_survives_import_export_and_import(foreign: Path):
    l2p("import", str(foreign))
    l2p("export", "out", "--layout", "official")
    first = read_table(Layout.corpus_table)
    shutil.move("data", "old")
    l2p("import", "out")
    pd.testing.assert_frame_equal(read_table(Layout.corpus_table), first)
    assert contents(Layout.corpus) == contents(Path("old/corpus"))


@pytest.mark.parametrize("layout", ["official", "imagefolder"])
def test_hugging_face_reads_either_export(project: Corpus, layout: str, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    l2p("export", "out", "--layout", layout)
    if layout == "official":  # whose names are relative to images/
        shutil.move("out/metadata.csv", "out/images/metadata.csv")
    where = "out/images" if layout == "official" else "out"
    cache = str(Path("cache").absolute())
    loaded = datasets.load_dataset("imagefolder", data_dir=where, split="train", cache_dir=cache)
    assert sorted(loaded["text"]) == sorted(project.rows["text"])


def test_only_accepted_images_are_exported_on_request(project: Corpus):
    Layout.manifest.parent.mkdir(exist_ok=True)
    project.rows.head(3).to_parquet(Layout.manifest, index=False)
    assert "3 images" in l2p("export", "out", "--layout", "imagefolder", "--accepted").stdout
    assert len(images_of(Path("out"))) == 3


def test_images_with_text_files_are_imported_in_the_order_of_their_names(workspace: Path):
    for index, name in enumerate(("b.png", "a.png", "deeper/c.png")):
        write_image(workspace / "plain" / name, index)
        (workspace / "plain" / name).with_suffix(".txt").write_text(f"caption of {name}\n", encoding="utf-8")
    l2p("import", "plain")
    table = read_table(Layout.corpus_table)
    assert table["text"].tolist() == ["caption of a.png", "caption of b.png", "caption of deeper/c.png"]


def test_splits_of_an_image_folder_are_imported_together(workspace: Path):
    for index, split in enumerate(("test", "train")):
        write_image(workspace / "hf" / split / "0.png", index)
        row = {"file_name": "0.png", "text": f"from {split}"}
        (workspace / "hf" / split / "metadata.jsonl").write_text(json.dumps(row), encoding="utf-8")
    l2p("import", "hf")
    assert read_table(Layout.corpus_table)["text"].tolist() == ["from test", "from train"]


def test_an_interrupted_import_goes_on(foreign: Path):
    l2p("import", str(foreign))
    whole = contents(Path("data"))
    Layout.corpus_table.unlink()
    Layout.prompts_table.unlink()
    (Layout.corpus / "00000/000003.png").unlink()
    (Layout.corpus / "00000/000004.png.partial").write_bytes(b"torn")
    kept = (Layout.corpus / "00000/000000.png").stat().st_ino
    l2p("import", str(foreign))
    assert contents(Path("data")) == whole
    assert (Layout.corpus / "00000/000000.png").stat().st_ino == kept


def test_a_repeated_import_changes_nothing(foreign: Path):
    l2p("import", str(foreign))
    whole = contents(Path("data"))
    l2p("import", str(foreign))
    assert contents(Path("data")) == whole


def test_an_import_takes_the_place_of_a_corpus_only_on_request(project: Corpus, foreign: Path):
    before = contents(Path("data"))
    with pytest.raises(DataError, match=r"data/corpus: not free: 00000/000000\.png .*--replace"):
        l2p("import", str(foreign))
    assert contents(Path("data")) == before
    l2p("import", str(foreign), "--replace")
    assert images_of(Layout.corpus) == images_of(foreign)
    assert read_corpus(Layout.corpus)["text"].tolist() == CAPTIONS


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/x.png", "a/../../x.png", "a\\..\\x.png", "", "./x.png", "a\n.png"]
)
def test_a_file_name_that_leaves_the_folder_is_refused(foreign: Path, name: str):
    write_image(foreign.parent / "secret.png", 99)
    write_csv(foreign / "metadata.csv", [["picture 0.png", "fine"], [name, "caption"]])
    with pytest.raises(DataError, match=r"metadata\.csv, row 2: "):
        l2p("import", str(foreign))
    assert not Layout.corpus.exists()


def test_a_link_out_of_the_folder_is_read_only_on_request(foreign: Path):
    write_image(foreign.parent / "elsewhere.png", 99)
    (foreign / "images" / "picture 0.png").unlink()
    (foreign / "images" / "picture 0.png").symlink_to(foreign.parent / "elsewhere.png")
    with pytest.raises(DataError, match=r"picture 0\.png .*--follow-links.*is a link to .*elsewhere\.png"):
        l2p("import", str(foreign))
    l2p("import", str(foreign), "--follow-links")
    assert sha256_file(foreign.parent / "elsewhere.png") in images_of(Layout.corpus)


def broken_folder(folder: Path, what: str) -> None:
    table = folder / "metadata.csv"
    if what == "no caption column":
        write_csv(table, [["picture 0.png", "x"]], ("file_name", "words"))
    elif what == "no file column":
        write_csv(table, [["picture 0.png", "x"]], ("id", "text"))
    elif what == "doubled name":
        write_csv(table, [["picture 0.png", "x"], ["picture 0.png", "y"]])
    elif what == "missing image":
        write_csv(table, [["none.png", "x"]])
    elif what == "empty caption":
        write_csv(table, [["picture 0.png", "  "]])
    elif what == "ragged row":
        table.write_text("file_name,text\npicture 0.png,one,two\n", encoding="utf-8")
    elif what == "other encoding":
        table.write_bytes("file_name,text\npicture 0.png,grün\n".encode("latin-1"))
    elif what == "no rows":
        table.write_text("file_name,text\n", encoding="utf-8")
    elif what == "torn image":
        path = folder / "images" / "picture 2.png"
        path.write_bytes(path.read_bytes()[:500])
    elif what == "no image":
        write_csv(table, [["../metadata.csv".removeprefix("../"), "x"]])
    elif what == "two tables":
        (folder / "metadata.jsonl").write_text("{}", encoding="utf-8")
    elif what == "bad seed":
        write_csv(table, [["picture 0.png", "x", "-3"]], ("file_name", "text", "seed"))
    elif what == "nothing":
        shutil.rmtree(folder)
        folder.mkdir()
    elif what == "no caption file":
        table.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no caption column", r"no column for the caption: expected text or prompt or caption, found file_name, words"),
        ("no file column", r"no column for the file name: .*found id, text.*--file-column"),
        ("doubled name", r"'images/picture 0\.png' is named twice"),
        ("missing image", r"row 1: none\.png is not there; looked in"),
        ("empty caption", r"row 1: no caption"),
        ("ragged row", r"line 2: 3 values for 2 columns"),
        ("other encoding", r"cannot be read as csv \('utf-8' codec"),
        ("no rows", r"no rows"),
        ("torn image", r"1 of 6 images cannot be decoded: .*picture 2\.png"),
        ("no image", r"metadata\.csv is no image"),
        ("two tables", r"holds metadata\.csv and metadata\.jsonl.*--table"),
        ("bad seed", r"row 1 .*seed = '-3': expected a number"),
        ("nothing", r"no table \(metadata\.csv.*\) and no images"),
        ("no caption file", r"6 of 6 images have no caption, for example images/picture 0\.png"),
    ],
)
def test_a_broken_folder_is_named_and_nothing_is_imported(foreign: Path, what: str, message: str):
    broken_folder(foreign, what)
    with pytest.raises(DataError, match=message):
        l2p("import", str(foreign))
    assert not Layout.corpus.exists()
    assert not Layout.prompts_table.exists()


def test_columns_of_other_names_can_be_named(foreign: Path):
    write_csv(foreign / "metadata.csv", [["picture 0.png", "x"]], ("id", "words"))
    told = l2p("import", str(foreign), "--file-column", "id", "--text-column", "words").stdout
    assert "1 images of 1 prompts" in told
    assert "5 images of" in told
    assert "left out" in told


@pytest.mark.parametrize("name", ["../x.png", "/x.png", "metadata.parquet"])
def test_a_table_that_names_files_outside_the_corpus_is_refused_by_every_command(project: Corpus, name: str):
    project.rows.loc[3, "file_name"] = name
    project.save()
    for arguments in (["verify"], ["show"], ["export", "out", "--layout", "official"], ["pack", "out"], ["redraw"]):
        with pytest.raises(DataError, match=r"metadata\.parquet"):
            l2p(*arguments)
    assert not Path("out").exists()


def test_an_export_never_mixes_with_other_files(project: Corpus):
    Path("out").mkdir()
    Path("out/notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"out: not free: notes\.txt"):
        l2p("export", "out", "--layout", "official")
    assert contents(Path("out")).keys() == {"notes.txt"}


def test_an_interrupted_export_goes_on(project: Corpus):
    l2p("export", "out", "--layout", "official")
    whole = contents(Path("out"))
    Path("out/metadata.csv").unlink()
    Path("out/images/00000/000002.png").unlink()
    Path("out/images/00000/000005.png.partial").write_bytes(b"torn")
    l2p("export", "out", "--layout", "official")
    assert contents(Path("out")) == whole


def test_an_export_refuses_an_image_that_changed(project: Corpus):
    write_image(project.path(2), 7)
    with pytest.raises(DataError, match=r"000002\.png: its bytes changed"):
        l2p("export", "out", "--layout", "official")
    assert not Path("out/metadata.csv").exists()


def test_the_sheet_shows_the_images_that_satisfy_a_condition(project: Corpus):
    project.rows["style"] = ["dense", "plain"] * 4
    project.save()
    told = l2p("show", "--rows", "1", "--columns", "3", "--cell", "64", "--where", "style == 'dense'").stdout
    assert told == "sheet.png: 3 of 8 images\n"
    sheet = np.asarray(Image.open("sheet.png"))
    assert sheet.shape == (64 + 4 * 17 + 12 + 24 + 17, 3 * 76 + 12, 3)
    first = np.asarray(Image.open(project.path(0)))
    assert (sheet[29 : 29 + 64, 12 : 12 + 64] == first).all()


def test_the_sheet_shows_what_is_wrong_with_a_damaged_image(project: Corpus):
    project.path(0).write_bytes(b"no image")
    project.path(1).unlink()
    assert l2p("show").stdout == "sheet.png: 8 of 8 images\n"


@pytest.mark.parametrize("where", ["styl == 'x'", "style ==", "1 / 0 + style", "text", "seed > 100"])
def test_an_impossible_condition_is_explained(project: Corpus, where: str):
    with pytest.raises(DataError, match=r"--where"):
        l2p("show", "--where", where)


def test_a_corpus_that_is_not_there_is_named(workspace: Path):
    with pytest.raises(MissingFileError, match=r"data/corpus: no such folder"):
        l2p("show")


def test_verify_names_missing_changed_and_extra_files(project: Corpus):
    assert l2p("verify").stdout == "data/corpus: intact 8, missing 0, changed 0, extra 0\n"
    project.path(1).unlink()
    write_image(project.path(2), 5)
    write_image(project.folder / "00000/stray.png", 6)
    done = l2p("verify")
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "data/corpus: intact 6, missing 1, changed 1, extra 1",
        "missing 00000/000001.png",
        "changed 00000/000002.png",
        "extra 00000/stray.png",
    ]


def test_two_folders_are_compared_by_content(project: Corpus):
    shutil.copytree(project.folder, "old")
    project.redraw(1, np.full((64, 64, 3), 90, np.uint8))
    project.rows.loc[2, "text"] = "another caption"
    project.path(3).rename(project.folder / "00000/000099.png")
    project.rows.loc[3, "file_name"] = "00000/000099.png"
    project.rows = project.rows.drop(index=7).reset_index(drop=True)
    new = project.rows.iloc[0].copy()
    new["file_name"], new["sha256"], new["text"] = "00000/000050.png", "f" * 64, "new"
    project.rows = pd.concat([project.rows, new.to_frame().T], ignore_index=True)
    project.save()
    lines = l2p("diff", "--against", "old").stdout.splitlines()
    assert lines[0] == "came 1, went 1, changed 1, moved 1, described 1, same 4"
    assert lines[1] == "+ 00000/000050.png  new"
    assert lines[2].startswith("- 00000/000007.png")
    assert lines[3].startswith("~ 00000/000001.png")
    assert lines[4].startswith("> 00000/000099.png (was 00000/000003.png)")
    assert lines[5] == ". 00000/000002.png (text)  another caption"


def test_equal_folders_do_not_differ(project: Corpus):
    shutil.copytree(project.folder, "old")
    assert l2p("diff", "--against", "old").stdout == "came 0, went 0, changed 0, moved 0, described 0, same 8\n"


def test_a_comparison_needs_something_to_compare_with(project: Corpus):
    with pytest.raises(ConfigError, match="give a git revision, or --against FOLDER"):
        l2p("diff")


def test_synthesis_refuses_to_delete_an_imported_corpus(workspace: Path) -> None:
    Layout.corpus.mkdir(parents=True)
    pd.DataFrame({"file_name": ["00000/000000.png"], "source_digest": ["imported"]}).to_parquet(Layout.corpus_table)
    with pytest.raises(DataError, match=r"data/corpus: holds images that were imported, .*`dvc freeze synthesize`"):
        synthesize.run(load_params())
    assert Layout.corpus_table.is_file()
