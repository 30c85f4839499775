"""Judges of agreement and safety: the shapes detector, CLIP, NudeNet."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage import data

from bench.tiny_judges import build_tiny_clip
from l2p.config import ValidateParams, load_params
from l2p.data.checking.judges import load_judges
from l2p.data.validation import validate_corpus
from l2p.errors import ConfigError, DataError
from l2p.shapes.agreement import ShapesAgreement
from l2p.shapes.benchmarks import dpg_prompts, geneval_prompts
from l2p.shapes.captions import counting, position, single_object, training_prompts
from l2p.shapes.reading import read_caption
from l2p.shapes.render import render
from l2p.shapes.world import Item, Scene, draw_scene
from tests.data.corpora import Corpus

ROOT = Path(__file__).parents[2]
HAS_NUDENET = importlib.util.find_spec("nudenet") is not None


def limits(**changes: Any) -> ValidateParams:
    return ValidateParams(**load_params(ROOT / "params.yaml").validation.model_dump() | changes)


def doubt(image: np.ndarray, text: str) -> str | None:
    return ShapesAgreement().doubts([image], [text])[0]


def scene(*items: tuple[str, str, float, float], background: str = "white") -> np.ndarray:
    return render(Scene(background, tuple(Item(shape, color, x, y, 10.0) for shape, color, x, y in items)))


def every_kind() -> Iterator[Any]:
    yield from training_prompts(400, random.Random(0))
    yield from geneval_prompts()
    yield from dpg_prompts()


def test_every_caption_of_the_world_is_read_back_as_its_facts():
    prompts = list(every_kind())
    assert [read_caption(prompt.text) for prompt in prompts] == prompts


@pytest.mark.parametrize(
    "text", ["a cat", "a photo of a red cat", "a photo of five circles", "a photo of one circles", ""]
)
def test_a_caption_of_another_world_is_refused(text: str):
    with pytest.raises(DataError, match="no caption of the shapes world"):
        read_caption(text)


def test_no_right_image_of_any_kind_of_caption_is_doubted():
    rng, prompts = random.Random(1), list(every_kind())
    images = [render(draw_scene(prompt, rng)) for prompt in prompts]
    assert ShapesAgreement().doubts(images, [prompt.text for prompt in prompts]) == [None] * len(prompts)


def test_images_of_other_captions_are_doubted_unless_they_show_this_one_too():
    rng, prompts = random.Random(1), list(training_prompts(300, random.Random(2)))
    images = [render(draw_scene(prompt, rng)) for prompt in prompts]
    shuffled = prompts[1:] + prompts[:1]
    doubts = ShapesAgreement().doubts(images, [prompt.text for prompt in shuffled])
    assert sum(each is not None for each in doubts) > 0.9 * len(
        prompts
    )  # the others say less than what the image shows


def test_a_caption_is_not_read_more_strictly_than_it_says():
    both = scene(("circle", "purple", 17, 32), ("star", "black", 47, 32), background="pink")
    assert doubt(both, single_object("a photo of", "circle", None).text) is None  # a colour, and a star beside it
    assert doubt(both, position("a photo of", "circle", "left of", "star", None).text) is None
    assert (
        doubt(both, position("a photo of", "star", "left of", "circle", None).text)
        == "the star is not left of the circle"
    )
    assert doubt(both, single_object("a photo of", "circle", "cyan").text) == "pink background, cyan wanted"


def test_what_is_counted_must_be_there_exactly_so_often():
    three = scene(("circle", "red", 17, 17), ("circle", "red", 47, 17), ("circle", "red", 32, 47))
    assert doubt(three, counting("a photo of", 3, "circle", None).text) is None
    assert doubt(three, counting("a photo of", 2, "circle", None).text) == "3 circles seen, 2 wanted"
    assert doubt(three, counting("a photo of", 4, "circle", None).text) == "3 circles seen, 4 wanted"


def test_places_and_colours_of_dense_captions_are_held_to():
    image = scene(("circle", "red", 17, 17), ("star", "blue", 47, 47), background="gray")
    right = "a red circle in the top left, a blue star in the bottom right, on a gray background"
    assert doubt(image, right) is None
    assert doubt(image, right.replace("top left", "top right")) == "not in the places stated"
    assert doubt(image, right.replace("red", "blue")) == "no blue circle seen"


def test_a_picture_full_of_shapes_is_judged_in_time():
    places = [(9.0 + 15 * x, 9.0 + 15 * y) for x in range(4) for y in range(4)]
    crowd = render(Scene("white", tuple(Item("circle", "red", x, y, 6.0) for x, y in places)))
    assert doubt(crowd, "a red star in the top left, a red circle in the top right, on a white background") is not None


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def test_clip_drops_images_below_the_score(clip: Path, tmp_path: Path):
    from l2p.evaluation.fidelity.clip import ClipEmbedder, clip_scores

    corpus = Corpus(tmp_path / "corpus", 12)
    embedder = ClipEmbedder(str(clip), "cpu")
    texts = corpus.rows["text"].tolist()
    scores = clip_scores(embedder.images([corpus.pixels(place) for place in range(12)]), embedder.texts(texts))
    middle = float(scores.max()) / 2
    assert middle > 0
    chosen = limits(
        agreement="clip",
        clip_model=str(clip),
        min_clip_score=middle,
        min_accepted_share=0.1,
        min_class_kept_share=None,
        judge_batch_size=5,
    )
    validation = validate_corpus(corpus.table, chosen, corpus.params.synthesize)
    assert set(validation.quarantine.index) == set(np.flatnonzero(scores < middle))
    assert validation.quarantine["detail"].str.contains(r"^CLIP score \d+\.\d, at least").all()
    assert validation.result["judges"]["agreement"] == {"name": "clip:tiny", "digest": embedder.digest}


def test_a_clip_model_that_is_not_there_is_named_with_its_own_field(tmp_path: Path):
    with pytest.raises(DataError, match=r"validate\.clip_model = .*nowhere.*no such folder"):
        load_judges(limits(agreement="clip", clip_model=str(tmp_path / "nowhere")))


def test_an_unknown_unsafe_class_is_refused():
    with pytest.raises(ConfigError, match=r"validate\.unsafe_classes: no class 'CATS'; there are ANUS_COVERED"):
        load_judges(limits(safety="nudenet", unsafe_classes=["CATS"]))


def test_without_the_extra_safety_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    if HAS_NUDENET:
        monkeypatch.setitem(sys.modules, "nudenet", None)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"validate\.safety = nudenet: not installed\. Run pip install 'l2p\[safety\]'"):
        load_judges(limits(safety="nudenet"))


@pytest.mark.skipif(not HAS_NUDENET, reason="the extra `safety` is not installed")
def test_nudenet_names_the_class_that_it_finds_and_nothing_on_shapes(tmp_path: Path):
    from nudenet import NudeDetector
    from skimage import io

    portrait = data.astronaut()
    judge = load_judges(limits(agreement="none", safety="nudenet", unsafe_classes=["FACE_FEMALE"]))["safety"]
    shapes = scene(("circle", "red", 32, 32))
    found = judge.doubts([portrait, shapes], ["", ""])
    assert found[1] is None
    io.imsave(tmp_path / "portrait.png", portrait)
    (from_file,) = NudeDetector().detect(str(tmp_path / "portrait.png"))
    assert found[0] == f"face female {from_file['score']:.2f}"
    assert load_judges(limits(agreement="none", safety="nudenet"))["safety"].doubts([portrait], [""]) == [None]
