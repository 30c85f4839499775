"""Tiny models of the real classes, randomly initialised, that stand for what GenEval's judge `mask2former` loads.

    from bench.tiny_judges import build_tiny_clip, build_tiny_mask2former
    options = {"detector": str(build_tiny_mask2former(folder)), "colors": str(build_tiny_clip(other_folder))}
    get_object_judge("mask2former", options)

Each builder writes a complete checkpoint (config, safetensors, image processor, tokenizer). What is found and which
colour it is said to have mean nothing, but both depend on the image; every line of code is the real one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    SwinConfig,
)

# COCO's 80 classes as the published checkpoints call them
COCO_LABELS = (
    "person bicycle car motorbike aeroplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter "
    "bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee "
    "skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass "
    "cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair sofa "
    "pottedplant bed diningtable toilet tvmonitor laptop mouse remote keyboard cell_phone microwave oven toaster sink "
    "refrigerator book clock vase scissors teddy_bear hair_drier toothbrush"
)
WIDTH, HEADS, QUERIES = 32, 2, 20  # width: a multiple of the 32 groups that Mask2Former normalises in
SIDE_PX = 64  # of the square to which the checkpoint's own processor brings every image; the published one: 384
CLIP_SIDE_PX, CLIP_PATCH_PX = 32, 8
CERTAINTY = 60.0  # factor on the class head: with the usual random weights no class would stand out
CONTRAST = 20.0  # factor on what masks are made of: every pixel would be as much in the mask as outside it
SPREAD = 0.3  # of CLIP's random weights: with the usual 0.02 every image would have the same colour


def build_tiny_mask2former(folder: Path, *, seed: int = 0) -> Path:
    """A Mask2Former with a Swin backbone that knows COCO's 80 classes; returns `folder`."""
    torch.manual_seed(seed)
    names = [name.replace("_", " ") for name in COCO_LABELS.split()]
    config = Mask2FormerConfig(
        backbone_config=SwinConfig(
            embed_dim=16,
            depths=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 2],
            window_size=4,
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        feature_size=WIDTH,
        mask_feature_size=WIDTH,
        hidden_dim=WIDTH,
        encoder_feedforward_dim=WIDTH,
        dim_feedforward=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=HEADS,
        num_queries=QUERIES,
        id2label=dict(enumerate(names)),
        label2id={name: number for number, name in enumerate(names)},
    )
    model = Mask2FormerForUniversalSegmentation(config).eval()
    model.class_predictor.weight.data *= CERTAINTY
    model.model.pixel_level_module.decoder.mask_projection.weight.data *= CONTRAST
    model.save_pretrained(folder)
    # as published: a square, whatever the shape of the image
    Mask2FormerImageProcessorPil(size={"height": SIDE_PX, "width": SIDE_PX}).save_pretrained(folder)
    return folder


def build_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """A CLIP model whose tokenizer reads any text byte by byte; returns `folder`."""
    torch.manual_seed(seed)
    tokenizer = _byte_tokenizer()
    sizes = {
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "initializer_factor": SPREAD / 0.02,
    }
    text = CLIPTextConfig(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(**sizes, image_size=CLIP_SIDE_PX, patch_size=CLIP_PATCH_PX)
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=WIDTH)
    CLIPModel(config).eval().save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": CLIP_SIDE_PX}, crop_size={"height": CLIP_SIDE_PX, "width": CLIP_SIDE_PX}
    )
    CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    return folder


def _byte_tokenizer() -> CLIPTokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={name: number for number, name in enumerate(names)}, merges=[])
