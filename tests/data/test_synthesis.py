"""The corpus: reproducible to the byte, resumable to the image, and never a mixture of parameters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from l2p.config import SynthesizeParams
from l2p.data.corpus import COLUMNS, measure_images, read_table
from l2p.data.prompts import prompt_id
from l2p.data.synthesis import Synthesis, synthesize
from l2p.files import sha256_file
from l2p.models.source import SourcePin, pin_source
from tests.conftest import ROOT

SETTINGS = {
    "images_per_prompt": 2,
    "height_px": 64,
    "width_px": 64,
    "num_steps": 2,
    "guidance_scale": 1.0,
    "batch_size": 4,
    "seed": 100,
    "dtype": "float32",
}
# Draws the corpus as the stage does, but dies by SIGKILL while it writes the third image of the second batch.
DIE_IN_SECOND_BATCH = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd, torch
from l2p.config import SynthesizeParams
from l2p.data import synthesis
from l2p.models.source import SourcePin

folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
torch.set_num_threads(1)
write_png, written = synthesis.write_png, []

def write_or_die(path, image):
    written.append(path)
    if len(written) == settings["batch_size"] + 3:
        path.with_name(path.name + ".partial").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    return write_png(path, image)

synthesis.write_png = write_or_die
prompts, pin = pd.read_parquet(folder / "prompts.parquet"), SourcePin.load(folder / "source.json")
synthesis.synthesize(prompts, SynthesizeParams(**settings), pin=pin, table=folder / "corpus/metadata.parquet")
"""


def settings(**changes: object) -> SynthesizeParams:
    return SynthesizeParams(**{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def prompts() -> pd.DataFrame:
    texts = [
        "a photo of a circle",
        "a red star",
        "a photo of two squares on a pink background",
        "a circle above a star",
    ]
    rows = [{"prompt_id": prompt_id(text), "text": text, "style": "x"} for text in texts]
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def pin(tiny_source: Path) -> SourcePin:
    return pin_source(str(tiny_source))


@pytest.fixture(scope="module")
def finished(prompts: pd.DataFrame, pin: SourcePin, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted corpus; do not write into it."""
    folder = tmp_path_factory.mktemp("finished")
    synthesize(prompts, settings(), pin=pin, table=folder / "metadata.parquet")
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished corpus."""
    folder = tmp_path / "corpus"
    subprocess.run(["cp", "-r", str(finished), str(folder)], check=True)
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def identities(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every image: both change when a file is replaced."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*.png")}


def test_the_table_describes_every_image(finished: Path, prompts: pd.DataFrame, pin: SourcePin):
    table = read_table(finished / "metadata.parquet")
    assert list(table.columns) == COLUMNS
    assert table["file_name"].tolist() == [f"00000/{index:06d}.png" for index in range(8)]
    assert table["seed"].tolist() == list(range(100, 108))
    assert table["text"].tolist() == [text for text in prompts["text"] for _ in range(2)]
    assert set(table["source_digest"]) == {pin.digest}
    measured = measure_images(table, finished)
    assert (measured["measured_sha256"] == table["sha256"]).all()
    assert set(measured["measured_height_px"]) == set(measured["measured_width_px"]) == {64}
    assert measured["duplicate_of"].isna().all()


def test_two_runs_give_the_same_bytes(finished: Path, prompts: pd.DataFrame, pin: SourcePin, tmp_path: Path):
    synthesize(prompts, settings(), pin=pin, table=tmp_path / "again" / "metadata.parquet")
    assert contents(tmp_path / "again") == contents(finished)


def test_a_run_killed_in_the_second_batch_resumes_to_the_same_corpus_without_redrawing_the_first(
    finished: Path, prompts: pd.DataFrame, pin: SourcePin, tmp_path: Path
):
    prompts.to_parquet(tmp_path / "prompts.parquet")
    pin.save(tmp_path / "source.json")
    command = [sys.executable, "-c", DIE_IN_SECOND_BATCH, str(tmp_path), json.dumps(SETTINGS)]
    killed = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()

    corpus = tmp_path / "corpus"
    before = identities(corpus)
    assert len(before) == 6
    assert not (corpus / "metadata.parquet").exists()
    journal = [json.loads(line) for line in (corpus / "journal.jsonl").read_text().splitlines()]
    first_batch = {Path(row["file_name"]).name for row in journal}
    assert len(first_batch) == 4

    assert synthesize(prompts, settings(), pin=pin, table=corpus / "metadata.parquet") == Synthesis(drawn=4, kept=4)
    after = identities(corpus)
    assert {name: after[name] for name in first_batch} == {name: before[name] for name in first_batch}
    assert contents(corpus) == contents(finished)


def test_a_finished_corpus_is_kept_without_loading_the_source(copy: Path, prompts: pd.DataFrame, pin: SourcePin):
    before = identities(copy)
    nowhere = SourcePin(**{**vars(pin), "path": "/nowhere"})
    assert synthesize(prompts, settings(), pin=nowhere, table=copy / "metadata.parquet") == Synthesis(drawn=0, kept=8)
    assert identities(copy) == before


def test_only_damaged_and_missing_images_are_redrawn_and_look_as_before(
    copy: Path, finished: Path, prompts: pd.DataFrame, pin: SourcePin
):
    os.truncate(copy / "00000/000003.png", 40)
    (copy / "00000/000006.png").unlink()
    before = identities(copy)
    assert synthesize(prompts, settings(), pin=pin, table=copy / "metadata.parquet") == Synthesis(drawn=2, kept=6)
    changed = {name for name, identity in identities(copy).items() if before.get(name) != identity}
    assert changed == {"000003.png", "000006.png"}
    for name in changed:  # drawn in other company: equal up to rounding
        old, new = (np.asarray(Image.open(folder / "00000" / name), np.int16) for folder in (finished, copy))
        assert np.abs(old - new).max() <= 1


def test_a_torn_line_of_the_journal_costs_only_its_own_image(copy: Path, prompts: pd.DataFrame, pin: SourcePin):
    journal = copy / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 20)
    assert synthesize(prompts, settings(), pin=pin, table=copy / "metadata.parquet") == Synthesis(drawn=1, kept=7)


@pytest.mark.parametrize("change", [{"num_steps": 1}, {"guidance_scale": 0.0}, {"dtype": "bfloat16"}, {"seed": 500}])
def test_a_changed_parameter_leaves_nothing_of_the_old_corpus(
    copy: Path, prompts: pd.DataFrame, pin: SourcePin, change: dict[str, object]
):
    old = set(contents(copy).values())
    done = synthesize(prompts, settings(**change), pin=pin, table=copy / "metadata.parquet")
    assert done == Synthesis(drawn=8, kept=0)
    assert not old & set(contents(copy).values())


def test_fewer_prompts_delete_images_that_no_longer_belong(copy: Path, prompts: pd.DataFrame, pin: SourcePin):
    (copy / "00007").mkdir()
    (copy / "00007" / "000999.png").write_bytes(b"of another corpus")
    done = synthesize(prompts.head(3), settings(), pin=pin, table=copy / "metadata.parquet")
    assert done == Synthesis(drawn=0, kept=6)
    names = {f"00000/{index:06d}.png" for index in range(6)}
    assert set(contents(copy)) == names | {"journal.jsonl", "metadata.parquet"}
    assert not (copy / "00007").exists()


def test_more_prompts_keep_the_images_there_are(copy: Path, prompts: pd.DataFrame, pin: SourcePin):
    more = pd.DataFrame([{"prompt_id": prompt_id("a blue star"), "text": "a blue star", "style": "x"}])
    grown = pd.concat([prompts, more], ignore_index=True)
    assert synthesize(grown, settings(), pin=pin, table=copy / "metadata.parquet") == Synthesis(drawn=2, kept=8)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_image_does_not_depend_on_its_batch_beyond_rounding(
    finished: Path, prompts: pd.DataFrame, pin: SourcePin, tmp_path: Path, batch_size: int
):
    synthesize(prompts, settings(batch_size=batch_size), pin=pin, table=tmp_path / "metadata.parquet")
    for index in range(8):
        old, new = (
            np.asarray(Image.open(folder / f"00000/{index:06d}.png"), np.int16) for folder in (finished, tmp_path)
        )
        assert np.abs(old - new).max() <= 1


def test_a_source_other_than_the_pinned_one_draws_nothing(prompts: pd.DataFrame, pin: SourcePin, tmp_path: Path):
    from l2p.errors import SourceError

    other = SourcePin(**{**vars(pin), "files": {**pin.files, "vae/config.json": "0" * 64}})
    with pytest.raises(SourceError, match=r"vae/config\.json: differs from the pin"):
        synthesize(prompts, settings(), pin=other, table=tmp_path / "metadata.parquet")
    assert not list(tmp_path.rglob("*.png"))
