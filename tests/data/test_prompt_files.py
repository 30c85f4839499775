"""Prompts of one's own: every form of file, their ids, and what is said of files that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from l2p.config import PromptsParams
from l2p.data.prompts import draw_prompts, prompt_id, write_prompts
from l2p.errors import DataError, MissingFileError

TEXTS = ["a cat, asleep", "ein Käfer", "NA"]


def drawn(path: Path, count: int = 3, **settings: str) -> pd.DataFrame:
    return draw_prompts(PromptsParams(provider="file", path=str(path), count=count, seed=0, **settings)).table


def as_lines(folder: Path) -> Path:
    path = folder / "prompts.txt"
    path.write_text("\n".join(TEXTS), encoding="utf-8")
    return path


def as_csv(folder: Path) -> Path:
    path = folder / "prompts.csv"
    pd.DataFrame({"text": TEXTS}).to_csv(path, index=False)
    return path


def as_json_lines(folder: Path) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS), encoding="utf-8")
    return path


def as_parquet(folder: Path) -> Path:
    path = folder / "prompts.parquet"
    pd.DataFrame({"text": TEXTS}).to_parquet(path)
    return path


def as_image_folder(folder: Path) -> Path:
    """The official dataset: images/ and metadata.csv with file_name and text."""
    (folder / "images").mkdir()
    names = [f"images/{number}.png" for number in range(len(TEXTS))]
    pd.DataFrame({"file_name": names, "text": TEXTS}).to_csv(folder / "metadata.csv", index=False)
    return folder


def as_dataset(folder: Path) -> Path:
    Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "set")
    return folder / "set"


def as_dataset_with_splits(folder: Path) -> Path:
    DatasetDict({"train": Dataset.from_dict({"text": TEXTS})}).save_to_disk(folder / "set")
    return folder / "set"


FORMS = [as_lines, as_csv, as_json_lines, as_parquet, as_image_folder, as_dataset, as_dataset_with_splits]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_prompts(tmp_path: Path, form):
    table = drawn(form(tmp_path))
    assert table["text"].tolist() == TEXTS
    assert table["prompt_id"].tolist() == [prompt_id(text) for text in TEXTS]


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog", encoding="utf-8-sig")
    assert drawn(path, 2)["text"].tolist() == ["a cat", "a dog"]


def test_columns_are_named_by_parameters_and_ids_are_kept_as_written(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    pd.DataFrame({"caption": TEXTS, "name": ["007", "b.1", "c_2"]}).to_csv(path, index=False)
    assert drawn(path, text_column="caption", id_column="name")["prompt_id"].tolist() == ["007", "b.1", "c_2"]


@pytest.mark.parametrize("name", ["../up", "a/b", "/etc", "", ".hidden", "a\\b", "x" * 65, "a b", "nul\0"])
def test_an_id_that_could_leave_a_folder_is_refused_with_its_line(tmp_path: Path, name: str):
    path = tmp_path / "prompts.jsonl"
    rows = [{"text": "a cat", "prompt_id": "good"}, {"text": "a dog", "prompt_id": name}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(DataError, match=r"prompts\.jsonl, line 2: id .* is not allowed"):
        drawn(path, 2)


def test_two_prompts_with_one_id_are_refused_with_both_lines(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text("text,prompt_id\na cat,one\na dog,two\na fox,ONE\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 4: id 'ONE' is already at .*line 2"):
        drawn(path, 2)


def test_a_comma_without_quotes_is_refused_with_its_line(tmp_path: Path):
    path = tmp_path / "prompts.csv"
    path.write_text("text\na cat\na dog, asleep\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"line 3 has more fields than the heading"):
        drawn(path, 2)


@pytest.mark.parametrize(("line", "said"), [("{torn", "line 2 is not valid JSON"), ("[1]", "line 2 is no JSON object")])
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str, said: str):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a cat"}\n' + line, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        drawn(path, 1)


def test_a_folder_without_a_table_names_what_it_may_hold(tmp_path: Path):
    with pytest.raises(DataError, match=r"holds none of metadata\.csv"):
        drawn(tmp_path, 1)


def test_a_split_that_is_not_there_names_those_that_are(tmp_path: Path):
    with pytest.raises(DataError, match="no split 'test'; it has: train"):
        drawn(as_dataset_with_splits(tmp_path), split="test")


def test_a_name_that_is_neither_file_nor_dataset_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(MissingFileError, match=r"'somebody/captions': no such file.*offline"):
        drawn(Path("somebody/captions"), 1)


def test_a_dataset_of_the_hub_is_read_without_its_images(monkeypatch: pytest.MonkeyPatch):
    rows = Dataset.from_dict({"text": TEXTS, "tags": [["a"], [], []]})
    monkeypatch.setattr("datasets.load_dataset", lambda name, split: rows)
    assert drawn(Path("somebody/captions"))["text"].tolist() == TEXTS


def test_blank_rows_are_rejected_with_their_place_and_written(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n a cat\na dog", encoding="utf-8")
    prompts = draw_prompts(PromptsParams(provider="file", path=str(path), count=2, seed=0))
    write_prompts(prompts, tmp_path / "out" / "prompts.parquet")
    rejected = pd.read_parquet(tmp_path / "out" / "rejected.parquet")
    assert rejected["reason"].tolist() == ["blank", "duplicate"]
    assert rejected["origin"].tolist() == [f"{path}, line 2", f"{path}, line 3"]
    assert (tmp_path / "out" / "card.png").read_bytes().startswith(b"\x89PNG")
