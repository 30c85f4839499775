"""The corpus: reproducible to the byte, resumable to the image, and never a mixture of parameters."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from l2p.config import SynthesizeParams
from l2p.data.corpus import COLUMNS, read_table
from l2p.data.embeddings import embed_prompts
from l2p.data.prompts import prompt_id
from l2p.data.synthesis import Synthesis, image_seed, plan_images
from l2p.data.synthesis.planning import form_batches, image_name
from l2p.errors import DataError, MissingFileError, SourceError
from l2p.files import sha256_file
from l2p.models.source import SourcePin, pin_source
from l2p.stages.synthesize import check_fields
from tests.conftest import ROOT
from tests.data.synthesis_project import DIE_AT_IMAGE, TEXTS, Project, prompt_table, settings


@pytest.fixture(scope="module")
def pin(tiny_source: Path) -> SourcePin:
    return pin_source(str(tiny_source))


@pytest.fixture(scope="module")
def finished(pin: SourcePin, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """An uninterrupted corpus of eight images in batches of three; do not write into it."""
    project = Project(tmp_path_factory.mktemp("finished"), pin).embed()
    project.draw()
    return project


@pytest.fixture
def copy(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished corpus."""
    return finished.copy(tmp_path)


@pytest.fixture
def empty(finished: Project, tmp_path: Path) -> Project:
    """The same project before it draws."""
    return finished.without_corpus(tmp_path)


def test_the_table_describes_every_image(finished: Project, pin: SourcePin):
    table = read_table(finished.corpus / "metadata.parquet")
    assert list(table.columns) == COLUMNS
    assert table["text"].tolist() == [text for text in TEXTS for _ in range(2)]
    assert table["repetition"].tolist() == [0, 1] * 4
    assert set(table["attempt"]) == {0}
    assert set(table["source_digest"]) == {pin.digest}
    assert sorted(table["batch_size"]) == [2, 2, 3, 3, 3, 3, 3, 3]
    assert table.groupby("batch").size().to_dict() == table.groupby("batch")["batch_size"].first().to_dict()
    assert set(table["dtype"]) == {"float32"}
    assert all(text.endswith(", 1 thread") for text in table["device"])
    assert set(table["diffusers_version"]) == {version("diffusers")}
    for row in table.itertuples():
        path = finished.corpus / row.file_name
        assert sha256_file(path) == row.sha256
        assert finished.pixels(row.file_name).shape == (64, 64, 3)
    assert table["sha256"].is_unique


def test_seeds_follow_from_the_documented_formula(finished: Project):
    for row in finished.table().itertuples():
        text = f"100/{row.prompt_id}/{row.repetition}/{row.attempt}"
        assert row.seed == int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)


def test_every_prompt_repetition_and_attempt_has_a_seed_of_its_own():
    seeds = {
        image_seed(7, f"p{n}", repetition, attempt) for n in range(50) for repetition in (0, 1) for attempt in (0, 1)
    }
    assert len(seeds) == 200
    assert image_seed(7, "p", 0) != image_seed(8, "p", 0)


def test_other_prompts_change_neither_name_nor_seed_nor_size_of_an_image():
    sizes = [{"height_px": 64, "width_px": 64, "share": 1}, {"height_px": 32, "width_px": 96, "share": 1}]
    few, many = prompt_table(*TEXTS), prompt_table("a new one", *reversed(TEXTS), "another")
    known = {row["file_name"]: row for row in plan_images(many, settings(sizes=sizes), "d")}
    for row in plan_images(few, settings(sizes=sizes), "d"):
        assert known[row["file_name"]] == row


def test_two_runs_give_the_same_bytes(finished: Project, empty: Project):
    assert empty.draw() == Synthesis(drawn=8, kept=0)
    assert empty.contents() == finished.contents()


@pytest.mark.parametrize("image", [5])
def test_a_run_killed_while_it_writes_resumes_to_the_same_corpus_and_keeps_whole_batches(
    finished: Project, empty: Project, image: int
):
    killed = empty.run_elsewhere(DIE_AT_IMAGE.format(number=image))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = empty.identities()
    assert not (empty.corpus / "metadata.parquet").exists()
    part = empty.corpus / "journal.0.jsonl"
    lines = [json.loads(line) for line in part.read_text().splitlines()] if part.is_file() else []
    whole = {Path(name).name for line in lines for name in line["sha256"]}
    assert len(whole) == 3 * ((image - 1) // 3)
    assert empty.draw() == Synthesis(drawn=8 - len(whole), kept=len(whole))
    after = empty.identities()
    assert {name: after[name] for name in whole} == {name: before[name] for name in whole}
    assert empty.contents() == finished.contents()


def test_a_finished_corpus_is_kept_without_loading_the_source(copy: Project, pin: SourcePin):
    before, files = copy.identities(), copy.contents()
    copy.pin = SourcePin(**{**vars(pin), "path": "/nowhere"})
    assert copy.draw() == Synthesis(drawn=0, kept=8)
    assert copy.identities() == before
    assert copy.contents() == files


def test_damaged_and_missing_images_come_back_to_the_byte_and_no_other_is_touched(copy: Project, finished: Project):
    names = finished.table()["file_name"]
    os.truncate(copy.corpus / names[3], 40)
    (copy.corpus / names[6]).unlink()
    before = copy.identities()
    assert copy.draw(batch_size=5) == Synthesis(drawn=2, kept=6)
    changed = {name for name, identity in copy.identities().items() if before.get(name) != identity}
    assert changed == {Path(names[3]).name, Path(names[6]).name}
    assert copy.contents() == finished.contents()


def test_a_torn_line_of_the_journal_costs_only_its_own_batch(copy: Project, finished: Project):
    journal = copy.corpus / "journal.jsonl"
    os.truncate(journal, journal.stat().st_size - 20)
    assert copy.draw() == Synthesis(drawn=2, kept=6)
    assert copy.contents() == finished.contents()


@pytest.mark.parametrize("change", [{"num_steps": 1}, {"guidance_scale": 0.0}, {"shift": 5.0}, {"seed": 500}])
def test_a_changed_parameter_leaves_nothing_of_the_old_corpus(copy: Project, change: dict[str, object]):
    old = {digest for name, digest in copy.contents().items() if name.endswith(".png")}
    assert copy.draw(**change) == Synthesis(drawn=8, kept=0)
    assert not old & set(copy.contents().values())


def test_fewer_prompts_delete_images_that_no_longer_belong(copy: Project):
    (copy.corpus / "00007").mkdir()
    (copy.corpus / "00007" / "000999.png").write_bytes(b"of another corpus")
    copy.prompts = copy.prompts.head(3)
    assert copy.draw() == Synthesis(drawn=0, kept=6)
    files = {path.relative_to(copy.corpus).as_posix() for path in copy.corpus.rglob("*") if path.is_file()}
    assert files == {*copy.table()["file_name"], "journal.jsonl", "metadata.parquet"}
    assert len(copy.table()) == 6
    assert not (copy.corpus / "00007").exists()


def test_more_prompts_keep_the_images_and_embeddings_there_are(copy: Project):
    before = copy.identities()
    copy.prompts = pd.concat([prompt_table("a blue star"), copy.prompts], ignore_index=True)
    assert embed_prompts(copy.prompts, pin=copy.pin, folder=copy.places.embeddings, batch_size=8, dtype="float32") == 1
    assert copy.draw() == Synthesis(drawn=2, kept=8)
    after = copy.identities()
    assert {name: after[name] for name in before} == before


def test_an_id_whose_text_changed_is_drawn_anew(copy: Project):
    copy.prompts.loc[0, "text"] = "a photo of a square"
    copy.embed()
    assert copy.draw() == Synthesis(drawn=2, kept=6)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_an_image_does_not_depend_on_its_batch_beyond_rounding(finished: Project, empty: Project, batch_size: int):
    empty.draw(batch_size=batch_size)
    for name in finished.table()["file_name"]:
        assert np.abs(finished.pixels(name) - empty.pixels(name)).max() <= 1


def test_sizes_are_mixed_by_lot_and_batches_have_one_size(empty: Project):
    sizes = [{"height_px": 64, "width_px": 64, "share": 2}, {"height_px": 32, "width_px": 96, "share": 1}]
    empty.draw(sizes=sizes, images_per_prompt=4)
    table = empty.table()
    assert {empty.pixels(row.file_name).shape[:2] == (row.height_px, row.width_px) for row in table.itertuples()} == {
        True
    }
    counts = table.groupby(["height_px", "width_px"]).size().to_dict()
    assert set(counts) == {(64, 64), (32, 96)}
    assert (table.groupby("batch")[["height_px", "width_px"]].nunique() == 1).all(axis=None)


def test_shares_of_sizes_are_kept_over_many_images():
    sizes = [{"height_px": 64, "width_px": 64, "share": 3}, {"height_px": 32, "width_px": 96, "share": 1}]
    rows = plan_images(prompt_table(*map(str, range(2000))), settings(sizes=sizes, images_per_prompt=1), "d")
    assert sum(row["height_px"] == 32 for row in rows) == pytest.approx(500, abs=80)


def test_batches_taken_away_leave_the_others_as_they_are():
    rows = plan_images(prompt_table(*(f"{'word ' * (n % 7)}{n}" for n in range(40))), settings(), "d")
    batches = form_batches(rows, 7)
    gone = {name for batch in batches[::3] for name in batch.wanted}
    left = form_batches([row for row in rows if row["file_name"] not in gone], 7)
    assert [batch.digest for batch in left] == [b.digest for n, b in enumerate(batches) if n % 3]


def test_a_source_other_than_the_pinned_one_draws_nothing(empty: Project, pin: SourcePin):
    empty.pin = SourcePin(**{**vars(pin), "files": {**pin.files, "vae/config.json": "0" * 64}})
    with pytest.raises(SourceError, match=r"vae/config\.json: differs from the pin"):
        empty.draw()
    assert not list(empty.corpus.rglob("*.png"))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/tmp/x", "a/b", "", ".hidden", "a\\b", "x" * 65])
def test_an_id_that_would_leave_the_folder_is_refused(empty: Project, name: str):
    empty.prompts.loc[1, "prompt_id"] = name
    with pytest.raises(DataError, match=r"prompts, row 1: id .* is not allowed\. Ids become file names"):
        empty.draw()
    assert not empty.corpus.exists()


@pytest.mark.parametrize("other", ["same", "SAME"])
def test_ids_that_collide_are_refused(empty: Project, other: str):
    empty.prompts["prompt_id"] = ["same", "b", other, "d"]
    with pytest.raises(DataError, match=rf"prompts, row 2: id '{other}' is already at prompts, row 0"):
        empty.draw()


def test_ids_cannot_collide_by_their_repetitions():
    assert image_name("a", 10) != image_name("a-1", 0)
    assert image_name("a-1", 0).rsplit("-", 1)[0].endswith("/a-1")


def test_embeddings_of_other_prompts_are_refused(empty: Project):
    empty.prompts.loc[2, "text"] = "a photo of three squares"
    with pytest.raises(
        DataError, match=rf"no embedding of prompt '{prompt_id(TEXTS[2])}' as it is now\. Run `l2p embed`"
    ):
        empty.draw()


def test_embeddings_in_another_precision_are_refused(empty: Project):
    with pytest.raises(DataError, match=r"in float32, expected .* in bfloat16\. Run `l2p embed` again"):
        empty.draw(dtype="bfloat16")


def test_without_embeddings_the_stage_that_writes_them_is_named(pin: SourcePin, tmp_path: Path):
    with pytest.raises(MissingFileError, match="`l2p embed` writes it"):
        Project(tmp_path, pin).draw()


def test_the_text_encoder_is_not_loaded(pin: SourcePin):
    from l2p.models.source import load_drawing_pipeline

    pipeline = load_drawing_pipeline(pin, shift=7.0)
    assert pipeline.text_encoder is None
    assert pipeline.scheduler.config.shift == 7.0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs a user namespace of root")
def test_a_full_disk_stops_cleanly_and_the_run_goes_on_when_there_is_room(finished: Project, empty: Project):
    small = (
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=72k tmpfs "$0/corpus" && "$@"; s=$?; cp -r "$0/corpus" "$0/kept"; exit $s',
        str(empty.folder),
    )
    empty.corpus.mkdir()
    full = empty.run_elsewhere(wrapper=small)
    if "mount" in full.stderr and "DataError" not in full.stderr:
        pytest.skip("no disk can be mounted here")
    assert full.returncode == 1
    said = full.stderr.splitlines()[-1]
    assert "corpus: no space left on its disk" in said
    assert "of 8 images are drawn and kept" in said
    kept = empty.folder / "kept"
    assert not list(kept.rglob("*.partial"))
    (kept).rename(empty.corpus.with_name("full"))
    empty.corpus.rmdir()
    empty.corpus.with_name("full").rename(empty.corpus)
    done = empty.draw()
    assert 0 < done.kept < 8
    assert done.drawn == 8 - done.kept
    assert empty.contents() == finished.contents()


def test_dvc_watches_everything_that_decides_what_the_corpus_is():
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["synthesize"]
    by_whom = {"engine", "num_workers", "threads"}
    own = {f"synthesize.{name}" for name in SynthesizeParams.model_fields if name not in by_whom}
    assert set(stage["params"]) == own | {f"validate.{name}" for name in check_fields()}


@pytest.mark.slow
def test_compiled_blocks_draw_the_same_up_to_rounding_and_are_recorded(finished: Project, empty: Project):
    empty.prompts = empty.prompts.head(1)
    empty.draw(compile=True)
    for row in empty.table().itertuples():
        assert np.abs(finished.pixels(row.file_name) - empty.pixels(row.file_name)).max() <= 1
        assert row.device.endswith(", 1 thread, compiled")


def test_a_size_given_twice_is_refused():
    size = {"height_px": 64, "width_px": 64, "share": 1}
    with pytest.raises(ValueError, match="is there twice; add the shares"):
        settings(sizes=[size, size])
