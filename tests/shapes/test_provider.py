"""The shapes world as a provider of training prompts."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from l2p.errors import DataError
from l2p.shapes.captions import STYLE_WEIGHTS, is_held_out, training_prompts
from l2p.shapes.provider import prompts


def test_the_same_seed_gives_the_same_prompts_and_another_seed_gives_others():
    assert prompts(50, 3) == prompts(50, 3)
    assert prompts(50, 3) != prompts(50, 4)


def test_a_larger_set_begins_with_the_smaller_one_so_that_a_corpus_can_grow():
    assert prompts(400, 3)[:150] == prompts(150, 3)


def test_no_prompt_occurs_twice():
    texts = [prompt["text"] for prompt in prompts(1000, 11)]
    assert len(set(texts)) == 1000


def test_a_small_set_has_the_mix_of_styles_of_the_world():
    share = STYLE_WEIGHTS["dense"] / sum(STYLE_WEIGHTS.values())
    counts = Counter(prompt["style"] for prompt in prompts(300, 0))
    assert set(counts) == set(STYLE_WEIGHTS)
    assert counts["dense"] / 300 == pytest.approx(share, abs=0.08)


def test_a_style_without_new_prompts_leaves_its_share_to_the_others():
    counts = Counter(prompt["style"] for prompt in prompts(2000, 1))
    assert counts.total() == 2000
    assert counts["single_object"] == 36  # all there are: 3 openings x (4 shapes x 5 backgrounds - 8 held out)


def test_every_prompt_is_a_training_prompt():
    everything = {prompt.text: prompt for prompt in training_prompts(20_000, random.Random(0))}
    known = [everything[prompt["text"]] for prompt in prompts(200, 5) if prompt["text"] in everything]
    assert len(known) > 100
    assert not any(is_held_out(prompt) for prompt in known)


def test_more_prompts_than_the_world_has_are_refused_at_once():
    with pytest.raises(DataError, match=r"prompts\.count = 9999999: the shapes world gives at most"):
        prompts(9_999_999, 0)
