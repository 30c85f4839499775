"""Owns the text side of the embedded source: a word-level fast tokenizer with a chat template and a small Qwen3."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from l2p.shapes.captions import words

MAX_CAPTION_TOKENS = 32  # also the multiple to which Z-Image pads a caption
HIDDEN_SIZE = 192
SPECIAL_TOKENS = ("<|pad|>", "<|unk|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|user|> {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; punctuation stands alone."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL_TOKENS, *words()])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        padding_side="right",
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def build_text_encoder(vocabulary_size: int) -> Qwen3Model:
    """Three layers, of which the last is unused: Z-Image reads `hidden_states[-2]`."""
    config = Qwen3Config(
        vocab_size=vocabulary_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=2 * HIDDEN_SIZE,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=48,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return Qwen3Model._from_config(config, attn_implementation="eager")


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions -> token ids [N, 32] and mask bool [N, 32], through the chat template as ZImagePipeline applies it."""
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": caption}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        for caption in captions
    ]
    batch = tokenizer(chats, padding="max_length", max_length=MAX_CAPTION_TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask.bool()


def encode(text_encoder: Qwen3Model, ids: torch.Tensor) -> torch.Tensor:
    """Token ids [B, L] -> prompt embeddings [B, L, 192], differentiable.

    No mask: attention is causal and padding stands on the right, so real tokens never see it.
    """
    return text_encoder(input_ids=ids, attention_mask=None, output_hidden_states=True).hidden_states[-2]
