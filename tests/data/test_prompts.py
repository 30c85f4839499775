"""The prompt set: drawn or read, unique, identified by its text."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from l2p.config import PromptsParams
from l2p.data.prompts import draw_prompts, prompt_id, read_prompts, write_prompts
from l2p.errors import DataError, MissingFileError

LINES = "a cat\n  a cat  \n\na dog\n\ta bird\na dog\na fish\n"


def from_file(path: Path, count: int, seed: int = 0) -> PromptsParams:
    return PromptsParams(provider="file", path=str(path), count=count, seed=seed)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def test_the_world_is_found_by_name_and_drawn_deterministically():
    params = PromptsParams(provider="shapes", count=40, seed=7)
    first, second = draw_prompts(params), draw_prompts(params)
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.report() == second.report()
    assert first.table["text"].is_unique
    assert list(first.table.columns) == ["prompt_id", "text", "style"]


def test_a_prompt_is_identified_by_the_digest_of_its_text():
    assert prompt_id("a cat") == hashlib.sha256(b"a cat").hexdigest()[:12]


def test_lines_are_stripped_and_repetitions_and_blank_lines_are_left_out_and_reported(lines: Path):
    prompts = draw_prompts(from_file(lines, count=4))
    assert prompts.table["text"].tolist() == ["a cat", "a dog", "a bird", "a fish"]
    report = prompts.report()
    assert (report["count"], report["available"]) == (4, 4)
    assert (report["blank_lines_removed"], report["duplicates_removed"]) == (1, 2)


def test_a_part_of_a_file_is_drawn_by_seed_and_keeps_the_order_of_the_file(tmp_path: Path):
    path = tmp_path / "many.txt"
    path.write_text("\n".join(f"prompt {number:03d}" for number in range(200)), encoding="utf-8")
    one, same, other = (draw_prompts(from_file(path, 20, seed)).table["text"].tolist() for seed in (1, 1, 2))
    assert one == same == sorted(one)
    assert one != other


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_gives_text_and_style(tmp_path: Path, suffix: str):
    path = tmp_path / f"prompts{suffix}"
    table = pd.DataFrame({"text": ["a cat", " a dog", None], "style": ["x", "y", "x"], "other": [1, 2, 3]})
    table.to_csv(path, index=False) if suffix == ".csv" else table.to_parquet(path, index=False)
    report = draw_prompts(from_file(path, 2)).report()
    assert report["by_style"] == {"x": 1, "y": 1}
    assert report["blank_lines_removed"] == 1


def test_what_is_written_is_read_back(tmp_path: Path, lines: Path):
    prompts = draw_prompts(from_file(lines, 3))
    write_prompts(prompts, tmp_path / "out" / "prompts.parquet")
    pd.testing.assert_frame_equal(read_prompts(tmp_path / "out" / "prompts.parquet"), prompts.table)
    assert json.loads((tmp_path / "out" / "report.json").read_text())["count"] == 3
    assert not list((tmp_path / "out").glob("*.partial"))


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"absent\.txt: not found\. prompts\.path must name"):
        draw_prompts(from_file(tmp_path / "absent.txt", 1))


def test_a_table_without_a_text_column_names_the_columns_it_has(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    pd.DataFrame({"caption": ["a cat"], "id": [1]}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"prompts\.csv: no column `text`; it has: caption, id"):
        draw_prompts(from_file(path, 1))


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: str):
    path = tmp_path / "prompts.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"prompts\.txt: holds no prompt"):
        draw_prompts(from_file(path, 1))


@pytest.mark.parametrize("name", ["empty.csv", "torn.parquet", "binary.txt"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(b"" if name == "empty.csv" else b"PAR1\xff\xfe")
    with pytest.raises(DataError, match=rf"{name}: cannot be read"):
        draw_prompts(from_file(path, 1))


def test_fewer_prompts_than_wanted_are_refused_with_both_numbers(lines: Path):
    with pytest.raises(DataError, match=r"holds 4 different prompts, but prompts\.count = 5"):
        draw_prompts(from_file(lines, 5))


def test_reading_before_the_stage_has_run_names_the_stage(tmp_path: Path):
    with pytest.raises(MissingFileError, match="`l2p prompts` writes it"):
        read_prompts(tmp_path / "prompts.parquet")
