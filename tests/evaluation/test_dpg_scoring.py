"""DPG-Bench: the cascade of zeros, category scores, and what the official protocol does differently."""

from __future__ import annotations

import random

import pytest

from l2p.evaluation.benchmark_data import DpgData, DpgItem, DpgQuestion
from l2p.evaluation.dpg import DpgProtocol, Tile, cascade, item_scores, score_answers


def question(number: int, *parents: int, row: int = 9, kind: str = "entity - whole") -> DpgQuestion:
    return DpgQuestion(number, parents, f"{kind} (thing {number})", f"Is there thing {number}?", row)


def answers(text: str) -> dict[int, str]:
    """ "yny" -> {1: "yes", 2: "no", 3: "yes"}."""
    return {number: {"y": "yes", "n": "no"}[sign] for number, sign in enumerate(text, start=1)}


CHAIN = [question(1), question(2, 1), question(3, 2), question(4)]


@pytest.mark.parametrize(
    ("given", "expected", "zeroed"),
    [
        ("yyyy", [1, 1, 1, 1], ()),
        ("nyyy", [0, 0, 0, 1], (2, 3)),
        ("ynyy", [1, 0, 0, 1], (3,)),
        ("yyny", [1, 1, 0, 1], ()),
        ("yyyn", [1, 1, 1, 0], ()),
        ("nnnn", [0, 0, 0, 0], ()),
    ],
)
def test_a_no_zeroes_everything_that_depends_on_it(given: str, expected: list[float], zeroed: tuple[int, ...]):
    scores, changed = cascade(CHAIN, answers(given))
    assert list(scores.values()) == expected
    assert changed == zeroed


def test_one_of_several_parents_is_enough_to_zero():
    asked = [question(1), question(2), question(3, 1, 2)]
    assert cascade(asked, answers("yyy"))[0][3] == 1
    assert cascade(asked, answers("yny"))[0][3] == 0


def test_zeroing_follows_the_order_of_the_table():
    backwards = [question(1, 2), question(2, 3), question(3)]
    assert list(cascade(backwards, answers("yyn"))[0].values()) == [1, 0, 0]


@pytest.mark.parametrize("answer", ["Yes", "yes.", " yes", "maybe", ""])
def test_only_exactly_yes_scores(answer: str):
    assert cascade([question(1)], {1: answer})[0][1] == 0


def test_an_image_without_answers_scores_zero():
    assert set(cascade(CHAIN, None)[0].values()) == {0}


def data(*items: DpgItem) -> DpgData:
    return DpgData("test", items)


def two_items() -> DpgData:
    first = (
        question(1, row=0),
        question(2, 1, row=1, kind="attribute - color"),
    )
    second = (
        question(1, row=2),
        question(2, 1, row=3, kind="attribute - color"),
        question(3, row=4, kind="global"),
    )
    return data(DpgItem(0, "a", "prompt a", first), DpgItem(1, "b", "prompt b", second))


def tiles(item: str, *texts: str | None) -> list[Tile]:
    return [
        Tile(
            item, number, f"images/{item}.png", None if text is None else answers(text), None if text else "unreadable"
        )
        for number, text in enumerate(texts)
    ]


def test_the_fixed_protocol_is_the_mean_over_items_of_tiles_of_questions():
    result = score_answers(two_items(), [*tiles("a", "yy", "yn"), *tiles("b", "nyy", "yyy")], "fixed")
    assert result.items.values == {"a": pytest.approx(0.75), "b": pytest.approx((1 / 3 + 1) / 2)}
    assert result.items.overall() == pytest.approx((0.75 + 2 / 3) / 2)
    assert result.dropped == []


def test_category_scores_use_the_answers_before_zeroing_and_all_images():
    result = score_answers(two_items(), [*tiles("a", "yy", "yn"), *tiles("b", "nyy", "yyy")], "fixed")
    assert result.categories == {"attribute": 0.75, "entity": 0.75, "global": 1.0}
    assert result.categories_detailed == {"attribute - color": 0.75, "entity - whole": 0.75, "global": 1.0}


def test_the_official_protocol_skips_the_first_row_and_loses_the_item_that_depends_on_it():
    result = score_answers(two_items(), [*tiles("a", "yy", "yy"), *tiles("b", "nyy", "yyy")], "official")
    assert result.items.values == {"b": pytest.approx((1 / 3 + 1) / 2)}
    assert [failure.image for failure in result.dropped] == ["a"]
    assert "first row" in result.dropped[0].reason
    assert [tile.score for tile in result.tiles if tile.item_id == "a"] == [None, None]


def test_the_official_protocol_scores_an_item_that_can_do_without_its_first_row():
    alone = data(DpgItem(0, "a", "prompt", (question(1, row=0), question(2, row=1), question(3, 2, row=2))))
    assert score_answers(alone, tiles("a", "nyn"), "official").items.values == {"a": 0.5}
    assert score_answers(alone, tiles("a", "nyn"), "fixed").items.values == {"a": pytest.approx(1 / 3)}


def test_the_official_category_scores_only_see_the_last_image():
    result = score_answers(two_items(), [*tiles("a", "yy", "yy"), *tiles("b", "yyy", "nny")], "official")
    assert result.categories == {"attribute": 0.0, "entity": 0.0, "global": 1.0}


def test_a_failed_image_counts_as_zero_when_fixed_and_drops_its_item_when_official():
    answered = [*tiles("a", "yy", "yy"), *tiles("b", "yyy", None)]
    fixed = score_answers(two_items(), answered, "fixed")
    assert fixed.items.values == {"a": 1.0, "b": 0.5}
    assert fixed.categories["global"] == 0.5
    official = score_answers(two_items(), answered, "official")
    assert [failure.image for failure in official.dropped] == ["a", "b"]
    assert official.items.values == {}


@pytest.mark.parametrize("protocol", ["official", "fixed"])
def test_the_order_in_which_images_are_answered_changes_nothing(protocol: DpgProtocol):
    """The official script's category scores depend on which process finished last."""
    answered = [*tiles("a", "yy", "yn", "nn"), *tiles("b", "nyy", "yyn", "yny")]
    expected = score_answers(two_items(), answered, protocol)
    for seed in range(6):
        shuffled = random.Random(seed).sample(answered, len(answered))
        assert score_answers(two_items(), shuffled, protocol) == expected


def test_an_item_that_has_only_the_first_row_is_lost_by_the_official_protocol():
    only = data(DpgItem(0, "a", "prompt", (question(1, row=0),)), DpgItem(1, "b", "prompt", (question(1, row=1),)))
    official = score_answers(only, [*tiles("a", "y"), *tiles("b", "y")], "official")
    assert [failure.reason for failure in official.dropped] == [
        "its only question is on the first row, which the official script skips"
    ]
    assert official.items.values == {"b": 1.0}


def test_what_was_scored_is_named_with_its_category():
    (first, *_) = score_answers(two_items(), [*tiles("a", "yy"), *tiles("b", "nyy")], "fixed").tiles
    assert first.categories == {1: "entity - whole", 2: "attribute - color"}
    assert set(first.questions) == {1, 2}


def test_item_scores_are_read_back_from_the_rows():
    rows = [
        {"item_id": "a", "score": 1.0},
        {"item_id": "a", "score": 0.5},
        {"item_id": "b", "score": None},
    ]
    assert item_scores(rows).values == {"a": 0.75}
