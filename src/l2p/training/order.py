"""Owns which images a step trains on: one size a step, every image once an epoch, whatever the number of processes.

Each size is an endless sequence, one shuffle after the other, and all advance by the same share of their images; so a
mixed corpus needs no padding and no image is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from l2p.errors import DataError
from l2p.training.state import Draw, random_source

Size = tuple[int, int]


class Order:
    """Rows of the manifest for every step; it follows from sizes, batch size and seed alone."""

    def __init__(self, rows: Sequence[int], sizes: Sequence[Size], *, batch_size: int, seed: int) -> None:
        """`rows` are those that are trained on, `sizes` (height, width) of all rows of the manifest.

        Raises:
            DataError: a size has fewer images than one step takes.
        """
        self._buckets: list[list[int]] = []
        by_size: dict[Size, list[int]] = {}
        for row in rows:
            by_size.setdefault(sizes[row], []).append(row)
        for (height, width), found in sorted(by_size.items()):
            if len(found) < batch_size:
                raise DataError(
                    f"data/manifest.parquet: {len(found)} images of {width}x{height} pixels to train on, but a step "
                    f"takes train.batch_size = {batch_size} of one size. Lower it, hold fewer out "
                    "(train.validation_images), or draw more of that size."
                )
            self._buckets.append(found)
        if not self._buckets:
            raise DataError("data/manifest.parquet: no image is left to train on. Lower train.validation_images.")
        self._batch_size, self._seed = batch_size, seed
        self._turns: list[tuple[int, int]] = []  # (bucket, how many batches it gave before) of every step so far
        self._given = [0] * len(self._buckets)

    def rows(self, step: int) -> list[int]:
        """Rows of the whole batch of a step, all of one size."""
        bucket, turn = self._turn(step)
        first = turn * self._batch_size
        return [self._row(bucket, position) for position in range(first, first + self._batch_size)]

    def _turn(self, step: int) -> tuple[int, int]:
        """The bucket of a step is the one whose next batch would be the earliest share of its images."""
        while len(self._turns) <= step:
            shares = [(given + 1) / len(rows) for given, rows in zip(self._given, self._buckets, strict=True)]
            bucket = shares.index(min(shares))
            self._turns.append((bucket, self._given[bucket]))
            self._given[bucket] += 1
        return self._turns[step]

    def _row(self, bucket: int, position: int) -> int:
        epoch, within = divmod(position, len(self._buckets[bucket]))
        return self._buckets[bucket][int(self._shuffle(bucket, epoch)[within])]

    @functools.lru_cache(maxsize=64)  # noqa: B019 (one object per process)
    def _shuffle(self, bucket: int, epoch: int) -> Tensor:
        generator = random_source(self._seed, Draw.ORDER, epoch, bucket)
        return torch.randperm(len(self._buckets[bucket]), generator=generator)


def hold_out(prompt_ids: Sequence[str], count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """(rows to train on, rows held out): whole prompts are held out, at random, until there are `count` images.

    Raises:
        DataError: nothing would be left to train on.
    """
    by_prompt: dict[str, list[int]] = {}
    for row, prompt_id in enumerate(prompt_ids):
        by_prompt.setdefault(prompt_id, []).append(row)
    prompts = list(by_prompt)
    held: set[int] = set()
    for index in torch.randperm(len(prompts), generator=random_source(seed, Draw.HELD_OUT)).tolist():
        if len(held) >= count:
            break
        held.update(by_prompt[prompts[index]])
    if len(held) == len(prompt_ids):
        raise DataError(
            f"train.validation_images = {count}: holding out whole prompts leaves none of the {len(prompt_ids)} images "
            "of data/manifest.parquet to train on. Lower it."
        )
    return [row for row in range(len(prompt_ids)) if row not in held], sorted(held)
