"""Owns what is to be drawn: name, seed and size of each image, which follow from prompt and repetition, and batches.

`first 32 bits` are the first 8 hex digits of the SHA-256 of a text, as a number:

    seed = first 32 bits of "{synthesize.seed}/{prompt id}/{repetition}/{attempt}"
    lot  = first 32 bits of "{synthesize.seed}/{prompt id}/{repetition}/size", over 2^32

Adding or removing prompts therefore changes neither name nor seed nor size of any other image.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from l2p.config import SynthesizeParams
from l2p.data.journal import IDENTITY, Row
from l2p.data.prompting.candidates import Candidate, check_own_ids
from l2p.files import sha256_json

_BITS = 32  # all that a generator of torch takes of a seed
_BATCH_DIGITS = 12


@dataclass(frozen=True)
class Batch:
    """Images drawn together, in this order; of one size. Only those `wanted` are written."""

    rows: tuple[Row, ...]
    wanted: frozenset[str]

    @property
    def digest(self) -> str:
        """Name of the batch: of all that decides what each of its images is."""
        return batch_digest(self.rows)


def plan_images(prompts: pd.DataFrame, params: SynthesizeParams, source_digest: str) -> list[Row]:
    """One row per image, in the order of prompts: everything about its first attempt that is known before it is drawn.

    Raises:
        DataError: an id that could not be a file name, or that two prompts share.
    """
    known = list(zip(prompts["prompt_id"], prompts["text"], prompts["style"], strict=True))
    check_own_ids(
        Candidate(text, str(style), f"prompts, row {number}", str(prompt_id))
        for number, (prompt_id, text, style) in enumerate(known)
    )
    common = {**params.model_dump(include={"num_steps", "guidance_scale", "shift"}), "dtype": params.precision}
    rows: list[Row] = []
    for prompt_id, text, style in known:
        for repetition in range(params.images_per_prompt):
            height, width = image_size_px(params, prompt_id, repetition)
            rows.append(
                {
                    "file_name": image_name(prompt_id, repetition),
                    "prompt_id": prompt_id,
                    "text": text,
                    "style": style,
                    "repetition": repetition,
                    "attempt": 0,
                    "seed": image_seed(params.seed, prompt_id, repetition),
                    "height_px": height,
                    "width_px": width,
                    **common,
                    "source_digest": source_digest,
                }
            )
    return rows


def with_attempt(row: Row, attempt: int, first_seed: int) -> Row:
    """The same image with the seed of another attempt."""
    return {
        **row,
        "attempt": attempt,
        "seed": image_seed(first_seed, row["prompt_id"], row["repetition"], attempt),
    }


def image_name(prompt_id: str, repetition: int) -> str:
    """File name in the corpus, in one of 256 folders."""
    folder = hashlib.sha256(prompt_id.encode()).hexdigest()[:2]
    return f"{folder}/{prompt_id}-{repetition}.png"


def image_seed(first_seed: int, prompt_id: str, repetition: int, attempt: int = 0) -> int:
    """Seed of an image's own generator."""
    return _first_bits(f"{first_seed}/{prompt_id}/{repetition}/{attempt}")


def image_size_px(params: SynthesizeParams, prompt_id: str, repetition: int) -> tuple[int, int]:
    """(height, width) by lot among `params.sizes`; every attempt has the same."""
    if not params.sizes:
        return params.height_px, params.width_px
    lot = _first_bits(f"{params.seed}/{prompt_id}/{repetition}/size") / 2**_BITS
    left = lot * sum(size.share for size in params.sizes)
    for size in params.sizes:
        left -= size.share
        if left < 0:
            break
    return size.height_px, size.width_px


def form_batches(rows: Iterable[Row], batch_size: int) -> list[Batch]:
    """Batches of one size and attempt, in the order of caption lengths, so that a batch is padded little.

    Whole batches taken away from `rows` leave the others as they are: a resumed run forms those that were to come.
    """
    groups: dict[tuple[int, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["attempt"], row["height_px"], row["width_px"]].append(row)
    batches = []
    for _, group in sorted(groups.items()):
        group.sort(key=lambda row: (len(row["text"].split()), row["file_name"]))
        for start in range(0, len(group), batch_size):
            part = tuple(group[start : start + batch_size])
            batches.append(Batch(part, frozenset(row["file_name"] for row in part)))
    return batches


def batch_digest(rows: Iterable[Row]) -> str:
    """First digits of the SHA-256 over what decides the images of a batch, in order."""
    return sha256_json([[row[name] for name in IDENTITY] for row in rows])[:_BATCH_DIGITS]


def _first_bits(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest()[: _BITS // 4], 16)
