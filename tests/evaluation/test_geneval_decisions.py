"""GenEval's decisions on hand-made detections: every branch of presence, exclusion, colour and position."""

from __future__ import annotations

import numpy as np
import pytest

from l2p.evaluation.benchmark_data import Clause, GenEvalPrompt
from l2p.evaluation.geneval import decide, keep_detections, relations
from l2p.evaluation.judges.base import Box, Detection

NO_COLORS: list[str] = []


def seen(label: str, score: float = 0.95, box: Box = (0, 0, 10, 10)) -> Detection:
    return Detection(label, score, box)


def asked(*include: Clause, exclude: tuple[Clause, ...] = (), tag: str = "two_object") -> GenEvalPrompt:
    return GenEvalPrompt(0, tag, "a photo", include, exclude, {})


def correct(prompt: GenEvalPrompt, detections: list[Detection], colors: dict[Box, str] | None = None) -> bool:
    return decision(prompt, detections, colors)[0]


def decision(prompt, detections, colors=None) -> tuple[bool, str]:
    groups = keep_detections(detections, prompt.tag)
    made = decide(prompt, groups, lambda found: [(colors or {})[detection.box] for detection in found])
    return made.correct, made.reason


# --- which detections count -----------------------------------------------------------------------------------------


def test_a_detection_at_the_threshold_does_not_count_and_one_just_above_does():
    assert keep_detections([seen("dog", 0.3)], "single_object") == {}
    assert keep_detections([seen("dog", 0.3001)], "single_object")
    assert keep_detections([seen("dog", 0.9)], "counting") == {}
    assert keep_detections([seen("dog", 0.9001)], "counting")


def test_counting_ignores_what_the_other_tasks_accept():
    doubtful = [seen("dog", 0.95), seen("dog", 0.5)]
    assert len(keep_detections(doubtful, "counting")["dog"]) == 1
    assert len(keep_detections(doubtful, "colors")["dog"]) == 2


def test_only_the_sixteen_most_certain_of_each_class_are_kept_in_order():
    many = [seen("dog", 0.31 + 0.01 * n) for n in range(20)] + [seen("cat")]
    groups = keep_detections(many, "single_object")
    scores = [detection.score for detection in groups["dog"]]
    assert len(scores) == 16
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(0.5)
    assert len(groups["cat"]) == 1


def test_detections_of_equal_score_keep_the_detectors_order():
    boxes = [(float(n), 0.0, n + 5.0, 5.0) for n in range(20)]
    groups = keep_detections([seen("dog", 0.8, box) for box in boxes], "single_object")
    assert [detection.box for detection in groups["dog"]] == boxes[:16]


def test_the_limit_is_per_class_and_falls_on_the_least_certain_wherever_they_come():
    weak, strong = [seen("dog", 0.4) for _ in range(16)], [seen("dog", 0.9), seen("cat", 0.35)]
    groups = keep_detections([*weak, *strong], "two_object")
    assert [detection.score for detection in groups["dog"]] == [0.9] + [0.4] * 15
    assert len(groups["cat"]) == 1


def test_without_detections_there_are_no_groups():
    assert keep_detections([], "single_object") == {}
    assert keep_detections([seen("dog", 0.0), seen("cat", -1.0)], "counting") == {}


# --- presence and exclusion -----------------------------------------------------------------------------------------


def test_an_object_that_is_there_is_correct_even_twice():
    prompt = asked(Clause("dog", 1))
    assert correct(prompt, [seen("dog")])
    assert correct(prompt, [seen("dog"), seen("dog")])


def test_a_missing_object_is_named_in_the_reason():
    assert decision(asked(Clause("dog", 1), Clause("cat", 1)), [seen("dog")]) == (False, "expected cat>=1, found 0")


def test_all_faults_are_reported_together():
    _, reason = decision(asked(Clause("dog", 1), Clause("cat", 2)), [seen("cat")])
    assert reason.splitlines() == ["expected dog>=1, found 0", "expected cat>=2, found 1"]


@pytest.mark.parametrize(("count", "expected"), [(1, False), (2, True), (3, False), (4, False)])
def test_counting_needs_the_exact_number(count: int, expected: bool):
    prompt = asked(Clause("dog", 2), exclude=(Clause("dog", 3),), tag="counting")
    assert correct(prompt, [seen("dog", box=(n, 0, n + 1, 1)) for n in range(count)]) is expected


def test_an_excluded_class_fails_from_its_count_on():
    prompt = asked(Clause("dog", 1), exclude=(Clause("cat", 2),))
    assert correct(prompt, [seen("dog"), seen("cat")])
    assert decision(prompt, [seen("dog"), seen("cat"), seen("cat")]) == (False, "expected cat<2, found 2")


def test_counting_does_not_see_doubtful_objects_that_would_be_too_many():
    prompt = asked(Clause("dog", 2), exclude=(Clause("dog", 3),), tag="counting")
    sure, doubtful = [seen("dog", 0.95), seen("dog", 0.91)], [seen("dog", 0.9), seen("dog", 0.6)]
    assert correct(prompt, sure + doubtful)
    assert not correct(prompt, sure[:1] + doubtful)


def test_more_than_sixteen_objects_can_neither_be_found_nor_be_too_many():
    crowd = [seen("dog") for _ in range(40)]
    assert decision(asked(Clause("dog", 17)), crowd) == (False, "expected dog>=17, found 16")
    assert correct(asked(Clause("dog", 1), exclude=(Clause("dog", 17),)), crowd)
    assert not correct(asked(Clause("dog", 1), exclude=(Clause("dog", 16),)), crowd)


def test_an_excluded_class_that_is_absent_does_no_harm_and_its_fault_comes_last():
    prompt = asked(Clause("dog", 1), exclude=(Clause("cat", 1), Clause("car", 1)))
    assert correct(prompt, [seen("dog")])
    _, reason = decision(prompt, [seen("car"), seen("cat")])
    assert reason.splitlines() == ["expected dog>=1, found 0", "expected cat<1, found 1", "expected car<1, found 1"]


def test_a_prompt_that_asks_for_nothing_is_always_shown():
    assert decision(asked(), [seen("dog")]) == (True, "")


# --- colour ---------------------------------------------------------------------------------------------------------

FIRST, SECOND, THIRD = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)


def test_a_colour_is_asked_only_of_the_most_certain_objects():
    prompt = asked(Clause("car", 1, "red"), tag="colors")
    colors = {FIRST: "red", SECOND: "blue"}
    assert correct(prompt, [seen("car", 0.5, SECOND), seen("car", 0.9, FIRST)], colors)
    assert not correct(prompt, [seen("car", 0.9, SECOND), seen("car", 0.5, FIRST)], colors)


def test_every_counted_object_must_have_the_colour():
    prompt = asked(Clause("car", 2, "red"), tag="colors")
    detections = [seen("car", 0.9, FIRST), seen("car", 0.8, SECOND)]
    assert correct(prompt, detections, {FIRST: "red", SECOND: "red"})
    is_correct, reason = decision(prompt, detections, {FIRST: "red", SECOND: "blue"})
    assert (is_correct, reason) == (False, "expected red car>=2, found 1 red; and 1 red, 1 blue")


def test_a_missing_object_is_not_asked_for_its_colour():
    def never(found):
        raise AssertionError("asked for a colour")

    assert not decide(asked(Clause("car", 1, "red")), {}, never).correct


def test_swapped_colours_are_wrong():
    prompt = asked(Clause("car", 1, "red"), Clause("dog", 1, "blue"), tag="color_attr")
    detections = [seen("car", box=FIRST), seen("dog", box=SECOND)]
    assert correct(prompt, detections, {FIRST: "red", SECOND: "blue"})
    assert not correct(prompt, detections, {FIRST: "blue", SECOND: "red"})


def test_a_colour_that_is_not_asked_for_is_not_looked_at():
    prompt = asked(Clause("car", 1), Clause("dog", 1, "red"), tag="color_attr")
    assert correct(prompt, [seen("car", box=FIRST), seen("dog", box=SECOND)], {SECOND: "red"})


def test_of_equally_certain_objects_the_detectors_first_is_asked_for_its_colour():
    prompt, colors = asked(Clause("car", 1, "red"), tag="colors"), {FIRST: "red", SECOND: "blue"}
    assert correct(prompt, [seen("car", 0.9, FIRST), seen("car", 0.9, SECOND)], colors)
    assert not correct(prompt, [seen("car", 0.9, SECOND), seen("car", 0.9, FIRST)], colors)


def test_the_colours_of_all_objects_that_count_are_told():
    prompt = asked(Clause("car", 3, "red"), tag="color_attr")
    colors = {FIRST: "blue", SECOND: "red", THIRD: "blue"}
    found = [seen("car", 0.9, FIRST), seen("car", 0.8, SECOND), seen("car", 0.7, THIRD)]
    is_correct, reason = decision(prompt, found, colors)
    assert not is_correct
    head, _, told = reason.partition("; and ")
    assert head == "expected red car>=3, found 1 red"
    assert sorted(told.split(", ")) == ["1 red", "2 blue"]


# --- position -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 20, 10, 30), {"left of"}),
        ((40, 20, 50, 30), {"right of"}),
        ((20, 0, 30, 10), {"above"}),
        ((20, 40, 30, 50), {"below"}),
        ((0, 0, 10, 10), {"left of", "above"}),
        ((40, 40, 50, 50), {"right of", "below"}),
        ((20, 20, 30, 30), set()),  # the same place: no offset, no division by zero
        ((21, 20, 31, 30), set()),  # 1 < 0.1 * (10 + 10)
        ((22, 20, 32, 30), set()),  # exactly at the tolerance
        ((22.01, 20, 32.01, 30), set()),  # 0.01 beyond it, but far from half of the offset
        ((24.01, 20, 34.01, 30), {"right of"}),  # (4.01 - 2) / 4.01 > 0.5
        ((24, 20, 34, 30), set()),  # (4 - 2) / 4 is not above 0.5
        ((30, 20, 40, 30), {"right of"}),  # touching
    ],
)
def test_relations_of_two_boxes_of_side_ten_with_the_second_at_twenty(box: Box, expected: set[str]):
    assert relations(box, (20, 20, 30, 30)) == expected


def test_the_offset_is_normalised_before_the_tolerance_is_taken_off():
    # offset (10, 10): (10 - 2) / |(10, 10)| = 0.566 on both axes
    assert relations((10, 10, 20, 20), (0, 0, 10, 10)) == {"right of", "below"}
    # offset (30, 10): 28 / 31.6 = 0.885 and 8 / 31.6 = 0.25
    assert relations((30, 10, 40, 20), (0, 0, 10, 10)) == {"right of"}


def test_the_tolerance_grows_with_both_sizes():
    assert relations((10, 0, 20, 10), (0, 0, 10, 10)) == {"right of"}
    assert relations((30, 0, 130, 100), (0, 0, 100, 100)) == set()  # offset 30, tolerance 20: 10 / 30


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((10, 10, 20, 20), {"left of", "above"}),  # corners touch: 10 - 2 of 14.1 on both axes
        ((10, 20, 20, 30), {"left of"}),  # edges touch
        ((11, 20, 21, 30), {"left of"}),  # overlap by one pixel
        ((20, 10, 30, 20), {"above"}),
        ((15, 15, 35, 35), set()),  # around it, same centre
        ((22, 22, 24, 24), set()),  # inside it, within 0.1 * (2 + 10)
        ((20, 20, 22, 30), {"left of"}),  # inside it at the edge: (4 - 1.2) / 4 = 0.7
        ((20, 29, 30, 30), {"below"}),  # inside it at the bottom: (4.5 - 1.1) / 4.5
        ((0, 0, 0, 0), {"left of", "above"}),  # a box without size has a place all the same
    ],
)
def test_boxes_may_touch_overlap_and_hold_each_other(box: Box, expected: set[str]):
    assert relations(box, (20, 20, 30, 30)) == expected


MIRRORED = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
TRANSPOSED = {"left of": "above", "right of": "below", "above": "left of", "below": "right of"}


@pytest.mark.parametrize("seed", range(20))
def test_relations_turn_round_with_the_boxes_and_do_not_depend_on_scale(seed: int):
    corners = np.random.default_rng(seed).integers(0, 64, (2, 2, 2))
    one, other = (tuple(np.sort(box, axis=0).ravel().tolist()) for box in corners)
    holding = relations(one, other)
    assert relations(other, one) == {MIRRORED[relation] for relation in holding}
    assert relations(tuple(8 * value for value in one), tuple(8 * value for value in other)) == holding
    x_y_swapped = [(y0, x0, y1, x1) for x0, y0, x1, y1 in (one, other)]
    assert relations(*x_y_swapped) == {TRANSPOSED[relation] for relation in holding}


def on_the_left(count: int = 1) -> GenEvalPrompt:
    return asked(Clause("cat", count), Clause("dog", count, position=("left of", 0)), tag="position")


def test_position_holds_one_way_only():
    left, right = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    assert correct(on_the_left(), [seen("dog", box=left), seen("cat", box=right)])
    assert decision(on_the_left(), [seen("cat", box=left), seen("dog", box=right)]) == (
        False,
        "expected dog left of target, found right of target",
    )


def test_too_close_is_no_relation():
    _, reason = decision(on_the_left(), [seen("dog", box=(0, 0, 10, 10)), seen("cat", box=(1, 0, 11, 10))])
    assert reason == "expected dog left of target, found no relation to target"


def test_without_its_target_a_position_is_wrong():
    _, reason = decision(on_the_left(), [seen("dog")])
    assert reason.splitlines() == ["expected cat>=1, found 0", "no target for dog to be left of"]


def test_a_target_of_the_wrong_colour_is_no_target():
    prompt = asked(Clause("cat", 1, "black"), Clause("dog", 1, position=("left of", 0)), tag="position")
    detections = [seen("dog", box=FIRST), seen("cat", box=THIRD)]
    assert correct(prompt, detections, {THIRD: "black"})
    assert "no target for dog" in decision(prompt, detections, {THIRD: "white"})[1]


def test_only_the_most_certain_candidates_must_stand_right():
    cat, right, wrong = (50.0, 0.0, 60.0, 10.0), (0.0, 0.0, 10.0, 10.0), (100.0, 0.0, 110.0, 10.0)
    dogs = [seen("dog", 0.5, wrong), seen("dog", 0.9, right)]  # out of order: sorting is ours
    assert correct(on_the_left(), [*dogs, seen("cat", box=cat)])
    swapped = [seen("dog", 0.9, wrong), seen("dog", 0.5, right)]
    assert not correct(on_the_left(), [*swapped, seen("cat", box=cat)])


def test_all_pairs_must_satisfy_the_relation():
    cats = [seen("cat", 0.9, (50, 0, 60, 10)), seen("cat", 0.8, (100, 0, 110, 10))]
    good = [seen("dog", 0.9, (0, 0, 10, 10)), seen("dog", 0.8, (20, 0, 30, 10))]
    between = [seen("dog", 0.9, (0, 0, 10, 10)), seen("dog", 0.8, (75, 0, 85, 10))]
    assert correct(on_the_left(2), [*cats, *good])
    assert not correct(on_the_left(2), [*cats, *between])


def test_a_position_may_refer_to_any_earlier_clause():
    prompt = asked(Clause("cat", 1), Clause("car", 1), Clause("dog", 1, position=("above", 1)), tag="position")
    boxes = {"cat": (0, 80, 10, 90), "car": (50, 50, 60, 60), "dog": (50, 0, 60, 10)}
    assert correct(prompt, [seen(label, box=box) for label, box in boxes.items()])
    boxes["dog"], boxes["car"] = boxes["car"], boxes["dog"]
    assert not correct(prompt, [seen(label, box=box) for label, box in boxes.items()])


def test_the_place_is_not_asked_of_an_object_of_the_wrong_colour():
    prompt = asked(Clause("cat", 1), Clause("dog", 1, "red", ("left of", 0)), tag="position")
    detections = [seen("cat", box=THIRD), seen("dog", box=FIRST)]
    assert correct(prompt, detections, {FIRST: "red"})
    _, reason = decision(prompt, [seen("cat", box=FIRST), seen("dog", box=THIRD)], {THIRD: "blue"})
    assert reason == "expected red dog>=1, found 0 red; and 1 blue"
    _, reason = decision(prompt, [seen("cat", box=FIRST), seen("dog", box=THIRD)], {THIRD: "red"})
    assert reason == "expected dog left of target, found right of target"


def test_an_object_that_stands_wrong_is_no_target_for_the_next():
    prompt = asked(
        Clause("cat", 1),
        Clause("dog", 1, position=("left of", 0)),
        Clause("car", 1, position=("left of", 1)),
        tag="position",
    )
    assert correct(prompt, [seen("cat", box=THIRD), seen("dog", box=SECOND), seen("car", box=FIRST)])
    _, reason = decision(prompt, [seen("cat", box=FIRST), seen("dog", box=THIRD), seen("car", box=SECOND)])
    assert reason.splitlines() == [
        "expected dog left of target, found right of target",
        "no target for car to be left of",
    ]


def test_several_clauses_may_stand_around_one_target_in_any_order():
    prompt = asked(
        Clause("cat", 1),
        Clause("dog", 1, position=("right of", 0)),
        Clause("car", 1, position=("left of", 0)),
        tag="position",
    )
    seen_in_any_order = [seen("car", 0.99, FIRST), seen("dog", 0.5, THIRD), seen("cat", 0.7, SECOND)]
    assert correct(prompt, seen_in_any_order)
    assert not correct(prompt, [seen("car", 0.99, THIRD), seen("dog", 0.5, FIRST), seen("cat", 0.7, SECOND)])


def test_the_most_certain_target_alone_is_the_target():
    dog, near, far = seen("dog", box=SECOND), seen("cat", 0.9, FIRST), seen("cat", 0.8, THIRD)
    assert not correct(on_the_left(), [dog, near, far])
    assert correct(on_the_left(), [dog, seen("cat", 0.7, FIRST), far])


def test_two_clauses_of_one_class_are_the_same_object_which_stands_nowhere():
    prompt = asked(Clause("dog", 1), Clause("dog", 1, position=("left of", 0)), tag="position")
    _, reason = decision(prompt, [seen("dog", 0.9, FIRST), seen("dog", 0.8, THIRD)])
    assert reason == "expected dog left of target, found no relation to target"


def test_the_first_pair_that_stands_wrong_is_the_only_one_told():
    wrong = [seen("cat", 0.9, FIRST), seen("cat", 0.8, FIRST), seen("dog", 0.9, THIRD), seen("dog", 0.8, THIRD)]
    assert decision(on_the_left(2), wrong)[1].count("\n") == 0


def test_a_diagonal_place_holds_both_ways_and_is_told_both_ways():
    dog, cat = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    assert correct(on_the_left(), [seen("dog", box=dog), seen("cat", box=cat)])
    _, reason = decision(on_the_left(), [seen("dog", box=cat), seen("cat", box=dog)])
    assert reason == "expected dog left of target, found below and right of target"


def test_boxes_of_any_number_type_are_compared():
    box = tuple(np.float32(value) for value in (0, 0, 10, 10))
    assert relations(box, (50, 0, 60, 10)) == {"left of"}
