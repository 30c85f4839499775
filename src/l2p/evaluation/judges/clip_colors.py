"""Owns GenEval's colour classifier: CLIP, asked zero-shot which of ten colours a cut-out object has.

Protocol of djghosh13/geneval (evaluate_images.py). B pictures, D width of CLIP's common space, C colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPModel

from l2p.evaluation.benchmark_data import COLORS
from l2p.evaluation.judges.base import Detection, UnjudgeableImage
from l2p.evaluation.judges.pretrained import (
    digest_folder,
    load_image_processor,
    load_model,
    load_tokenizer,
    locate_weights,
)
from l2p.files import sha256_file, sha256_json

TEMPLATES = ("a photo of a {color} {label}", "a photo of a {color}-colored {label}", "a photo of a {color} object")
BACKGROUND = (153, 153, 153)  # RGB, what surrounds an object: #999
_PICTURES_AT_ONCE = 64  # 224x224 each


class ClipColorClassifier:
    """Names the colour of an object by what its picture is most similar to."""

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, *, name: str, digest: str) -> None:
        """`model` is in eval mode on its device; `digest` covers whatever decides its answers."""
        self._model = model
        self._image_processor = image_processor
        self._tokenizer = tokenizer
        self._name = name
        self._digest = digest
        self._known: dict[str, Tensor] = {}

    @property
    def name(self) -> str:
        """Judge and model, for example "clip:clip-vit-large-patch14"."""
        return self._name

    @property
    def digest(self) -> str:
        """SHA-256 of model files, precision, and this code."""
        return self._digest

    @property
    def colors(self) -> frozenset[str]:
        """The ten colours of the benchmark."""
        return frozenset(COLORS)

    @torch.inference_mode()
    def classify(self, objects: Sequence[tuple[np.ndarray, Detection]]) -> list[str]:
        """One colour per (image, detection of that image); pictures of all images go through CLIP together.

        Raises:
            UnjudgeableImage: a box without pixels, a mask that is not of the image's size, or an answer that is not
                finite.
        """
        pictures = [cut_out(image, detection) for image, detection in objects]
        colors: list[str] = []
        for start in range(0, len(pictures), _PICTURES_AT_ONCE):
            chosen = slice(start, start + _PICTURES_AT_ONCE)
            pictures_BD = self._embed_pictures(pictures[chosen])
            texts_BCD = torch.stack([self.embed_colors(detection.label) for _, detection in objects[chosen]])
            similarity_BC = torch.einsum("bd,bcd->bc", pictures_BD, texts_BCD)
            if not similarity_BC.isfinite().all():
                raise UnjudgeableImage(f"CLIP's {self._model.dtype} answer is not finite. Use dtype float32.")
            colors += [COLORS[number] for number in similarity_BC.argmax(dim=1).tolist()]
        return colors

    @torch.inference_mode()
    def embed_colors(self, label: str) -> Tensor:
        """Text embedding of each colour of an object called `label`: [C, D], float32, unit length; computed once.

        The mean of unit-length embeddings of `TEMPLATES`, brought to unit length again.
        """
        if label not in self._known:
            texts = [template.format(color=color, label=label) for color in COLORS for template in TEMPLATES]
            tokens = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
            embedded = self._model.get_text_features(**tokens).pooler_output.float()
            by_color_CTD = normalize(embedded, dim=-1).unflatten(0, (len(COLORS), len(TEMPLATES)))
            self._known[label] = normalize(by_color_CTD.mean(dim=1), dim=-1)
        return self._known[label]

    def _embed_pictures(self, pictures: list[Image.Image]) -> Tensor:
        """[B, D], float32, unit length."""
        pixels_BCHW = self._image_processor(pictures, return_tensors="pt")["pixel_values"]
        placed = pixels_BCHW.to(self._model.device, self._model.dtype)
        return normalize(self._model.get_image_features(pixel_values=placed).pooler_output.float(), dim=-1)


def load_color_classifier(model: str, revision: str | None, *, dtype: str, device: str) -> ClipColorClassifier:
    """Load the CLIP model in a folder or repository.

    Raises:
        EvaluationError: it is not there, no CLIP model, or incomplete.
    """
    folder = locate_weights(model, revision, option="geneval.judge_options.colors")
    return ClipColorClassifier(
        load_model(CLIPModel, folder, dtype=dtype, device=device),
        load_image_processor(folder),
        load_tokenizer(folder),
        name=f"clip:{Path(model).name}",
        digest=sha256_json([digest_folder(folder), dtype, COLORS, sha256_file(Path(__file__))]),
    )


def cut_out(image: np.ndarray, detection: Detection) -> Image.Image:
    """The object on `BACKGROUND`, cut to its box; without a mask, whatever is in the box.

    Args:
        image: uint8 RGB [H, W, 3].
        detection: an object of that image.

    Raises:
        UnjudgeableImage: the box holds no pixel of the image, or the mask is not of the image's size.
    """
    picture, mask = Image.fromarray(image), detection.mask
    if mask is not None:
        if mask.shape != image.shape[:2]:
            raise UnjudgeableImage(
                f"the mask of the {detection.label} is {list(mask.shape)}, but its image is {list(image.shape[:2])}."
            )
        picture = Image.composite(picture, Image.new("RGB", picture.size, BACKGROUND), Image.fromarray(mask))
    box = tuple(round(bound) for bound in detection.box)
    x0, y0, x1, y1 = (min(max(bound, 0), side) for bound, side in zip(box, picture.size * 2, strict=True))
    if x0 >= x1 or y0 >= y1:
        raise UnjudgeableImage(f"the box {list(detection.box)} of the {detection.label} holds no pixel of its image.")
    return picture.crop((x0, y0, x1, y1))
