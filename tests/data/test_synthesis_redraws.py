"""Images that a check refuses, or that are no picture, are drawn again with fresh seeds, whatever interrupts that."""

from __future__ import annotations

import signal
from pathlib import Path

import pandas as pd
import pytest

from l2p.data.corpora.redrawing import redraw
from l2p.data.corpus import COLUMNS
from l2p.data.synthesis import Synthesis, image_seed
from l2p.errors import DataError
from l2p.files import sha256_file
from l2p.models.source import SourcePin, pin_source
from tests.data.synthesis_project import DIE_AT_IMAGE, Project

# Refuses by what an image shows, so that it can be asked in any process: about half of all images.
CHECK = """
def check(table, folder):
    from l2p.files import sha256_file
    return {
        name: ["its digest is odd"] for name in table["file_name"] if int(sha256_file(folder / name)[-1], 16) % 2
    }
"""
exec(CHECK)  # the very text that other processes get


def odd(table: pd.DataFrame, folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = globals()["check"](table, folder)
    return found


@pytest.fixture(scope="module")
def pin(tiny_source: Path) -> SourcePin:
    return pin_source(str(tiny_source))


@pytest.fixture(scope="module")
def finished(pin: SourcePin, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Eight images, drawn up to three times each; do not write into it."""
    project = Project(tmp_path_factory.mktemp("redrawn"), pin).embed()
    done = project.draw(odd, max_redraws=2)
    assert done.redrawn == done.rejected > 1
    return project


@pytest.fixture
def empty(finished: Project, tmp_path: Path) -> Project:
    return finished.without_corpus(tmp_path)


def test_refused_images_have_fresh_seeds_until_the_check_is_content_or_no_attempt_is_left(finished: Project):
    table = finished.table()
    assert set(table["attempt"]) == {0, 1, 2}
    for row in table.itertuples():
        assert row.seed == image_seed(100, row.prompt_id, row.repetition, row.attempt)
        assert sha256_file(finished.corpus / row.file_name) == row.sha256
    refused = odd(table, finished.corpus)
    assert set(table[table["file_name"].isin(refused)]["attempt"]) <= {2}


def test_every_refused_predecessor_is_kept_with_its_row_and_reason(finished: Project):
    table, rejected = finished.table(), finished.rejected_table()
    assert list(rejected.columns) == [*COLUMNS, "reason"]
    assert len(rejected) == table["attempt"].sum()
    assert rejected["file_name"].is_unique
    for row in rejected.itertuples():
        assert sha256_file(finished.rejected / row.file_name) == row.sha256
        assert row.reason == "its digest is odd"
        assert row.seed == image_seed(100, row.prompt_id, row.repetition, row.attempt)
    files = {path.relative_to(finished.rejected).as_posix() for path in finished.rejected.rglob("*") if path.is_file()}
    assert files == {*rejected["file_name"], "metadata.parquet", "check.json"}


def test_without_attempts_nothing_is_checked_and_the_table_of_the_rejected_is_empty(empty: Project):
    assert empty.draw(odd) == Synthesis(drawn=8, kept=0)
    assert len(empty.rejected_table()) == 0
    assert set(empty.table()["attempt"]) == {0}


@pytest.mark.parametrize("image", [10, 13])
def test_a_run_killed_while_it_redraws_ends_as_an_uninterrupted_one(finished: Project, empty: Project, image: int):
    killed = empty.run_elsewhere(CHECK + DIE_AT_IMAGE.format(number=image), check="check", max_redraws=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert empty.rejected_table()["attempt"].max() == (0 if image == 10 else 1)
    empty.draw(odd, max_redraws=2)
    assert empty.contents() == finished.contents()


def test_a_second_run_draws_nothing_and_changes_nothing(finished: Project, tmp_path: Path):
    copy = finished.copy(tmp_path)
    before = copy.identities()
    rejected = len(finished.rejected_table())
    assert copy.draw(odd, max_redraws=2) == Synthesis(drawn=0, kept=8, redrawn=0, rejected=rejected)
    assert copy.identities() == before
    assert copy.contents() == finished.contents()


def test_another_number_of_attempts_gives_what_it_would_have_given_from_the_start(
    finished: Project, empty: Project, tmp_path: Path
):
    empty.draw(odd, max_redraws=1)
    copy = finished.copy(tmp_path / "copy")
    copy.draw(odd, max_redraws=1)
    assert copy.contents() == empty.contents()
    copy.draw(odd, max_redraws=2)
    assert copy.contents() == finished.contents()


@pytest.mark.parametrize("lost", ["metadata.parquet", "check.json", "image", "all"])
def test_what_is_lost_of_the_rejected_comes_back_to_the_byte(finished: Project, tmp_path: Path, lost: str):
    copy = finished.copy(tmp_path)
    names = copy.rejected_table()["file_name"]
    gone = [*names, "metadata.parquet", "check.json"] if lost == "all" else [names[0] if lost == "image" else lost]
    for name in gone:
        (copy.rejected / name).unlink()
    copy.draw(odd, max_redraws=2)
    assert copy.contents() == finished.contents()


def test_redrawn_attempts_have_the_same_bytes_again(finished: Project, pin: SourcePin):
    table = finished.table()
    found = redraw(table, finished.corpus, table["file_name"].tolist(), embeddings=finished.places.embeddings, pin=pin)
    assert [image.file_name for image in found] == table["file_name"].tolist()
    assert all(image.identical for image in found)


def test_an_image_whose_companions_are_gone_has_the_same_bytes_again(finished: Project, tmp_path: Path):
    copy = finished.copy(tmp_path)
    copy.prompts = copy.prompts.iloc[[1, 3]].reset_index(drop=True)
    copy.embed()
    copy.draw(odd, max_redraws=2)
    table = copy.table()
    found = redraw(table, copy.corpus, table["file_name"].tolist(), embeddings=copy.places.embeddings, pin=copy.pin)
    assert len(found) == 4
    assert [image.identical for image in found] == [True] * 4


# values that are not finite


@pytest.fixture
def with_nan(monkeypatch: pytest.MonkeyPatch):
    """Makes the source put out NaN for some seeds, as an overflow of its precision does."""
    from l2p.data.synthesis import painter

    def spoil(seeds: set[int]) -> None:
        real = painter.draw_pixels

        def draw(*arguments, seeds: list[int], **settings):
            pixels = real(*arguments, seeds=seeds, **settings).copy()
            for position, seed in enumerate(seeds):
                if seed in bad:
                    pixels[position, :4] = float("nan")
            return pixels

        bad = seeds
        monkeypatch.setattr(painter, "draw_pixels", draw)

    return spoil


def test_an_image_that_is_not_finite_is_drawn_again_and_kept_with_its_reason(
    finished: Project, empty: Project, with_nan
):
    first = empty.prompts["prompt_id"][0]
    with_nan({image_seed(100, first, 1)})
    assert empty.draw(max_redraws=1, max_failed_share=0.2) == Synthesis(drawn=8, kept=0, redrawn=1, rejected=1)
    (row,) = empty.rejected_table().itertuples()
    assert (row.prompt_id, row.repetition, row.attempt) == (first, 1, 0)
    assert row.reason.startswith("not finite")
    assert empty.table()["attempt"].sum() == 1


def test_an_image_that_is_never_finite_is_an_error_that_names_prompt_and_seed(empty: Project, with_nan):
    first = empty.prompts["prompt_id"][0]
    seeds = [image_seed(100, first, 1, attempt) for attempt in (0, 1)]
    with_nan(set(seeds))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"prompt {first} .*, seed {seeds[1]}, attempt 2 of 2: .*not finite\. Set"):
            empty.draw(max_redraws=1, max_failed_share=0.2)
    assert not (empty.corpus / "metadata.parquet").exists()
    assert len(list(empty.corpus.rglob("*.png"))) == 8


def test_a_source_that_is_hardly_ever_finite_is_stopped_long_before_the_end(empty: Project, with_nan):
    with_nan({image_seed(100, name, repetition) for name in empty.prompts["prompt_id"] for repetition in (0, 1)})
    for _ in range(2):
        with pytest.raises(DataError, match=r"so are 2 others"):
            empty.draw(max_redraws=3, max_failed_share=0.2, batch_size=3)
        assert len(list(empty.corpus.rglob("*.png"))) == 6  # the batch, and the next that was being written
