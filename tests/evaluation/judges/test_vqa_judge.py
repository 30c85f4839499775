"""Judge `vqa`: every kind of model on tiny ones of the real classes, batches, both forms of answers, and refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    BertConfig,
    BertModel,
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForQuestionAnswering,
    BlipProcessor,
    GenerationConfig,
)
from transformers.utils import is_torchvision_available

from bench import tiny_vqa
from l2p.errors import ConfigError, EvaluationError
from l2p.evaluation.judges import get_question_judge
from l2p.evaluation.judges.base import QuestionAnswerer, UnjudgeableImage
from l2p.evaluation.judges.vqa import VqaJudge
from l2p.evaluation.judges.vqa_answers import louder, one_token_spellings, tidy
from l2p.evaluation.judges.vqa_chat import OncePerImage

BUILDERS: dict[str, Callable[[Path], object]] = {
    "blip": tiny_vqa.save_blip,
    "vilt": tiny_vqa.save_vilt,
    "llava": tiny_vqa.save_llava,
    "idefics3": tiny_vqa.save_idefics3,
    "gemma3": tiny_vqa.save_gemma3,
    "qwen2_vl": tiny_vqa.save_qwen2_vl,
}
needs_torchvision = pytest.mark.skipif(not is_torchvision_available(), reason="its processor reads videos")
QWEN = pytest.param("qwen2_vl", marks=needs_torchvision)
CHAT = ["llava", "idefics3", "gemma3", QWEN]
EVERY_KIND = ["blip", "vilt", *CHAT]
QUESTIONS = ["is there a dog ?", "is the big red circle on the left ?", "is there a cat ?"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model by the name of its kind; do not write into it."""
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("vqa") / f"tiny-{kind}"
            BUILDERS[kind](made[kind])
        return made[kind]

    return folder_of


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a BLIP model that knows red from blue."""
    folder = tmp_path_factory.mktemp("vqa") / "taught"
    tiny_vqa.save_blip(folder)
    tiny_vqa.teach_colors(folder)
    return folder


def judge(folder: Path, **options: Any) -> QuestionAnswerer:
    return get_question_judge("vqa", {"model": str(folder), **options})


def noise(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize("form", ["exact", "logits"])
def test_a_model_that_was_taught_colors_answers_yes_and_no(taught: Path, form: str):
    asked = [
        (tiny_vqa.plain_image(shown), f"Is there {word}?") for shown in ("red", "blue") for word in ("red", "blue")
    ]
    assert judge(taught, answers=form).answer(asked) == ["yes", "no", "no", "yes"]


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("form", ["exact", "logits"])
def test_an_answer_does_not_depend_on_the_rest_of_the_batch(checkpoint: Callable[[str], Path], kind: str, form: str):
    answerer = judge(checkpoint(kind), answers=form)
    images = [noise(seed=0), noise(64, 32, seed=1), noise(seed=2)]
    asked = [(image, question) for image in images for question in QUESTIONS]
    assert answerer.answer(asked) == [answerer.answer([one])[0] for one in asked]


@pytest.mark.parametrize("kind", ["blip", *CHAT])
def test_first_token_logits_in_a_batch_are_those_of_one_question(checkpoint: Callable[[str], Path], kind: str):
    answerer = judge(checkpoint(kind), answers="logits")
    keep_logits(answerer)
    images = [noise(seed=0), noise(seed=1), noise(seed=2)]
    asked = [(image, question) for image in images for question in QUESTIONS]
    together = torch.tensor(answerer.answer(asked))
    alone = torch.tensor([answerer.answer([one])[0] for one in asked])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    distances = torch.cdist(alone, alone) + torch.eye(len(asked))
    assert distances.min() > 1e-2  # each image and each question counts, so the comparison can fail


def keep_logits(answerer: QuestionAnswerer) -> None:
    """Let a judge return the logits of the first token instead of words, for tests that words are too coarse for."""
    assert isinstance(answerer, VqaJudge)
    reader: Any = answerer._answerer._reader  # type: ignore[attr-defined]
    reader.read = lambda output, prompt_length: output.logits[0].tolist()


@pytest.mark.parametrize("question", QUESTIONS)
def test_blip_answers_what_its_own_generate_does(checkpoint: Callable[[str], Path], question: str):
    folder = checkpoint("blip")
    model = BlipForQuestionAnswering.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder, backend="pil")
    answerer = judge(folder, answers="logits")
    keep_logits(answerer)
    for seed in range(3):
        inputs = processor(images=Image.fromarray(noise(seed=seed)), text=question, return_tensors="pt")
        expected = model.generate(**inputs, max_new_tokens=1, output_logits=True, return_dict_in_generate=True)
        found = torch.tensor(answerer.answer([(noise(seed=seed), question)]))
        torch.testing.assert_close(found, expected.logits[0], atol=1e-4, rtol=1e-4)


def test_blip_encodes_an_image_once_for_all_its_questions(checkpoint: Callable[[str], Path]):
    answerer = judge(checkpoint("blip"))
    encoded: list[int] = []
    model: Any = answerer._answerer._model  # type: ignore[attr-defined]
    model.vision_model.register_forward_hook(lambda _, __, output: encoded.append(len(output.last_hidden_state)))
    first, second = noise(seed=0), noise(seed=1)
    answerer.answer([(image, question) for image in (first, second) for question in QUESTIONS])
    assert encoded == [2]


@pytest.mark.parametrize("kind", CHAT)
def test_a_chat_model_gets_each_image_prepared_once(checkpoint: Callable[[str], Path], kind: str):
    answerer = judge(checkpoint(kind))
    image_processor: Any = answerer._answerer._processor.image_processor  # type: ignore[attr-defined]
    prepare, prepared = image_processor.preprocess, []

    def count(images: Any, *args: Any, **options: Any) -> Any:
        prepared.append(len(images))
        return prepare(images, *args, **options)

    image_processor._image_processor.preprocess = count
    first, second = noise(seed=0), noise(seed=1)
    answerer.answer([(image, question) for image in (first, second) for question in QUESTIONS])
    assert prepared == [1, 1]


@pytest.mark.parametrize("kind", CHAT)
@pytest.mark.parametrize("tensors", ["pt", "np", None])
def test_preparing_an_image_once_gives_what_preparing_every_copy_gives(
    checkpoint: Callable[[str], Path], kind: str, tensors: str | None
):
    inner = AutoImageProcessor.from_pretrained(checkpoint(kind), backend="pil")
    first, second = Image.fromarray(noise(seed=0)), Image.fromarray(noise(seed=1))
    nested = [[first], [first], [second], [second], [second]]
    images = [image for (image,) in nested] if kind in ("llava", "qwen2_vl") else nested
    expected, found = inner(images, return_tensors=tensors), OncePerImage(inner)(images, return_tensors=tensors)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value)
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(value), strict=True)


def test_a_chat_model_is_asked_with_its_template_and_the_prompt(checkpoint: Callable[[str], Path]):
    answerer = judge(checkpoint("llava"), prompt="On {question} yes")
    seen: list[str] = []
    processor: Any = answerer._answerer._processor  # type: ignore[attr-defined]
    tokenize = processor.tokenizer._encode_plus
    processor.tokenizer._encode_plus = lambda text, *args, **options: (
        seen.extend(text) or tokenize(text, *args, **options)
    )
    answerer.answer([(noise(), "is there a cat ?")])
    (text,) = seen
    assert text.replace("<image>", "") == "<s>User: On is there a cat ? yes</s> Assistant:"


@pytest.mark.parametrize("kind", CHAT)
def test_sampling_settings_of_a_checkpoint_do_not_reach_the_answers(
    checkpoint: Callable[[str], Path], tmp_path: Path, kind: str
):
    BUILDERS[kind](tmp_path / "model")
    own = GenerationConfig.from_pretrained(tmp_path / "model")
    own.update(do_sample=True, temperature=9.0, top_k=3, repetition_penalty=3.0)
    own.save_pretrained(tmp_path / "model")
    asked = [(noise(seed=seed), question) for seed in range(2) for question in QUESTIONS]
    assert judge(tmp_path / "model").answer(asked) == judge(checkpoint(kind)).answer(asked)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_answers_in_half_precision(checkpoint: Callable[[str], Path], kind: str):
    answerer = judge(checkpoint(kind), dtype="bfloat16", answers="logits")
    assert set(answerer.answer([(noise(), question) for question in QUESTIONS])) <= {"yes", "no"}


def test_a_classifier_chooses_among_all_its_labels_or_between_two(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model", labels=("Yes", "two", "no"))
    state = load_file(tmp_path / "model" / "model.safetensors")
    state["classifier.3.weight"] = torch.zeros_like(state["classifier.3.weight"])
    state["classifier.3.bias"] = torch.tensor([1.0, 2.0, 0.0])  # two, then yes, then no
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert judge(tmp_path / "model", answers="exact").answer([(noise(), QUESTIONS[0])]) == ["two"]
    assert judge(tmp_path / "model", answers="logits").answer([(noise(), QUESTIONS[0])]) == ["yes"]


def test_a_classifier_looks_at_all_patches_and_leaves_the_random_state_alone(tmp_path: Path):
    labels = ["yes", "no", *map(str, range(200))]
    for name in ("all", "sampled"):
        tiny_vqa.save_vilt(tmp_path / name, labels=labels)
    edit_json(tmp_path / "sampled" / "config.json", max_image_length=3)
    answerer = judge(tmp_path / "sampled")
    asked = [(noise(seed=seed), question) for seed in range(4) for question in QUESTIONS]
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), answerer.answer(asked)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert answerer.answer(asked) == first == judge(tmp_path / "all").answer(asked)


def test_answers_come_in_the_order_of_the_questions_whatever_the_sizes(taught: Path):
    small, large = tiny_vqa.plain_image("red", 16), tiny_vqa.plain_image("blue", 40)
    asked = [
        (small, "is there red ?"),
        (large, "is there red ?"),
        (small, "is there blue ?"),
        (large, "is there blue ?"),
    ]
    assert judge(taught).answer(asked) == ["yes", "no", "no", "yes"]


def test_no_question_gets_no_answer(taught: Path):
    assert judge(taught).answer([]) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [("yes", "yes"), (" Yes.\n", "yes"), ("YES", "yes"), ("yes .", "yes"), ("No.", "no"), ("yes, it is", "yes, it is")],
)
def test_an_answer_is_read_without_case_space_and_full_stop(text: str, answer: str):
    assert tidy(text) == answer


def test_all_one_token_spellings_count_and_longer_words_do_not(checkpoint: Callable[[str], Path]):
    tokenizer: Any = judge(checkpoint("llava"))._answerer._processor.tokenizer  # type: ignore[attr-defined]
    spelled = tokenizer.convert_ids_to_tokens(one_token_spellings(tokenizer, "yes"))
    assert sorted(spelled) == ["Yes", "yes", "ĠYes", "Ġyes"]


def test_a_wordpiece_tokenizer_does_not_take_the_end_of_a_word_for_no():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "pia", "##no", "no"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    assert one_token_spellings(tokenizer, "no") == [7]


def test_the_loudest_spelling_decides_and_a_draw_is_no():
    logits = torch.tensor([[0.0, 3.0, 2.0], [3.0, 0.0, 3.0], [-1.0, -9.0, -2.0]])
    assert louder(logits, yes=[0, 1], no=[2]) == ["yes", "no", "yes"]


def test_the_name_says_model_and_form(checkpoint: Callable[[str], Path]):
    assert judge(checkpoint("blip"), answers="exact").name == "vqa:tiny-blip:exact"
    assert judge(checkpoint("vilt"), answers="logits").name == "vqa:tiny-vilt:logits"


def test_the_digest_follows_weights_and_options_and_not_the_place(checkpoint: Callable[[str], Path], tmp_path: Path):
    tiny_vqa.save_blip(tmp_path / "same")
    tiny_vqa.save_blip(tmp_path / "other", seed=1)
    base = judge(checkpoint("blip")).digest
    assert judge(tmp_path / "same").digest == base
    others = [
        judge(tmp_path / "other"),
        judge(tmp_path / "same", answers="logits"),
        judge(tmp_path / "same", prompt="{question}"),
        judge(tmp_path / "same", dtype="bfloat16"),
        judge(tmp_path / "same", max_new_tokens=3),
    ]
    assert len({base, *(other.digest for other in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((8, 8), np.uint8), "uint8 [8, 8]"),
        (np.zeros((8, 8, 4), np.uint8), "uint8 [8, 8, 4]"),
        (np.zeros((8, 8, 3), np.float32), "float32 [8, 8, 3]"),
        (np.zeros((0, 8, 3), np.uint8), "uint8 [0, 8, 3]"),
    ],
)
def test_an_array_that_is_no_rgb_image_cannot_be_judged(taught: Path, image: np.ndarray, found: str):
    with pytest.raises(UnjudgeableImage) as caught:
        judge(taught).answer([(image, "is there red ?")])
    assert found in str(caught.value)


@pytest.mark.parametrize("kind", ["blip", "vilt"])
def test_a_question_that_is_too_long_is_not_cut(checkpoint: Callable[[str], Path], kind: str):
    with pytest.raises(EvaluationError, match=r"has 42 tokens, .* at most 24"):
        judge(checkpoint(kind)).answer([(noise(), "is there a dog ? " * 8)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "Yes or no?"}, r"prompt.*\{question\}"),
        ({"max_new_tokens": 1}, "max_new_tokens"),
        ({"answers": "vote"}, "answers"),
        ({"models": "x"}, "models"),
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        judge(Path("nowhere"), **options)


def test_a_model_of_another_kind_is_refused_with_the_kinds_that_fit(tmp_path: Path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=9, **sizes)).save_pretrained(tmp_path / "text")
    with pytest.raises(
        EvaluationError, match=r"BertModel, .*BlipForQuestionAnswering, ViltForQuestionAnswering.*Llava"
    ):
        judge(tmp_path / "text")


def test_a_captioning_model_is_not_taken_for_a_vqa_model_of_its_family(
    checkpoint: Callable[[str], Path], tmp_path: Path
):
    tiny_vqa.save_blip(tmp_path / "caption")
    BlipForConditionalGeneration(BlipConfig.from_pretrained(tmp_path / "caption")).save_pretrained(tmp_path / "caption")
    with pytest.raises(EvaluationError, match="no chat template"):
        judge(tmp_path / "caption")


def test_a_chat_model_without_a_template_is_refused(tmp_path: Path):
    tiny_vqa.save_llava(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    with pytest.raises(EvaluationError, match="no chat template"):
        judge(tmp_path / "base")


def test_incomplete_weights_are_refused_instead_of_made_up(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model")
    state = load_file(tmp_path / "model" / "model.safetensors")
    del state["classifier.3.weight"]
    save_file(state, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=r"1 are missing, first classifier\.3\.weight"):
        judge(tmp_path / "model")


def test_damaged_weights_are_refused(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", hidden_size=16)
    with pytest.raises(EvaluationError, match="weights cannot be loaded"):
        judge(tmp_path / "model")


def test_a_config_of_no_known_model_is_refused(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model")
    edit_json(tmp_path / "model" / "config.json", model_type="brand_new", auto_map={"AutoConfig": "code.Config"})
    with pytest.raises(EvaluationError, match="no model known here"):
        judge(tmp_path / "model")


def test_a_checkpoint_without_its_processor_is_refused(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model")
    for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).unlink()
    with pytest.raises(EvaluationError, match="processor cannot be loaded"):
        judge(tmp_path / "model")


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_a_model_that_needs_torchvision_says_how_to_install_it(checkpoint: Callable[[str], Path]):
    with pytest.raises(EvaluationError, match=r"pip install 'torchvision.*without \(BLIP"):
        judge(checkpoint("qwen2_vl"))


def test_a_classifier_that_cannot_say_yes_is_refused(tmp_path: Path):
    tiny_vqa.save_vilt(tmp_path / "model", labels=("red", "no"))
    with pytest.raises(EvaluationError, match="do not include 'yes'"):
        judge(tmp_path / "model")


def test_logits_need_words_that_are_one_token(tmp_path: Path):
    tiny_vqa.save_blip(tmp_path / "model")
    vocabulary = json.loads((tmp_path / "model" / "tokenizer.json").read_text(encoding="utf-8"))
    words = vocabulary["model"]["vocab"]
    words["maybe"] = words.pop("yes")
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(EvaluationError, match="no single token for 'yes'"):
        judge(tmp_path / "model", answers="logits")
    assert judge(tmp_path / "model", answers="exact").answer([(noise(), QUESTIONS[0])])
