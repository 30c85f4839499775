"""Quality rules: an example of each, and that every rejection has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from l2p.config import PromptsParams, QualityParams, load_params
from l2p.data.prompting.candidates import Candidate
from l2p.data.prompting.quality import RULES, Gate
from l2p.data.prompts import draw_prompts, write_prompts
from l2p.errors import ConfigError, DataError, MissingFileError

ROOT = Path(__file__).parents[2]
FOX = "A red fox with a torn ear crosses a frozen river at first light, seen from a low wooden bridge."


def reasons(settings: dict[str, Any], *texts: str) -> list[str | None]:
    """The reason of each text's rejection, None where it is let in."""
    gate = Gate(QualityParams.model_validate(settings), count=10)
    found: list[str | None] = []
    for number, text in enumerate(texts):
        admitted = gate.admit(Candidate(text, "animals", f"line {number}"))
        found.append(None if admitted else gate.rejections[-1].reason)
    return found


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation_metadata.jsonl"
    prompts = ["a photo of a bench", "a photo of a brown bear sitting to the left of a very old blue car"]
    path.write_text("\n".join(json.dumps({"tag": "x", "prompt": text}) for text in prompts), encoding="utf-8")
    return path


def test_no_rule_but_the_always_sensible_ones_is_on_by_default():
    assert reasons({}, "a cat", "A  CAT", " ", "a\x07cat", "eine Katze auf dem Sofa") == [
        None,
        "duplicate",
        "blank",
        "control_characters",
        None,
    ]


def test_the_length_window_includes_its_ends():
    window = {"min_length_chars": 3, "max_length_chars": 5}
    assert reasons(window, "ab", "abc", "abcde", "abcdef") == ["too_short", None, None, "too_long"]


def test_texts_in_another_language_are_rejected_and_short_uncertain_ones_pass():
    texts = (FOX, "Ein alter Fischer mit Pfeife sitzt am Hafen und flickt seine Netze", "une chatte rousse sur un banc")
    assert reasons({"language": "en"}, *texts, "a bench", "茶碗の中の小さな金魚と夏の光") == [
        None,
        "language",
        "language",
        None,
        "language",
    ]


def test_an_unknown_language_is_refused():
    with pytest.raises(ConfigError, match=r"prompts\.quality\.language = 'qq': not known"):
        reasons({"language": "qq"}, FOX)


def test_a_text_that_differs_by_a_word_is_a_near_duplicate_and_another_is_not():
    close = FOX.replace("low", "high")
    far = "A harpist holding back a smile in a dim workshop, painted in cobalt and cream."
    assert reasons({"max_similarity": 0.6}, FOX, close, far) == [None, "near_duplicate", None]
    assert reasons({"max_similarity": 0.9}, FOX, close, far) == [None, None, None]


def test_blocked_phrases_are_found_as_whole_words_in_any_case_and_spacing(tmp_path: Path):
    path = tmp_path / "blocked.txt"
    path.write_text("# brands\nacme  corp # with a space\n\n", encoding="utf-8")
    settings = {"blocklist": ["ass"], "blocklist_path": str(path)}
    texts = ("a glass of water", "an ASS on a hill", "a van of Acme\tCorp", "acme corporation")
    assert reasons(settings, *texts) == [None, "blocklist", "blocklist", None]


def test_a_missing_blocklist_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match="blocklist_path"):
        reasons({"blocklist_path": str(tmp_path / "absent.txt")}, FOX)


def test_a_class_gets_no_more_than_its_share():
    assert reasons({"max_class_share": 0.2}, "one", "two", "three") == [None, None, "class_share"]


def test_a_prompt_that_holds_a_benchmark_prompt_is_rejected_and_smaller_overlaps_are_recorded(benchmark: Path):
    contamination = {"benchmarks": [str(benchmark)], "ngram_words": 4, "max_overlap": 0.5}
    held = "Here is a photo of a bench by the sea"
    copied = "a photo of a brown bear sitting to the left of a very old red car"
    part = "a small brown bear sitting to the left of nothing in particular"
    gate = Gate(QualityParams.model_validate({"contamination": contamination}), count=3)
    assert [gate.admit(Candidate(text)) for text in (held, copied, part)] == [False, False, True]
    assert {rejection.reason for rejection in gate.rejections} == {"contamination"}
    assert "0.85 of 'a photo of a brown bear" in gate.rejections[1].detail
    report = gate.contamination()
    assert report is not None
    assert report["benchmarks"] == {str(benchmark): 2}
    assert report["accepted_with_overlap"] == 1
    assert report["examples"][0]["prompt"] == part


def test_without_a_limit_contamination_is_only_recorded(benchmark: Path):
    gate = Gate(QualityParams.model_validate({"contamination": {"benchmarks": [str(benchmark)]}}), count=1)
    assert gate.admit(Candidate("a photo of a bench"))
    assert (gate.contamination() or {})["largest_overlap"] == 1.0


def test_dense_prompts_are_read_from_the_folder_beside_the_official_table(tmp_path: Path):
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "1.txt").write_text(FOX, encoding="utf-8")
    (tmp_path / "dpg_bench.csv").write_text("item_id,proposition_id\n1,1\n", encoding="utf-8")
    contamination = {"benchmarks": [str(tmp_path / "dpg_bench.csv")], "max_overlap": 0.9}
    assert reasons({"contamination": contamination}, FOX.lower()) == ["contamination"]


def test_a_benchmark_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match="l2p benchmarks fetch"):
        reasons({"contamination": {"benchmarks": [str(tmp_path / "absent.jsonl")]}}, FOX)


def test_half_a_character_is_rejected_and_can_be_written(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "a cat"}\n{"text": "half \\ud800"}\n', encoding="utf-8")
    prompts = draw_prompts(PromptsParams(provider="file", path=str(path), count=1, seed=0))
    write_prompts(prompts, tmp_path / "out" / "prompts.parquet")
    assert prompts.rejected["reason"].tolist() == ["control_characters"]


def test_a_balanced_sample_of_a_file_gives_every_rejection_a_reason(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"text": f"prompt number {n}", "style": "many" if n < 40 else "few"} for n in range(50)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    quality = QualityParams(max_class_share=0.5)
    prompts = draw_prompts(PromptsParams(provider="file", path=str(path), count=16, seed=3, quality=quality))
    assert prompts.report()["by_style"] == {"few": 8, "many": 8}
    assert set(prompts.rejected["reason"]) == {"class_share"}


def test_too_few_accepted_prompts_say_why(tmp_path: Path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\na dog\na much longer prompt", encoding="utf-8")
    quality = QualityParams(max_length_chars=6)
    with pytest.raises(DataError, match=r"holds 2 different prompts \(rejected: 1 too_long\), but prompts\.count = 3"):
        draw_prompts(PromptsParams(provider="file", path=str(path), count=3, seed=0, quality=quality))


def test_a_stream_that_gives_nothing_acceptable_ends():
    quality = QualityParams(min_length_chars=1000)
    with pytest.raises(DataError, match=r"only 0 of prompts\.count = 5 prompts were accepted .*too_short"):
        draw_prompts(PromptsParams(provider="shapes", count=5, seed=0, quality=quality))


def test_the_rules_of_params_yaml_let_every_prompt_of_the_shapes_world_in():
    params = load_params(ROOT / "params.yaml").prompts
    prompts = draw_prompts(params)
    assert prompts.rejected.empty
    assert list(prompts.table.columns) == ["prompt_id", "text", "style"]
    bare = draw_prompts(PromptsParams(provider="shapes", count=params.count, seed=params.seed))
    assert prompts.table.equals(bare.table)
    assert prompts.report()["contamination"]["benchmarks"]["shapes"] > 100
    assert prompts.report()["contamination"]["largest_overlap"] < 1  # none of its benchmark is in the training set


def test_the_card_is_drawn_for_classes_of_any_name_and_number(tmp_path: Path):
    path = tmp_path / "prompts.jsonl"
    styles = ["$x$", "a " * 60, "snake_case", *map(str, range(40))]
    path.write_text("\n".join(json.dumps({"text": f"p {s}", "style": s}) for s in styles), encoding="utf-8")
    prompts = draw_prompts(PromptsParams(provider="file", path=str(path), count=len(styles), seed=0))
    write_prompts(prompts, tmp_path / "out" / "prompts.parquet")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["by_style"]["$x$"] == 1
    assert (tmp_path / "out" / "card.png").stat().st_size > 10_000


def test_the_rules_are_asked_in_one_order():
    assert RULES[0] == "blank"
    assert RULES[-1] == "near_duplicate"
