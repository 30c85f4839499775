"""Owns tiny text encoders of the real classes; each takes the tokenizer that its ids come from.

Weights are larger than the usual 0.02, so that a different text makes a clearly different embedding.
"""

from __future__ import annotations

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GlmConfig,
    GlmModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)
from transformers.utils import is_torchvision_available

WIDTH = 32
STD = 0.2
DECODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": WIDTH // 2,
    "initializer_range": STD,
}
T5 = {"d_model": WIDTH, "d_kv": WIDTH // 2, "d_ff": 2 * WIDTH, "num_layers": 2, "num_heads": 2}
MISTRAL_WIDTH = 16  # FLUX.2 reads three layers, side by side
MISTRAL_LAYERS = 31  # of which the outermost is hidden_states[30]: not yet normalised, as in the real one of 40 layers


def specials(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """Vocabulary size and special ids, by the names that configurations have for them."""
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }


def clip(tokenizer: PreTrainedTokenizerBase, *, width: int, projected: bool) -> PreTrainedModel:
    """CLIP's text tower; the pooled output has the same width with and without the projection."""
    config = CLIPTextConfig(
        **specials(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        initializer_factor=2.0,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(tokenizer: PreTrainedTokenizerBase) -> T5EncoderModel:
    """T5 v1.1's encoder."""
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), feed_forward_proj="gated-gelu", **T5))


def umt5(tokenizer: PreTrainedTokenizerBase) -> UMT5EncoderModel:
    """UMT5's encoder, in which every layer has its own relative positions."""
    return UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **T5))


def gemma2(tokenizer: PreTrainedTokenizerBase) -> Gemma2Model:
    """Gemma 2, with alternating sliding and full attention."""
    return Gemma2Model(Gemma2Config(**specials(tokenizer), **DECODER, query_pre_attn_scalar=WIDTH // 2))


def glm(tokenizer: PreTrainedTokenizerBase) -> GlmModel:
    """GLM-4."""
    return GlmModel(GlmConfig(**specials(tokenizer), **DECODER))


def qwen3(tokenizer: PreTrainedTokenizerBase) -> Qwen3Model:
    """Qwen 3."""
    return Qwen3Model(Qwen3Config(**specials(tokenizer), **DECODER))


def qwen_vl(tokenizer: PreTrainedTokenizerBase) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen 2.5 VL, with the smallest tower for the images that nobody gives it."""
    text = {name: value for name, value in DECODER.items() if name != "head_dim"}
    rope = {"type": "mrope", "mrope_section": [2, 3, 3]}  # half a head
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    config = Qwen2_5_VLConfig(text_config={**specials(tokenizer), **text, "rope_scaling": rope}, vision_config=vision)
    return Qwen2_5_VLForConditionalGeneration(config)


def mistral3(tokenizer: PreTrainedTokenizerBase) -> Mistral3ForConditionalGeneration:
    """Mistral Small 3, with the smallest tower for the images that nobody gives it."""
    text = MistralConfig(
        **specials(tokenizer),
        hidden_size=MISTRAL_WIDTH,
        intermediate_size=2 * MISTRAL_WIDTH,
        num_hidden_layers=MISTRAL_LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=MISTRAL_WIDTH // 2,
        initializer_range=STD,
        sliding_window=None,
    )
    vision = PixtralVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    image_token = tokenizer.convert_tokens_to_ids("[IMG]")
    return Mistral3ForConditionalGeneration(
        Mistral3Config(text_config=text, vision_config=vision, image_token_index=image_token)
    )


def pixtral_processor(tokenizer: PreTrainedTokenizerBase) -> ProcessorMixin | PreTrainedTokenizerBase:
    """What FLUX.2 calls its tokenizer. Without torchvision there is no processor: then the tokenizer in it.

    Both turn conversations into the same ids.
    """
    if not is_torchvision_available():
        return tokenizer
    from transformers import PixtralImageProcessor, PixtralProcessor

    return PixtralProcessor(
        image_processor=PixtralImageProcessor(patch_size=14),
        tokenizer=tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=tokenizer.chat_template,
    )


@torch.no_grad()
def fill_padding(encoder: torch.nn.Module) -> None:
    """Give the padding token an embedding: trained models have one, new ones have zeros, which would hide errors."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            torch.nn.init.normal_(module.weight[module.padding_idx], std=STD)
