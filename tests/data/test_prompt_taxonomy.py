"""The taxonomy: its counts, the grammar's descriptions, and taxonomies of one's own."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from l2p.config import ContaminationParams, PromptsParams, QualityParams, TaxonomyParams
from l2p.data.prompts import draw_prompts
from l2p.data.taxonomy.grammar import describe
from l2p.data.taxonomy.hierarchy import load_taxonomy
from l2p.errors import ConfigError, DataError, MissingFileError

STRICT = QualityParams(
    min_length_chars=200,
    max_length_chars=350,
    language="en",
    max_similarity=0.5,
    max_class_share=0.07,
    contamination=ContaminationParams(benchmarks=("shapes",), max_overlap=0.9),
)
OWN = {
    "main_class": "sea",
    "subclasses": {
        "fish": {
            "classes": ["a cod", "a sole"],
            "actions": ["swimming"],
            "settings": ["in a net"],
            "details": ["silver scales", "a round eye"],
        }
    },
}


def grammar(count: int, seed: int = 11, **settings: object) -> PromptsParams:
    return PromptsParams.model_validate({"provider": "taxonomy", "count": count, "seed": seed} | settings)


def own_taxonomy(folder: Path, content: dict) -> TaxonomyParams:
    (folder / "sea.json").write_text(json.dumps(content), encoding="utf-8")
    return TaxonomyParams(path=str(folder), min_length_chars=60, max_length_chars=350)


def test_it_has_4_main_classes_17_subclasses_and_more_than_1000_fine_classes():
    taxonomy = load_taxonomy(None)
    subclasses = [group for main in taxonomy.main_classes for group in main.subclasses.values()]
    fine = [name for group in subclasses for name in group.classes]
    assert (len(taxonomy.main_classes), len(subclasses)) == (4, 17)
    assert len(fine) == len(set(fine)) >= 1000
    assert min(len(group.classes) for group in subclasses) >= 60


def test_ten_thousand_descriptions_are_different_and_of_the_wanted_length():
    subjects = load_taxonomy(None).subjects(11)
    texts = {
        describe(subject, random.Random(number), length_chars=(200, 350))
        for number, subject in enumerate(islice(subjects, 10_000))
    }
    assert len(texts) == 10_000
    assert all(200 <= len(text) <= 350 for text in texts)
    assert not [text for text in texts if "{" in text or "  " in text]


def test_descriptions_pass_the_quality_rules_and_are_balanced():
    prompts = draw_prompts(grammar(510, quality=STRICT))
    assert prompts.rejected.empty
    report = prompts.report()
    assert set(report["by_style"].values()) == {30}
    assert report["fine_classes"] == 510
    assert list(prompts.table.columns) == ["prompt_id", "text", "style", "main_class", "fine_class"]


def test_the_draw_depends_on_the_seed_alone_and_a_larger_one_begins_alike():
    first, same, larger, other = (
        draw_prompts(grammar(count, seed)).table["text"].tolist()
        for count, seed in ((50, 1), (50, 1), (80, 1), (50, 2))
    )
    assert first == same == larger[:50]
    assert not set(first) & set(other)


def test_no_fine_class_comes_again_before_its_subclass_has_shown_all():
    seen = list(islice(load_taxonomy(None).subjects(0), 17 * 60))
    assert len({subject.fine_class for subject in seen}) == 17 * 60


def test_a_taxonomy_of_ones_own_is_read(tmp_path: Path):
    prompts = draw_prompts(grammar(6, taxonomy=own_taxonomy(tmp_path, OWN)))
    assert set(prompts.table["fine_class"]) == {"a cod", "a sole"}
    assert set(prompts.table["main_class"]) == {"sea"}


def test_a_misspelled_field_is_named_with_its_file(tmp_path: Path):
    wrong = {"main_class": "sea", "subclasses": {"fish": {"clases": ["a cod"]}}}
    with pytest.raises(ConfigError, match=r"sea\.json: unknown key `subclasses\.fish\.clases`"):
        draw_prompts(grammar(1, taxonomy=own_taxonomy(tmp_path, wrong)))


def test_the_grammar_says_which_words_it_lacks(tmp_path: Path):
    bare = {"main_class": "sea", "subclasses": {"fish": {"classes": ["a cod"]}}}
    with pytest.raises(DataError, match="sea > fish: the grammar needs 1 or more words in `actions`"):
        draw_prompts(grammar(1, taxonomy=own_taxonomy(tmp_path, bare)))


def test_a_fine_class_in_two_places_is_refused(tmp_path: Path):
    own_taxonomy(tmp_path, OWN)
    (tmp_path / "more.json").write_text(json.dumps(OWN | {"main_class": "market"}), encoding="utf-8")
    with pytest.raises(DataError, match="'sea > fish > a cod' is already at 'market > fish > a cod'"):
        load_taxonomy(str(tmp_path))


@pytest.mark.parametrize("content", ["{torn", "[]"])
def test_a_file_that_is_no_json_object_is_named(tmp_path: Path, content: str):
    (tmp_path / "sea.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"sea\.json: "):
        load_taxonomy(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"prompts\.taxonomy\.path"):
        load_taxonomy(str(tmp_path))


def test_a_length_that_the_words_cannot_reach_is_refused():
    taxonomy = TaxonomyParams(min_length_chars=2000, max_length_chars=3000)
    with pytest.raises(DataError, match="no description of 2000 to 3000 characters"):
        draw_prompts(grammar(1, taxonomy=taxonomy))
