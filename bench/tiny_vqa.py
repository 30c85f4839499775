"""Tiny models of the real classes, randomly initialised, that stand for what a VQA judge loads.

    from bench.tiny_vqa import save_blip
    save_blip(folder)    # then: VqaOptions(model=str(folder))

Each builder writes a complete checkpoint (config, safetensors, tokenizer, processor). Answers mean nothing, except
those of `save_blip` after `teach_colors`; what they share with real checkpoints is every line of code that runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessorPil,
    ViltProcessor,
)

WORDS = ["yes", "no", "Yes", "No", "a", "the", "is", "there", "on", "left", "red", "blue", "circle", "cat", "dog", "?"]
BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
SPREAD = 0.3  # of random weights: with the usual 0.02 so small a model gives every image the same answer
WIDTH, HEADS, SIDE_PX, PATCH_PX = 32, 2, 32, 8
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}User: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %} Assistant:{% endif %}"
)
LEARNING_STEPS, LEARNING_BATCH = 100, 16


def save_blip(folder: Path, *, seed: int = 0) -> BlipForQuestionAnswering:
    """A generator of short answers; returned too, for comparison."""
    torch.manual_seed(seed)
    tokenizer = _bert_tokenizer()
    text = {
        **_sizes(),
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": WIDTH,
        "projection_dim": WIDTH,
        "max_position_embeddings": 24,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**_sizes(), "image_size": SIDE_PX, "patch_size": PATCH_PX, "projection_dim": WIDTH}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=WIDTH)
    model = BlipForQuestionAnswering(config).eval()
    model.save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX})
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
    return model


def teach_colors(folder: Path, *, seed: int = 0) -> None:
    """Train the BLIP model in `folder` to say whether an image is red or blue when asked "is there red ?"; seconds."""
    torch.manual_seed(seed)
    model = BlipForQuestionAnswering.from_pretrained(folder).train()
    processor = BlipProcessor.from_pretrained(folder, backend="pil")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = np.random.default_rng(seed)
    for _ in range(LEARNING_STEPS):
        shown = generator.integers(2, size=LEARNING_BATCH)
        asked = generator.integers(2, size=LEARNING_BATCH)
        images = [plain_image(("red", "blue")[color]) for color in shown]
        questions = [f"is there {('red', 'blue')[color]} ?" for color in asked]
        answers = [f"{'yes' if same else 'no'}" for same in shown == asked]
        inputs = processor(images=images, text=questions, return_tensors="pt", padding=True)
        labels = processor.tokenizer(answers, return_tensors="pt", padding=True)["input_ids"]
        labels[:, 0] = model.config.text_config.bos_token_id  # the decoder is started with it, not with [CLS]
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)


def save_vilt(folder: Path, *, labels: Sequence[str] = ("no", "red", "yes", "two"), seed: int = 0) -> None:
    """A classifier over `labels`."""
    torch.manual_seed(seed)
    tokenizer = _bert_tokenizer()
    config = ViltConfig(
        **_sizes(),
        vocab_size=len(tokenizer),
        image_size=SIDE_PX,
        patch_size=PATCH_PX,
        max_position_embeddings=24,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    _enliven(ViltForQuestionAnswering(config)).save_pretrained(folder)
    image_processor = ViltImageProcessorPil(size={"shortest_edge": SIDE_PX}, size_divisor=PATCH_PX)
    ViltProcessor(image_processor, tokenizer).save_pretrained(folder)


def save_llava(folder: Path, *, seed: int = 0) -> None:
    """A chat model: one fixed-size view of the image."""
    torch.manual_seed(seed)
    tokenizer = _chat_tokenizer("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_sizes(), projection_dim=WIDTH, image_size=SIDE_PX, patch_size=PATCH_PX),
        text_config=_llama(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    _enliven(LlavaForConditionalGeneration(config)).save_pretrained(folder)
    size = {"height": SIDE_PX, "width": SIDE_PX}
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE_PX}, crop_size=size),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def save_idefics3(folder: Path, *, seed: int = 0) -> None:
    """A chat model that looks at the parts of a large image one by one; SmolVLM is of this class."""
    torch.manual_seed(seed)
    tokenizer = _chat_tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    config = Idefics3Config(
        vision_config={**_sizes(), "image_size": SIDE_PX, "patch_size": PATCH_PX},
        text_config=_llama(tokenizer).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    _enliven(Idefics3ForConditionalGeneration(config)).save_pretrained(folder)
    image_processor = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE_PX}, max_image_size={"longest_edge": SIDE_PX}
    )
    Idefics3Processor(
        image_processor,
        tokenizer,
        image_seq_len=(SIDE_PX // PATCH_PX) ** 2 // 4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def save_gemma3(folder: Path, *, seed: int = 0) -> None:
    """A chat model whose image tokens see one another in both directions."""
    torch.manual_seed(seed)
    marks = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = _chat_tokenizer(*marks.values(), marks=marks)
    config = Gemma3Config(
        vision_config={**_sizes(), "image_size": SIDE_PX, "patch_size": PATCH_PX},
        text_config={**_llama(tokenizer).to_dict(), "model_type": "gemma3_text", "head_dim": WIDTH // HEADS},
        mm_tokens_per_image=4,
        tie_word_embeddings=False,  # tied, so small a model only repeats the last word of the prompt
        boi_token_index=tokenizer.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokenizer.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    )
    _enliven(Gemma3ForConditionalGeneration(config)).save_pretrained(folder)
    Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}),
        tokenizer,
        image_seq_length=4,
        chat_template=CHAT_TEMPLATE.replace("IMAGE", "<start_of_image>"),
    ).save_pretrained(folder)


def save_qwen2_vl(folder: Path, *, seed: int = 0) -> None:
    """A chat model whose processor also reads videos: loading it needs torchvision, writing it does not."""
    torch.manual_seed(seed)
    tokenizer = _chat_tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": HEADS, "patch_size": PATCH_PX,
            "mlp_ratio": 2, "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        text_config={
            **_llama(tokenizer).to_dict(),
            "model_type": "qwen2_vl_text",
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0},
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )  # fmt: skip
    _enliven(Qwen2VLForConditionalGeneration(config)).save_pretrained(folder)
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH_PX, merge_size=2, size={"shortest_edge": SIDE_PX**2, "longest_edge": 4 * SIDE_PX**2}
    )
    image_processor.save_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    tokenizer.save_pretrained(folder)


def plain_image(color: str, side_px: int = SIDE_PX) -> np.ndarray:
    """uint8 RGB [side, side, 3], all "red" or all "blue"."""
    return np.full((side_px, side_px, 3), {"red": (220, 20, 20), "blue": (20, 20, 220)}[color], dtype=np.uint8)


def _enliven(model: torch.nn.Module) -> Any:
    """Random values where a new model has zeros: Gemma3's projector of image features, for one, would see no image."""
    for parameter in model.parameters():
        if not parameter.abs().sum():
            torch.nn.init.normal_(parameter, std=SPREAD)
    return model


def _sizes() -> dict[str, float]:
    return {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "initializer_range": SPREAD,
    }


def _llama(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        **_sizes(),
        num_key_value_heads=HEADS,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _bert_tokenizer() -> BertTokenizer:
    words = BERT_SPECIAL + sorted({word.lower() for word in WORDS})
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def _chat_tokenizer(*special: str, marks: dict[str, str] | None = None) -> PreTrainedTokenizerFast:
    """Words and single bytes, a space belonging to the word after it, as byte-level tokenizers do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", "<pad>", *special, *alphabet]
    merges = _merges([*WORDS, *(f"Ġ{word}" for word in WORDS)])
    names += dict.fromkeys("".join(pair) for pair in merges)
    inner = Tokenizer(
        models.BPE(vocab={name: number for number, name in enumerate(dict.fromkeys(names))}, merges=merges)
    )
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", extra_special_tokens=marks or {}
    )


def _merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Merges that join each word from its left end."""
    pairs = [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    return list(dict.fromkeys(pairs))
