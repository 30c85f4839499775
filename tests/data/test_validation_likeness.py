"""Near duplicates: what a viewer cannot tell apart is found, what he can is not, and no pair is missed."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data

from l2p.data.checking.likeness import find_alike, print_of
from l2p.shapes.captions import training_prompts
from l2p.shapes.render import render
from l2p.shapes.world import draw_scene

BITS = 7


def renders(count: int) -> list[Image.Image]:
    rng = random.Random(0)
    return [Image.fromarray(render(draw_scene(prompt, rng))) for prompt in training_prompts(count, rng)]


def photographs() -> list[Image.Image]:
    names = ("astronaut", "coffee", "chelsea", "rocket")
    return [Image.fromarray(getattr(data, name)()).convert("RGB") for name in names]


def with_noise(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image).astype(int)
    return Image.fromarray(
        (pixels + np.random.default_rng(0).integers(-2, 3, pixels.shape)).clip(0, 255).astype(np.uint8)
    )


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85)
    return Image.open(buffer).convert("RGB")


def doubled(image: Image.Image) -> Image.Image:
    return image.resize((2 * image.width, 2 * image.height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("change", [with_noise, compressed, doubled])
def test_what_a_viewer_does_not_notice_is_alike(change: Callable[[Image.Image], Image.Image]):
    originals = [*renders(20), *photographs()]
    prints = [print_of(image) for image in originals] + [print_of(change(image)) for image in originals]
    found = find_alike(prints, [0] * len(prints), same_group=True, max_levels=2.0, max_bits=BITS)
    assert all(found[len(originals) + place] is not None for place in range(len(originals)))


def test_different_pictures_are_not_alike():
    views = [print_of(image) for image in photographs()]
    turned = [print_of(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for image in photographs()]
    found = find_alike([*views, *turned], [0] * 8, same_group=True, max_levels=4.0, max_bits=BITS)
    assert found == [None] * 8


def test_colour_tells_images_of_one_layout_apart():
    def circle(color: tuple[int, int, int]) -> Image.Image:
        y, x = np.mgrid[:64, :64]
        pixels = np.full((64, 64, 3), 240, np.uint8)
        pixels[(y - 32) ** 2 + (x - 32) ** 2 < 144] = color
        return Image.fromarray(pixels)

    prints = [print_of(circle(color)) for color in ((200, 60, 60), (60, 60, 200), (60, 130, 60))]
    assert find_alike(prints, [0] * 3, same_group=True, max_levels=4.0, max_bits=BITS) == [None] * 3


def brute_force(prints: list[bytes], groups: list[int], same: bool, levels: float) -> list[int | None]:
    """The definition: the nearest earlier one that is itself not alike an earlier one."""
    found: list[int | None] = []
    for place, view in enumerate(prints):
        best: tuple[float, int] | None = None
        for other in range(place):
            if found[other] is not None or (groups[other] == groups[place]) != same:
                continue
            one, two = (np.frombuffer(each, np.uint8) for each in (view, prints[other]))
            bits = int(np.bitwise_count(one[:16] ^ two[:16]).sum())
            difference = float(np.abs(one[16:].astype(int) - two[16:]).mean())
            if bits <= BITS and difference <= levels and (best is None or (difference, other) < best):
                best = (difference, other)
        found.append(None if best is None else best[1])
    return found


@pytest.mark.parametrize("same", [True, False])
def test_the_search_by_bands_misses_no_pair_that_comparing_all_would_find(same: bool):
    images = renders(150)
    images += [with_noise(image) for image in images[:60]]
    random.Random(1).shuffle(images)
    prints, groups = [print_of(image) for image in images], [random.Random(place).randrange(3) for place in range(210)]
    found = find_alike(prints, groups, same_group=same, max_levels=3.0, max_bits=BITS)
    places = [None if like is None else like.position for like in found]
    assert places == brute_force(prints, groups, same, 3.0)
    assert any(place is not None for place in places)


def test_images_that_were_not_measured_take_no_part():
    view = print_of(renders(1)[0])
    found = find_alike([None, view, None, view], [0] * 4, same_group=True, max_levels=0, max_bits=0)
    assert [like and like.position for like in found] == [None, None, None, 1]


def test_a_corpus_of_one_image_over_and_over_is_searched_without_comparing_all(tmp_path: Path):
    views = [print_of(renders(1)[0])] * 20_000
    found = find_alike(views, [0] * len(views), same_group=False, max_levels=1.0, max_bits=BITS)
    assert found == [None] * len(views)  # all of one prompt: no other prompt's image to be like
    found = find_alike(views, list(range(len(views))), same_group=False, max_levels=1.0, max_bits=BITS)
    assert {like.position for like in found if like is not None} == {0}
