"""Loading the official benchmark files, and what is said of broken ones."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.benchmark_data import load_dpg, load_geneval

OFFICIAL_GENEVAL = Path(__file__).parents[3] / "shared" / "benchmarks" / "geneval" / "evaluation_metadata.jsonl"

GOOD = {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"}


def geneval_file(folder: Path, *lines: object) -> str:
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return str(path)


def without(line: dict, key: str) -> dict:
    return {name: value for name, value in line.items() if name != key}


@pytest.mark.skipif(not OFFICIAL_GENEVAL.is_file(), reason=f"the official GenEval file is not at {OFFICIAL_GENEVAL}")
def test_the_official_geneval_file_loads_with_553_prompts(tmp_path: Path):
    data = load_geneval(str(OFFICIAL_GENEVAL), tmp_path)
    assert Counter(prompt.tag for prompt in data.prompts) == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    assert [prompt.index for prompt in data.prompts] == list(range(553))
    assert all(bool(prompt.exclude) == (prompt.tag == "counting") for prompt in data.prompts)


def test_a_line_becomes_clauses(tmp_path: Path):
    line = {
        "tag": "position",
        "include": [{"class": "cat", "count": 1}, {"class": "dog", "count": 2, "position": ["left of", 0]}],
        "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo",
    }
    (prompt,) = load_geneval(geneval_file(tmp_path, line), tmp_path).prompts
    assert prompt.include[1].position == ("left of", 0)
    assert prompt.exclude[0].count == 3
    assert prompt.metadata == line


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{not json", "not valid JSON"),
        ("[]", "expected an object"),
        (GOOD | {"tag": "colours"}, "unknown tag 'colours'"),
        (without(GOOD, "prompt"), "`prompt` is missing"),
        (GOOD | {"prompt": " "}, "`prompt` is empty"),
        (GOOD | {"include": []}, "`include` is empty"),
        (GOOD | {"include": {}}, "expected a list of clauses"),
        (GOOD | {"inclde": []}, "unknown key `inclde`"),
        (GOOD | {"include": [{"class": "car"}]}, r"include\[0\]: `count` is missing"),
        (GOOD | {"include": [{"class": "car", "count": 0}]}, "`count` is 0"),
        (GOOD | {"include": [{"class": "car", "count": 1, "colour": "red"}]}, "unknown key `colour`"),
        (GOOD | {"include": [{"class": "car", "count": 1, "color": "mauve"}]}, "unknown colour 'mauve'"),
        (GOOD | {"include": [{"class": "car", "count": 1, "position": ["beside", 0]}]}, "`position` is"),
        (GOOD | {"include": [{"class": "car", "count": 1, "position": ["above", 0]}]}, "does not come before"),
        (
            GOOD | {"include": [{"class": "car", "count": 1, "position": ["above", 1]}, {"class": "a", "count": 1}]},
            "clause 1",
        ),
        (GOOD | {"exclude": [{"class": "car", "count": 2, "color": "red"}]}, "exclude.*unknown key `color`"),
    ],
)
def test_a_broken_geneval_line_is_named(tmp_path: Path, broken: object, said: str):
    with pytest.raises(EvaluationError, match=said) as error:
        load_geneval(geneval_file(tmp_path, GOOD, "", broken), tmp_path)
    assert "line 3" in str(error.value)


def test_an_empty_geneval_file_is_refused(tmp_path: Path):
    with pytest.raises(EvaluationError, match="empty"):
        load_geneval(geneval_file(tmp_path, ""), tmp_path)


@pytest.mark.parametrize("load", [load_geneval, load_dpg])
def test_neither_a_known_name_nor_a_file(load, tmp_path: Path):
    with pytest.raises(MissingFileError, match="shapes"):
        load("shape", tmp_path)


ROWS = [
    ("a", 1, "0", "entity - whole (car)", "Is there a car?"),
    ("a", 2, "1", "attribute - color (car, red)", "Is the car red?"),
    ("b", 1, "0", "global - style (sketch)", "Is it a sketch?"),
]
COLUMNS = ["item_id", "proposition_id", "dependency", "tuple", "question_natural_language"]


def dpg_file(folder: Path, rows: list[tuple], columns: list[str] = COLUMNS, prompts: str = "ab") -> str:
    (folder / "prompts").mkdir()
    for item in prompts:
        (folder / "prompts" / f"{item}.txt").write_text(f"prompt {item}\n", encoding="utf-8")
    with (folder / "dpg_bench.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([columns, *rows])
    return str(folder / "dpg_bench.csv")


def test_a_dpg_table_becomes_items_with_question_graphs(tmp_path: Path):
    data = load_dpg(dpg_file(tmp_path, ROWS), tmp_path)
    assert [(item.item_id, item.prompt, len(item.questions)) for item in data.items] == [
        ("a", "prompt a", 2),
        ("b", "prompt b", 1),
    ]
    second = data.items[0].questions[1]
    assert (second.parents, second.category, second.broad_category) == ((1,), "attribute - color", "attribute")
    assert [question.row for item in data.items for question in item.questions] == [0, 1, 2]


def test_the_digest_covers_the_prompts_too(tmp_path: Path):
    path = dpg_file(tmp_path, ROWS)
    before = load_dpg(path, tmp_path).digest
    (tmp_path / "prompts" / "b.txt").write_text("another prompt\n", encoding="utf-8")
    assert load_dpg(path, tmp_path).digest != before


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (("b", 2, "1,7", "t", "Q?"), "line 5, column `dependency`: item 'b' has no proposition 7"),
        (("b", 2, "x", "t", "Q?"), "line 5, column `dependency`: 'x' is not a whole number"),
        (("b", "2,3", "0", "t", "Q?"), "line 5, column `proposition_id`: expected one number"),
        (("b", 2, "", "t", "Q?"), "line 5: column `dependency` is empty"),
        (("b", 2, "0", "t", ""), "line 5: column `question_natural_language` is empty"),
        (("b", 1, "0", "t", "Q?"), "line 5: proposition_id 1 of item 'b' is already on line 4"),
    ],
)
def test_a_broken_dpg_row_is_named(tmp_path: Path, row: tuple, said: str):
    with pytest.raises(EvaluationError, match=said):
        load_dpg(dpg_file(tmp_path, [*ROWS, row]), tmp_path)


def test_a_wrong_column_is_named(tmp_path: Path):
    path = dpg_file(tmp_path, ROWS, columns=["item_id", "proposition", "dependency", "tuple", "question"])
    with pytest.raises(EvaluationError, match="line 1: column `proposition_id` is missing; found item_id, proposition"):
        load_dpg(path, tmp_path)


def test_a_table_without_questions_is_refused(tmp_path: Path):
    with pytest.raises(EvaluationError, match="holds no questions"):
        load_dpg(dpg_file(tmp_path, []), tmp_path)


def test_a_missing_prompt_file_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"prompts/b\.txt"):
        load_dpg(dpg_file(tmp_path, ROWS, prompts="a"), tmp_path)
