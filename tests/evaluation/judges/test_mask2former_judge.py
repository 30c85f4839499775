"""Judge `mask2former`: what logits mean by hand, tiny models of the real classes from file to verdict, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from transformers import AutoTokenizer, CLIPModel, Mask2FormerForUniversalSegmentation

from bench.tiny_judges import COCO_LABELS, SIDE_PX, build_tiny_clip, build_tiny_mask2former
from l2p.errors import ConfigError, EvaluationError
from l2p.evaluation.benchmark_data import COLORS, Clause, GenEvalData, GenEvalPrompt, load_geneval
from l2p.evaluation.geneval import check_vocabulary
from l2p.evaluation.geneval_judging import GenEvalImage, ImageJudge
from l2p.evaluation.judges import get_object_judge
from l2p.evaluation.judges.base import Detection, ObjectJudge, UnjudgeableImage
from l2p.evaluation.judges.clip_colors import BACKGROUND, TEMPLATES, cut_out
from l2p.evaluation.judges.mask2former import geneval_names, official_size
from l2p.evaluation.judges.mask2former_instances import MAX_INSTANCES, MIN_SCORE, Sizes, find_instances
from l2p.evaluation.judges.pretrained import digest_folder, load_image_processor, locate_weights

OFFICIAL_FOLDER = Path(__file__).parents[4] / "shared" / "benchmarks" / "geneval"
CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def detector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mask2former(tmp_path_factory.mktemp("judges") / "tiny-mask2former")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_clip(tmp_path_factory.mktemp("judges") / "tiny-clip")


@pytest.fixture
def options(detector_folder: Path, clip_folder: Path) -> dict[str, str]:
    """The checkpoint's own image size is small, so this is quick."""
    return {"detector": str(detector_folder), "colors": str(clip_folder), "image_size": "checkpoint"}


@pytest.fixture(scope="module")
def judge(detector_folder: Path, clip_folder: Path) -> ObjectJudge:
    chosen = {"detector": str(detector_folder), "colors": str(clip_folder), "image_size": "checkpoint"}
    return get_object_judge("mask2former", chosen)


def picture(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    """A chequerboard of random colours."""
    squares = np.random.default_rng(seed).integers(0, 256, (-(-height // 10), -(-width // 10), 3), dtype=np.uint8)
    return np.ascontiguousarray(squares.repeat(10, axis=0).repeat(10, axis=1)[:height, :width])


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


# --- what logits mean -----------------------------------------------------------------------------------------------


def class_logits(*rows: Sequence[float]) -> torch.Tensor:
    """Logits whose softmax is `rows`; what is left of 1 belongs to "no object"."""
    return torch.tensor([[*row, 1 - sum(row)] for row in rows]).clamp(min=1e-9).log()


def left_half(logit: float = 2.0) -> torch.Tensor:
    """A mask of 8x8, for a network that sees 32x32."""
    return torch.tensor([logit] * 4 + [-logit] * 4).expand(8, 8)


SQUARE = Sizes((32, 32), (32, 32), (32, 32))


def test_one_mask_gives_the_box_and_the_score_worked_out_by_hand():
    (found,) = find_instances(class_logits([0.1, 0.8, 0.05]), left_half()[None], SQUARE, CLASSES)
    assert found.label == "dog"
    assert found.box == (0.0, 0.0, 16.0, 32.0)
    assert found.mask is not None
    assert found.mask.dtype == bool
    assert found.mask.shape == (32, 32)
    assert found.mask[:, :16].all()
    assert not found.mask[:, 16:].any()
    # scaled up four times, the logit falls from 2 to -2 in four steps of 1: 1.5 and 0.5 are the last in the mask
    columns = [2.0] * 14 + [1.5, 0.5]
    certainty = np.mean([1 / (1 + np.exp(-logit)) for logit in columns])
    assert found.score == pytest.approx(0.8 * certainty, rel=1e-5)


def test_two_classes_of_one_query_are_two_objects_with_the_same_mask():
    found = find_instances(class_logits([0.45, 0.0, 0.5]), left_half(8.0)[None], SQUARE, CLASSES)
    assert [detection.label for detection in found] == ["bird", "cat"]
    assert found[0].box == found[1].box
    assert np.array_equal(found[0].mask, found[1].mask)
    assert found[1].score / found[0].score == pytest.approx(0.9, rel=1e-4)


def test_only_the_hundred_most_certain_classes_count_however_clear_their_masks():
    probabilities = torch.linspace(0.5, 0.7, 120)
    classes = torch.stack([probabilities, torch.full((120,), 1e-9), 1 - probabilities], dim=1).log()
    clear, faint = torch.full((20, 8, 8), 20.0), left_half(1.0).expand(100, 8, 8)
    of_least_certain = find_instances(classes[:20], clear, SQUARE, CLASSES[:2])
    found = find_instances(classes, torch.cat([clear, faint]), SQUARE, CLASSES[:2])
    assert len(of_least_certain) == 20
    assert len(found) == MAX_INSTANCES
    assert {detection.box for detection in found} == {(0.0, 0.0, 16.0, 32.0)}
    assert min(of_least_certain, key=score_of).score > min(found, key=score_of).score


def test_an_empty_mask_is_no_object():
    nothing = torch.full((8, 8), -5.0)
    assert find_instances(class_logits([0.9, 0, 0]), nothing[None], SQUARE, CLASSES) == []
    assert find_instances(class_logits([0.9, 0, 0]), torch.zeros(1, 8, 8), SQUARE, CLASSES) == []


def test_a_likely_class_with_an_unclear_mask_is_left_out():
    classes = class_logits([0.5, 0, 0])
    assert find_instances(classes, left_half(0.1)[None], SQUARE, CLASSES) == []  # 0.5 * 0.52
    assert find_instances(classes, left_half(9.0)[None], SQUARE, CLASSES)[0].score > MIN_SCORE


def test_no_query_is_sure_of_anything_so_nothing_is_found():
    assert find_instances(class_logits([0.1, 0.2, 0.2], [0, 0, 0]), torch.ones(2, 8, 8), SQUARE, CLASSES) == []


def test_padding_is_cut_away_before_the_mask_is_brought_to_the_size_of_the_image():
    sizes = Sizes(original=(40, 60), scaled=(20, 30), padded=(32, 32))
    everywhere = torch.full((1, 8, 8), 4.0)
    (whole,) = find_instances(class_logits([0.9, 0, 0]), everywhere, sizes, CLASSES)
    assert whole.box == (0.0, 0.0, 60.0, 40.0)
    padding_only = torch.full((1, 8, 8), -4.0)
    padding_only[:, 6:] = 4.0  # rows 24..31, but the picture ends at 20
    assert find_instances(class_logits([0.9, 0, 0]), padding_only, sizes, CLASSES) == []
    (left,) = find_instances(class_logits([0.9, 0, 0]), left_half(4.0)[None], sizes, CLASSES)
    assert left.box == (0.0, 0.0, 32.0, 40.0)  # 16 of 30 pixels, twice as large


def test_boxes_fit_masks_of_any_shape():
    mask = torch.full((1, 8, 8), -9.0)
    mask[0, 2, 1] = mask[0, 5, 6] = 9.0
    (found,) = find_instances(class_logits([0.9, 0, 0]), mask, SQUARE, CLASSES)
    assert_fits(found)
    assert found.box[0] < 8 < 24 < found.box[2]


def assert_fits(detection: Detection) -> None:
    rows, columns = np.nonzero(detection.mask)
    assert detection.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_the_shortcuts_give_what_going_through_every_pair_gives():
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(50, 4, generator=generator) * 2
    masks = torch.randn(50, 8, 8, generator=generator) * 8
    sizes = Sizes(original=(50, 70), scaled=(28, 32), padded=(32, 32))
    found = find_instances(classes, masks, sizes, CLASSES)
    expected = every_pair(classes, masks, sizes)
    assert len(found) >= 40  # more than are worked on at once
    assert len(found) == len(expected)
    for one, other in zip(sorted(found, key=score_of), sorted(expected, key=score_of), strict=True):
        assert (one.label, one.box) == (other.label, other.box)
        assert one.score == pytest.approx(other.score, rel=1e-5)
        assert np.array_equal(one.mask, other.mask)


def score_of(detection: Detection) -> float:
    return detection.score


def every_pair(classes: torch.Tensor, masks: torch.Tensor, sizes: Sizes) -> list[Detection]:
    """One pair after the other, nothing left out early."""
    found = []
    for query, label in np.ndindex(len(classes), len(CLASSES)):
        large = functional.interpolate(masks[query][None, None], size=sizes.padded, mode="bilinear")
        inner = large[:, :, : sizes.scaled[0], : sizes.scaled[1]]
        logits = functional.interpolate(inner, size=sizes.original, mode="bilinear")[0, 0].double().numpy()
        mask = logits > 0
        exponents = np.exp(classes[query].double().numpy())
        certainty = (1 / (1 + np.exp(-logits)))[mask].sum() / (mask.sum() + 1e-6)
        score = exponents[label] / exponents.sum() * certainty
        if score > MIN_SCORE:
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            found.append(Detection(CLASSES[label], score, box, mask))
    return found


def test_an_answer_that_is_not_finite_is_no_empty_image():
    with pytest.raises(UnjudgeableImage, match="float32"):
        find_instances(torch.full((1, 4), float("nan")), torch.ones(1, 8, 8), SQUARE, CLASSES)
    with pytest.raises(UnjudgeableImage, match="not finite"):
        find_instances(class_logits([0.9, 0.05, 0.01]), torch.full((1, 8, 8), float("inf")), SQUARE, CLASSES)


# --- sizes and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (800, 800)),
        ((1024, 1024), (800, 800)),
        ((480, 640), (800, 1067)),  # 1066.67
        ((640, 480), (1067, 800)),
        ((1024, 2048), (667, 1333)),  # the long side decides: 666.5
        ((1080, 1920), (750, 1333)),  # 749.8
    ],
)
def test_images_are_scaled_as_the_official_tool_scales_them(size: tuple[int, int], expected: tuple[int, int]):
    assert official_size(size) == expected


def test_classes_have_the_names_of_the_benchmark():
    names = [name.replace("_", " ") for name in COCO_LABELS.split()]
    renamed = geneval_names(dict(enumerate(names)))
    assert renamed[names.index("tvmonitor")] == "tv"
    assert renamed[names.index("mouse")] == "computer mouse"
    assert renamed[names.index("cat")] == "cat"
    assert len(set(renamed)) == 80


def test_classes_are_those_of_the_official_list():
    if not OFFICIAL_FOLDER.is_dir():
        pytest.skip("the official files of GenEval are not here")
    names = [name.replace("_", " ") for name in COCO_LABELS.split()]
    assert geneval_names(dict(enumerate(names))) == (OFFICIAL_FOLDER / "object_names.txt").read_text().splitlines()


def test_the_judge_knows_every_word_of_the_official_benchmark(judge: ObjectJudge, tmp_path: Path):
    if not OFFICIAL_FOLDER.is_dir():
        pytest.skip("the official files of GenEval are not here")
    check_vocabulary(load_geneval(str(OFFICIAL_FOLDER / "evaluation_metadata.jsonl"), tmp_path), judge)


def test_a_benchmark_with_a_class_that_the_checkpoint_lacks_is_refused(judge: ObjectJudge):
    prompt = GenEvalPrompt(7, "single_object", "a unicorn", (Clause("unicorn", 1),), (), {})
    with pytest.raises(EvaluationError, match=r"mask2former:tiny-mask2former\+clip:tiny-clip.*'unicorn'.*prompt 7"):
        check_vocabulary(GenEvalData("ours", (prompt,)), judge)


# --- detecting ------------------------------------------------------------------------------------------------------


def test_objects_of_images_of_two_sizes_have_masks_and_boxes_of_their_image(judge: ObjectJudge):
    images = [picture(0), picture(1, 50, 40), picture(2)]
    found = judge.detector.detect(images)
    assert [len(of_image) > 0 for of_image in found] == [True, True, True]
    for image, of_image in zip(images, found, strict=True):
        for detection in of_image:
            assert detection.label in judge.detector.labels
            assert MIN_SCORE < detection.score <= 1
            assert detection.mask is not None
            assert detection.mask.dtype == bool
            assert detection.mask.shape == image.shape[:2]
            assert_fits(detection)


@pytest.mark.parametrize("image_size", ["checkpoint", "official"])
def test_a_batch_of_images_of_several_sizes_finds_what_each_image_alone_has(options: dict[str, str], image_size: str):
    detector = get_object_judge("mask2former", options | {"image_size": image_size}).detector
    images = [picture(0), picture(1, 30, 40), picture(2)]
    together = detector.detect(images)
    assert detector.detect([]) == []
    for image, of_image in zip(images, together, strict=True):
        (alone,) = detector.detect([image])
        assert [detection.label for detection in of_image] == [detection.label for detection in alone]
        for one, other in zip(of_image, alone, strict=True):
            assert one.score == pytest.approx(other.score, abs=1e-4)
            assert one.box == pytest.approx(other.box, abs=1)
            assert (one.mask == other.mask).mean() > 0.999


def test_the_network_sees_what_the_image_processor_and_padding_make_of_an_image(
    options: dict[str, str], detector_folder: Path
):
    image = picture(3, 30, 44)  # to 800x1173, padded to 800x1184
    (found,) = get_object_judge("mask2former", options | {"image_size": "official"}).detector.detect([image])
    processor = load_image_processor(detector_folder)
    size = {"height": 800, "width": 1173}
    pixels = processor([image], size=size, size_divisor=0, return_tensors="pt")["pixel_values"]
    network = Mask2FormerForUniversalSegmentation.from_pretrained(detector_folder).eval()
    with torch.inference_mode():
        seen = network(pixel_values=functional.pad(pixels, (0, 11)))
    sizes = Sizes(original=(30, 44), scaled=(800, 1173), padded=(800, 1184))
    labels = geneval_names(network.config.id2label)
    expected = find_instances(seen.class_queries_logits[0], seen.masks_queries_logits[0], sizes, labels)
    assert len(expected) > 0
    assert [detection.label for detection in found] == [detection.label for detection in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-4)
        assert (one.mask == other.mask).mean() > 0.999


def test_what_is_found_depends_on_the_image_and_on_the_size_at_which_it_is_seen(options: dict[str, str]):
    image, other = picture(0, SIDE_PX, SIDE_PX), picture(1, SIDE_PX, SIDE_PX)
    small, large = (
        get_object_judge("mask2former", options | {"image_size": size}) for size in ("checkpoint", "official")
    )

    def scores(judge: ObjectJudge, of: np.ndarray) -> list[float]:
        return [detection.score for detection in judge.detector.detect([of])[0]]

    assert scores(small, image) != scores(small, other)
    assert scores(small, image) != scores(large, image)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_finds_much_the_same(options: dict[str, str], judge: ObjectJudge, dtype: str):
    half = get_object_judge("mask2former", options | {"dtype": dtype})
    (exact,), (found,) = judge.detector.detect([picture(0)]), half.detector.detect([picture(0)])
    best, nearly = max(exact, key=score_of), max(found, key=score_of)
    assert best.label == nearly.label
    assert best.score == pytest.approx(nearly.score, abs=0.05)
    assert set(half.color_classifier.classify([(picture(0), nearly)])) <= set(COLORS)


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)],
)
def test_what_is_no_rgb_image_cannot_be_judged(judge: ObjectJudge, image: np.ndarray):
    with pytest.raises(UnjudgeableImage, match="expected uint8 RGB"):
        judge.detector.detect([picture(0), image])


# --- colours --------------------------------------------------------------------------------------------------------


def test_an_object_is_cut_out_on_grey_to_its_box():
    image = picture(0, 20, 30)
    mask = np.zeros((20, 30), dtype=bool)
    mask[5:9, 3:12] = True
    mask[6, 4] = False
    shown = np.asarray(cut_out(image, Detection("cat", 0.9, (2.4, 5.0, 11.6, 10.0), mask)))
    expected = np.full((20, 30, 3), BACKGROUND, dtype=np.uint8)
    for row, column in np.argwhere(mask):
        expected[row, column] = image[row, column]
    assert np.array_equal(shown, expected[5:10, 2:12])
    assert tuple(shown[1, 2]) == BACKGROUND == (0x99, 0x99, 0x99)


def test_an_object_without_a_mask_is_cut_to_its_box_within_the_image():
    image = picture(0, 20, 30)
    shown = np.asarray(cut_out(image, Detection("cat", 0.9, (20.0, -4.0, 40.0, 5.0))))
    assert np.array_equal(shown, image[0:5, 20:30])


def test_a_box_without_pixels_and_a_mask_of_another_size_cannot_be_judged():
    image = picture(0, 20, 30)
    with pytest.raises(UnjudgeableImage, match="holds no pixel"):
        cut_out(image, Detection("cat", 0.9, (5.0, 5.0, 5.0, 9.0)))
    with pytest.raises(UnjudgeableImage, match="holds no pixel"):
        cut_out(image, Detection("cat", 0.9, (31.0, 5.0, 35.0, 9.0)))
    with pytest.raises(UnjudgeableImage, match=r"\[30, 20\].*\[20, 30\]"):
        cut_out(image, Detection("cat", 0.9, (0.0, 0.0, 9.0, 9.0), np.ones((30, 20), dtype=bool)))


@pytest.mark.parametrize("label", ["cat", "computer mouse"])
def test_a_colour_sounds_like_the_mean_of_its_templates(judge: ObjectJudge, clip_folder: Path, label: str):
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    expected = []
    for color in COLORS:
        total = np.zeros(model.config.projection_dim)
        for text in (
            f"a photo of a {color} {label}",
            f"a photo of a {color}-colored {label}",
            f"a photo of a {color} object",
        ):
            with torch.no_grad():
                embedded = model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0].numpy()
            total += embedded / np.linalg.norm(embedded)
        expected.append(total / np.linalg.norm(total))
    assert len(TEMPLATES) == 3
    np.testing.assert_allclose(judge.color_classifier.embed_colors(label).numpy(), expected, atol=1e-5)


def test_the_colour_is_what_the_cut_out_object_is_most_similar_to(judge: ObjectJudge, clip_folder: Path):
    model, processor = CLIPModel.from_pretrained(clip_folder).eval(), load_image_processor(clip_folder)
    objects = some_objects(judge)
    expected = []
    for image, detection in objects:
        with torch.no_grad():
            seen = model.get_image_features(**processor(cut_out(image, detection), return_tensors="pt")).pooler_output[
                0
            ]
        similar = judge.color_classifier.embed_colors(detection.label).numpy() @ (seen / seen.norm()).numpy()
        expected.append(COLORS[int(similar.argmax())])
    assert judge.color_classifier.classify(objects) == expected
    assert len(set(expected)) > 1


def some_objects(judge: ObjectJudge) -> list[tuple[np.ndarray, Detection]]:
    """More than go through CLIP at once, of several classes and images."""
    images = [picture(seed, 50 + seed, 60) for seed in range(6)]
    found = judge.detector.detect(images)
    objects = [(image, detection) for image, of_image in zip(images, found, strict=True) for detection in of_image]
    assert len(objects) > 64
    assert len({detection.label for _, detection in objects}) > 1
    return objects


def test_colours_of_a_batch_are_those_of_each_object_alone(judge: ObjectJudge):
    objects = some_objects(judge)
    classify = judge.color_classifier.classify
    assert classify(objects) == [classify([one])[0] for one in objects]
    assert classify([]) == []


def test_the_words_for_a_class_are_read_once(judge: ObjectJudge):
    classifier = judge.color_classifier
    assert classifier.embed_colors("dog") is classifier.embed_colors("dog")
    assert classifier.colors == frozenset(COLORS)


def test_colours_from_broken_weights_are_refused_instead_of_guessed(
    options: dict[str, str], clip_folder: Path, tmp_path
):
    folder = copied(clip_folder, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    broken = get_object_judge("mask2former", options | {"colors": str(folder)})
    with pytest.raises(UnjudgeableImage, match="not finite"):
        broken.color_classifier.classify([(picture(0), Detection("cat", 0.9, (0.0, 0.0, 9.0, 9.0)))])


# --- whole images ---------------------------------------------------------------------------------------------------


def test_whole_images_are_judged_by_what_is_seen_on_them(judge: ObjectJudge, tmp_path: Path):
    path = tmp_path / "00000.png"
    Image.fromarray(picture(0)).save(path)
    (found,) = judge.detector.detect([picture(0)])
    best = max(found, key=score_of)
    (color,) = judge.color_classifier.classify([(picture(0), best)])
    other = next(name for name in COLORS if name != color)
    absent = next(label for label in sorted(judge.detector.labels) if label not in {each.label for each in found})
    wanted = [
        GenEvalPrompt(0, "single_object", "there", (Clause(best.label, 1),), (), {}),
        GenEvalPrompt(1, "single_object", "not there", (Clause(absent, 1),), (), {}),
        GenEvalPrompt(2, "colors", "its colour", (Clause(best.label, 1, color),), (), {}),
        GenEvalPrompt(3, "colors", "another colour", (Clause(best.label, 1, other),), (), {}),
    ]
    images = [GenEvalImage(path, path.name, prompt) for prompt in wanted]
    verdicts = ImageJudge(judge)(images)
    assert [verdict["correct"] for verdict in verdicts] == [True, False, True, False]
    assert verdicts[1]["reason"] == f"expected {absent}>=1, found 0"
    assert verdicts[3]["reason"] == f"expected {other} {best.label}>=1, found 0 {other}; and 1 {color}"
    assert json.loads(verdicts[0]["details"])[best.label][0] == [*best.box, pytest.approx(best.score, abs=1e-5)]


# --- what names an answer -------------------------------------------------------------------------------------------


def test_names_and_digests_say_which_models_judged(judge: ObjectJudge, options: dict[str, str]):
    assert judge.name == "mask2former:tiny-mask2former+clip:tiny-clip"
    assert get_object_judge("mask2former", options).digest == judge.digest
    assert get_object_judge("mask2former", options | {"dtype": "bfloat16"}).digest != judge.digest
    assert get_object_judge("mask2former", options | {"image_size": "official"}).digest != judge.digest


@pytest.mark.parametrize(("option", "weight"), [("detector", "class_predictor.bias"), ("colors", "logit_scale")])
def test_the_digest_changes_with_a_single_weight(
    judge: ObjectJudge, options: dict[str, str], tmp_path: Path, option: str, weight: str
):
    folder = copied(Path(options[option]), tmp_path / Path(options[option]).name)
    assert get_object_judge("mask2former", options | {option: str(folder)}).digest == judge.digest
    weights = load_file(folder / "model.safetensors")
    weights[weight].view(-1)[0] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert get_object_judge("mask2former", options | {option: str(folder)}).digest != judge.digest


def test_the_digest_of_a_folder_covers_what_is_read_and_nothing_else(detector_folder: Path, tmp_path: Path):
    folder = copied(detector_folder, tmp_path / "copy")
    before = digest_folder(folder)
    (folder / "README.md").write_text("A detector.")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert digest_folder(folder) == before == digest_folder(detector_folder)
    processor = folder / "preprocessor_config.json"
    processor.write_text(processor.read_text().replace("0.485", "0.5"))
    assert digest_folder(folder) != before


# --- what is refused ------------------------------------------------------------------------------------------------


def test_an_unknown_option_is_refused(options: dict[str, str]):
    with pytest.raises(ConfigError, match=r"geneval\.judge_options: unknown key `detektor`"):
        get_object_judge("mask2former", options | {"detektor": "x"})
    with pytest.raises(ConfigError, match=r"`dtype` = 'int8'"):
        get_object_judge("mask2former", options | {"dtype": "int8"})


@pytest.mark.parametrize("option", ["detector", "colors"])
def test_a_folder_that_is_not_there_is_named_with_its_option(options: dict[str, str], tmp_path: Path, option: str):
    missing = str(tmp_path / "nowhere")
    with pytest.raises(EvaluationError, match=rf"geneval\.judge_options\.{option} = '{missing}': no such folder"):
        get_object_judge("mask2former", options | {option: missing})


def test_a_repository_that_cannot_be_fetched_is_named_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EvaluationError, match=r"judge_options\.model = 'nobody/nothing'.*nobody/nothing@abc cannot be"):
        locate_weights("nobody/nothing", "abc")
    with pytest.raises(EvaluationError, match=r"repository a b cannot be fetched \(Repo id must use"):
        locate_weights("a b", None)


def test_a_folder_with_pickled_weights_only_is_refused(options: dict[str, str], detector_folder: Path, tmp_path: Path):
    folder = copied(detector_folder, tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(EvaluationError, match=r"holds no \.safetensors weights, and pickled ones are never loaded"):
        get_object_judge("mask2former", options | {"detector": str(folder)})


def test_a_model_of_another_kind_is_refused(options: dict[str, str], clip_folder: Path, detector_folder: Path):
    with pytest.raises(EvaluationError, match="a 'clip' model, not 'mask2former'"):
        get_object_judge("mask2former", options | {"detector": str(clip_folder)})
    with pytest.raises(EvaluationError, match="a 'mask2former' model, not 'clip'"):
        get_object_judge("mask2former", options | {"colors": str(detector_folder)})


def test_incomplete_weights_are_refused_instead_of_drawn_at_random(
    options: dict[str, str], detector_folder: Path, tmp_path: Path
):
    folder = copied(detector_folder, tmp_path / "incomplete")
    weights = load_file(folder / "model.safetensors")
    del weights["class_predictor.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=r"incomplete, 1 weights of Mask2Former.* first class_predictor\.weight"):
        get_object_judge("mask2former", options | {"detector": str(folder)})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"cut off"),
        ("config.json", b"{"),
        ("config.json", None),
        ("preprocessor_config.json", b"{"),
        ("preprocessor_config.json", None),
    ],
)
def test_damaged_and_missing_files_are_named(
    options: dict[str, str], detector_folder: Path, tmp_path: Path, name: str, content: bytes | None
):
    folder = copied(detector_folder, tmp_path / "damaged")
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    with pytest.raises(EvaluationError, match=r"damaged.*[Ff]etch the model again"):
        get_object_judge("mask2former", options | {"detector": str(folder)})


def test_a_colour_classifier_without_its_tokenizer_is_refused(
    options: dict[str, str], clip_folder: Path, tmp_path: Path
):
    folder = copied(clip_folder, tmp_path / "wordless")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(EvaluationError, match=r"holds no tokenizer \(tokenizer\.json, vocab\.json\)"):
        get_object_judge("mask2former", options | {"colors": str(folder)})
