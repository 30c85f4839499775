"""Every image once an epoch, one size a step, and whole prompts held out."""

from __future__ import annotations

import pytest

from l2p.errors import DataError
from l2p.training.order import Order, hold_out

SQUARE, WIDE, TALL = (64, 64), (64, 96), (96, 64)


def test_every_image_is_seen_once_an_epoch_in_another_order_each_time() -> None:
    order = Order(range(12), [SQUARE] * 12, batch_size=4, seed=0)
    seen = [row for step in range(9) for row in order.rows(step)]
    epochs = [seen[start : start + 12] for start in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_may_reach_over_the_end_of_an_epoch() -> None:
    order = Order(range(10), [SQUARE] * 10, batch_size=4, seed=0)
    seen = [row for step in range(5) for row in order.rows(step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


def test_a_mixed_corpus_has_one_size_a_step_and_all_sizes_advance_alike() -> None:
    sizes = [SQUARE] * 30 + [WIDE] * 12 + [TALL] * 6
    order = Order(range(48), sizes, batch_size=6, seed=3)
    steps = [order.rows(step) for step in range(8)]  # 48 images: one epoch
    assert all(len({sizes[row] for row in rows}) == 1 for rows in steps)
    assert sorted(row for rows in steps for row in rows) == list(range(48))


def test_rows_of_a_step_do_not_depend_on_which_were_asked_for_before() -> None:
    sizes = [SQUARE] * 10 + [WIDE] * 7
    forward, backward = (Order(range(17), sizes, batch_size=4, seed=1) for _ in range(2))
    assert [forward.rows(step) for step in range(20)] == [backward.rows(step) for step in reversed(range(20))][::-1]


def test_a_size_with_fewer_images_than_a_step_takes_is_named() -> None:
    with pytest.raises(DataError, match=r"3 images of 96x64 pixels .*train\.batch_size = 4"):
        Order(range(11), [SQUARE] * 8 + [WIDE] * 3, batch_size=4, seed=0)


def test_whole_prompts_are_held_out() -> None:
    prompts = [f"p{row % 10}" for row in range(40)]
    rows, held = hold_out(prompts, 6, seed=0)
    assert sorted(rows + held) == list(range(40))
    assert len(held) == 8  # two prompts of four images
    assert not {prompts[row] for row in rows} & {prompts[row] for row in held}
    assert hold_out(prompts, 6, seed=0) == (rows, held)
    assert hold_out(prompts, 6, seed=1) != (rows, held)
    assert hold_out(prompts, 0, seed=0) == (list(range(40)), [])


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(DataError, match=r"train\.validation_images = 40"):
        hold_out(["a", "b"] * 20, 40, seed=0)
