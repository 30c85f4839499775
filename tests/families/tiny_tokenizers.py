"""Owns offline tokenizers of the real classes, trained on a page of text: frequent words are one token, others several.

What the pipelines rely on is as in the real ones: special tokens, what is put before and after a text, padding side,
chat templates. Any text can be encoded.
"""

from __future__ import annotations

import inspect
import json
import re
import string
from collections.abc import Iterable
from functools import cache

from diffusers import Lumina2Pipeline, QwenImagePipeline, SanaPipeline
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import CLIPTokenizer, GemmaTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

TEXTS = (
    "a red circle",
    "a small blue square to the left of a large yellow triangle",
    "two green stars above a black cross, and three orange hexagons below them on a plain white background",
)

CLIP_LENGTH = 77
LETTERS = tuple(letter for letter in string.printable if not letter.isspace())
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL_CHAT = (
    "<s>{% for message in messages %}"
    "{% set tag = 'SYSTEM_PROMPT' if message['role'] == 'system' else 'INST' %}"
    "[{{ tag }}]{% for part in message['content'] %}{{ part['text'] }}{% endfor %}[/{{ tag }}]{% endfor %}"
)
MISTRAL_TAGS = ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]")


@cache
def corpus() -> tuple[str, ...]:
    """The lines that the tokenizers are trained on: our prompts, and every instruction that a pipeline adds to them."""
    qwen = QwenImagePipeline(*[None] * 5).prompt_template_encode
    lumina2 = Lumina2Pipeline(*[None] * 5).system_prompt
    sana = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    return *TEXTS, *re.split(r"<\|\w+\|>", qwen), SYSTEM_MESSAGE, f"{lumina2} <Prompt Start> ", *sana


def bpe(
    lines: Iterable[str], *, pre_tokenizer: pre_tokenizers.PreTokenizer, letters: Iterable[str], suffix: str = ""
) -> tuple[dict, list]:
    """Vocabulary and merges, learned until every word of the lines is one token; it begins with the letters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    letters = sorted(letters)
    ends = [f"{letter}{suffix}" for letter in letters] if suffix else []
    settings = {"end_of_word_suffix": suffix} if suffix else {}
    trainer = trainers.BpeTrainer(
        vocab_size=10_000,
        special_tokens=[*letters, *ends],  # else their order, and so the merges, differ from run to run
        show_progress=False,
        **settings,
    )
    tokenizer.train_from_iterator(lines, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def extended(vocabulary: dict[str, int], *tokens: str) -> dict[str, int]:
    """The vocabulary with tokens that it lacks, after its last one."""
    words = [*sorted(vocabulary, key=vocabulary.__getitem__), *tokens]
    return {word: index for index, word in enumerate(dict.fromkeys(words))}


@cache
def byte_level() -> tuple[dict, list]:
    """Byte-level BPE with the words of Qwen's pattern."""
    words = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    return bpe(corpus(), pre_tokenizer=words, letters=pre_tokenizers.ByteLevel.alphabet())


def clip_tokenizer(*, pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """<|startoftext|> text <|endoftext|>; lower case, 77 tokens. SDXL's and SD3's second one pads with "!"."""
    words = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    lines = [line.lower() for line in corpus()]
    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary, merges = bpe(lines, pre_tokenizer=words, letters=letters, suffix="</w>")
    vocabulary = extended(vocabulary, "<|startoftext|>", "<|endoftext|>")
    return CLIPTokenizer(vocabulary, merges, pad_token=pad_token, model_max_length=CLIP_LENGTH)


def t5_tokenizer() -> T5Tokenizer:
    """text </s>; <pad> is 0 and stands on the right."""
    words = {f"▁{word}" for line in corpus() for word in line.split()}
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    pieces += [(letter, -8.0) for letter in LETTERS] + [(word, -4.0) for word in sorted(words)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, additional_special_tokens=[], model_max_length=512)


def gemma_tokenizer() -> GemmaTokenizer:
    """<bos> text; pads on the left, as the saved ones do: the pipelines turn it to the right."""
    words = pre_tokenizers.Metaspace(prepend_scheme="never")
    vocabulary, merges = bpe(corpus(), pre_tokenizer=words, letters=LETTERS)
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *[f"<0x{byte:02X}>" for byte in range(256)])
    vocabulary = extended({token: index for index, token in enumerate(specials)}, *extended(vocabulary))
    tokenizer = GemmaTokenizer(vocabulary, merges, padding_side="left", model_max_length=8192)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer


def qwen_tokenizer() -> Qwen2Tokenizer:
    """The text alone; ChatML template; pads on the right with <|endoftext|>."""
    vocabulary, merges = byte_level()
    tokenizer = Qwen2Tokenizer(
        extended(vocabulary, "<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        merges,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        padding_side="right",
        model_max_length=8192,
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def byte_level_backend(*specials: str) -> Tokenizer:
    """A backend for the tokenizers that have no class of their own."""
    vocabulary, merges = byte_level()
    backend = Tokenizer(models.BPE(extended(vocabulary, *specials), merges))
    backend.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    backend.decoder = Qwen2Tokenizer().backend_tokenizer.decoder
    return backend


def glm_tokenizer() -> PreTrainedTokenizerFast:
    """[gMASK] <sop> text; pads on the left with <|endoftext|>."""
    backend = byte_level_backend("<|endoftext|>", "[gMASK]", "<sop>")
    prefix = [(token, backend.token_to_id(token)) for token in ("[gMASK]", "<sop>")]
    backend.post_processor = processors.TemplateProcessing(single="[gMASK] <sop> $A", special_tokens=prefix)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["[gMASK]", "<sop>"],
        padding_side="left",
        model_max_length=8192,
    )


def mistral_tokenizer() -> PreTrainedTokenizerFast:
    """The text alone; the chat template opens with <s>; pads on the left with <pad>."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level_backend("<unk>", "<s>", "</s>", "<pad>", *MISTRAL_TAGS),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(MISTRAL_TAGS),
        padding_side="left",
        model_max_length=8192,
    )
    tokenizer.chat_template = MISTRAL_CHAT
    return tokenizer
