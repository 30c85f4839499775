"""Owns loading a VQA model of any fitting kind from a folder: which kind it is, its weights, its processor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoModelForVisualQuestionAnswering,
    AutoProcessor,
)

from l2p.errors import EvaluationError

Kind = Literal["blip", "vilt", "chat"]
_TRAINED: dict[str, Kind] = {"BlipForQuestionAnswering": "blip", "ViltForQuestionAnswering": "vilt"}
_TORCHVISION = "torchvision>=0.28,<0.29"  # the release that belongs to torch 2.13
_NAMED = 3


@dataclass(frozen=True)
class Checkpoint:
    """A model in eval mode on its device, and its processor."""

    kind: Kind
    model: Any
    processor: Any


def load_checkpoint(path: Path, *, dtype: str, device: str) -> Checkpoint:
    """Load the model in `path`; no pickle and no code of the checkpoint's own is run.

    Raises:
        EvaluationError: not a model that answers questions about images, incomplete, or a library is missing.
    """
    kind = _kind_of(path)
    processor = _load_processor(path)
    if kind == "chat" and not processor.chat_template:
        raise EvaluationError(
            f"{path}: {type(processor).__name__} has no chat template, so how to ask this model is not known. Choose "
            f"its instruction-tuned (chat) variant in dpg.judge_options.model."
        )
    auto_class: Any = AutoModelForImageTextToText if kind == "chat" else AutoModelForVisualQuestionAnswering
    try:
        model, loading = auto_class.from_pretrained(
            path, dtype=getattr(torch, dtype), use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise EvaluationError(
            f"{path}: weights cannot be loaded ({_one_line(error)}). Fetch the model again."
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise EvaluationError(
            f"{path}: weights of {type(model).__name__} are incomplete: {len(missing)} are missing, first "
            f"{', '.join(missing[:_NAMED])}; they would be random. Fetch the model again."
        )
    return Checkpoint(kind, model.eval().to(device), processor)


def _kind_of(path: Path) -> Kind:
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: config.json is of no model known here ({_one_line(error)}).") from error
    name = (config.architectures or ["no class"])[0]
    if name in _TRAINED:
        return _TRAINED[name]
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if type(config) in mapping and getattr(mapping[type(config)], "__name__", None) == name:
        return "chat"
    raise EvaluationError(
        f"{path}: config.json names {name}, which is no VQA model. Judge `vqa` takes {', '.join(_TRAINED)}, and chat "
        f"models that see images (Llava, Idefics3, Gemma3, Qwen2-VL, Qwen2.5-VL and others of transformers' "
        f"AutoModelForImageTextToText). Choose one in dpg.judge_options.model."
    )


def _load_processor(path: Path) -> Any:
    """The image processor is the one made of Pillow where there is one: torchvision's gives slightly other pixels."""
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        processor.image_processor = AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False)
    except ImportError as error:
        raise EvaluationError(
            f"{path}: its processor needs a library that is not installed ({_one_line(error)}) {_advice(error)}"
        ) from error
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path}: its processor cannot be loaded ({_one_line(error)}). Tokenizer and processor files belong beside "
            f"the weights; fetch the model again."
        ) from error
    return processor


def _advice(error: Exception) -> str:
    if "torchvision" not in str(error).lower():
        return "Install it, or choose another model in dpg.judge_options.model."
    return (
        f"Models that also read videos (Qwen-VL, SmolVLM2, Llava-OneVision, InternVL and others) need torchvision: run "
        f"`pip install '{_TORCHVISION}'`, or choose one that does without (BLIP, ViLT, Llava, Idefics3, Gemma3)."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
