"""Owns the judge `mask2former`: GenEval's object detector, with CLIP for the colours.

The official tool runs Mask2Former (Swin-S, COCO instances) in mmdet 2.x; this runs the same architecture in
transformers, with mmdet's image size (configs/mask2former) and its post-processing (`mask2former_instances`). What
still differs: the weights (mmdet trained its own), and how images are scaled (by Pillow, not by OpenCV).

Sizes are (height, width) in pixels. B images, C channels, Q queries, K classes, H W pixels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from transformers import Mask2FormerForUniversalSegmentation

from l2p.evaluation.judges.base import Detection, JudgeOptions, ObjectJudge, UnjudgeableImage
from l2p.evaluation.judges.clip_colors import load_color_classifier
from l2p.evaluation.judges.mask2former_instances import Size, Sizes, find_instances
from l2p.evaluation.judges.pretrained import digest_folder, load_image_processor, load_model, locate_weights
from l2p.files import sha256_file, sha256_json

SHORT_SIDE_PX, LONG_SIDE_PX, DIVISOR_PX = 800, 1333, 32  # of mmdet's test pipeline
CPU_PIXELS_AT_ONCE = 4 * SHORT_SIDE_PX**2
# What published checkpoints call COCO's classes -> what GenEval's object_names.txt calls them.
GENEVAL_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "mouse": "computer mouse",
    "remote": "tv remote",
    "keyboard": "computer keyboard",
}


class Mask2FormerOptions(JudgeOptions):
    """Which detector, which colour classifier, and how they look at images."""

    detector: str = Field(
        default="facebook/mask2former-swin-small-coco-instance",
        min_length=1,
        description="Folder or Hugging Face repository of a Mask2Former that finds COCO's classes.",
    )
    detector_revision: str | None = Field(default=None, description="Commit of the detector's repository.")
    colors: str = Field(
        default="openai/clip-vit-large-patch14",
        min_length=1,
        description="Folder or Hugging Face repository of a CLIP model, which names the colours.",
    )
    colors_revision: str | None = Field(default=None, description="Commit of the colour classifier's repository.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="Precision of both models.")
    image_size: Literal["official", "checkpoint"] = Field(
        default="official",
        description="`official`: the detector sees images scaled to 800 pixels (long side at most 1333), as in the "
        "official tool; `checkpoint`: whatever size the checkpoint's own image processor sets (384x384, whatever the "
        "shape, in the published ones).",
    )


class Mask2FormerDetector:
    """Finds objects. A call is a batch of the network for each size of image in it; on a CPU, several small ones."""

    def __init__(
        self, model: Any, image_processor: Any, *, image_size: Literal["official", "checkpoint"], name: str, digest: str
    ) -> None:
        """`model` is in eval mode on its device; `digest` covers whatever decides its answers."""
        self._model = model
        self._image_processor = image_processor
        self._image_size = image_size
        self._name = name
        self._digest = digest
        self._labels = geneval_names(model.config.id2label)

    @property
    def name(self) -> str:
        """Judge and model, for example "mask2former:mask2former-swin-small-coco-instance"."""
        return self._name

    @property
    def digest(self) -> str:
        """SHA-256 of model files, options that change answers, and this code."""
        return self._digest

    @property
    def labels(self) -> frozenset[str]:
        """The checkpoint's classes, by GenEval's names."""
        return frozenset(self._labels)

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Objects of each image (uint8 RGB [H, W, 3]) with a score above `MIN_SCORE`, each with its mask.

        Raises:
            UnjudgeableImage: not uint8 RGB [H, W, 3].
        """
        for image in images:
            _check_rgb(image)
        found: dict[int, list[Detection]] = {}
        # One size at a time: the network does not know padding from picture, so that padding an image to the size of
        # another would make its answer depend on the batch.
        for shape in dict.fromkeys(image.shape for image in images):
            same = [place for place, image in enumerate(images) if image.shape == shape]
            step = self._images_at_once((shape[0], shape[1]))
            for places in (same[start : start + step] for start in range(0, len(same), step)):
                found.update(zip(places, self._detect_one_size([images[place] for place in places]), strict=True))
        return [found[place] for place in range(len(images))]

    def _detect_one_size(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        pixels_BCHW, sizes = self._prepare(images)
        seen = self._model(pixel_values=pixels_BCHW.to(self._model.dtype))
        pairs = zip(seen.class_queries_logits, seen.masks_queries_logits, strict=True)
        return [find_instances(classes_QK, masks_QHW, sizes, self._labels) for classes_QK, masks_QHW in pairs]

    def _images_at_once(self, original: Size) -> int:
        """An accelerator takes all; a CPU is slower at batches that leave its caches (`python -m bench.judging`)."""
        if self._model.device.type != "cpu" or self._image_size == "checkpoint":
            return sys.maxsize
        height, width = official_size(original)
        return max(1, CPU_PIXELS_AT_ONCE // (height * width))

    def _prepare(self, images: Sequence[np.ndarray]) -> tuple[Tensor, Sizes]:
        """What the network sees, float32 on its device. Only scaling is done on the CPU: it is bound by it."""
        processor = self._image_processor
        original: Size = (images[0].shape[0], images[0].shape[1])
        own_size: dict[str, Any] = {}
        if self._image_size == "official":
            height, width = official_size(original)
            own_size = {"do_resize": True, "size": {"height": height, "width": width}, "size_divisor": 0}
        scaled = processor(list(images), do_rescale=False, do_normalize=False, return_tensors="pt", **own_size)
        pixels_BCHW = scaled["pixel_values"].to(self._model.device).float()
        if processor.do_rescale:
            pixels_BCHW = pixels_BCHW * processor.rescale_factor
        if processor.do_normalize:
            mean, std = (pixels_BCHW.new_tensor(each) for each in (processor.image_mean, processor.image_std))
            pixels_BCHW = (pixels_BCHW - mean[:, None, None]) / std[:, None, None]
        height, width = pixels_BCHW.shape[-2:]
        padded = (_round_up(height), _round_up(width))
        pixels_BCHW = functional.pad(pixels_BCHW, (0, padded[1] - width, 0, padded[0] - height))
        return pixels_BCHW, Sizes(original, (height, width), padded)


def object_judge(options: Mask2FormerOptions, device: str) -> ObjectJudge:
    """Load both models of `options`.

    Raises:
        EvaluationError: a model is not there, of another kind, or incomplete.
    """
    return ObjectJudge(
        _load_detector(options, device),
        load_color_classifier(options.colors, options.colors_revision, dtype=options.dtype, device=device),
    )


def official_size(size: Size) -> Size:
    """The size to which mmdet's test pipeline scales an image."""
    scale = min(LONG_SIDE_PX / max(size), SHORT_SIDE_PX / min(size))
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def geneval_names(id2label: Mapping[int, str]) -> list[str]:
    """The classes of a checkpoint, by number, each by GenEval's name where that differs."""
    return [GENEVAL_NAMES.get(id2label[number], id2label[number]) for number in range(len(id2label))]


def _load_detector(options: Mask2FormerOptions, device: str) -> Mask2FormerDetector:
    folder = locate_weights(options.detector, options.detector_revision, option="geneval.judge_options.detector")
    model = load_model(Mask2FormerForUniversalSegmentation, folder, dtype=options.dtype, device=device)
    return Mask2FormerDetector(
        model,
        load_image_processor(folder),
        image_size=options.image_size,
        name=f"mask2former:{Path(options.detector).name}",
        digest=sha256_json([digest_folder(folder), options.dtype, options.image_size, _code_digest()]),
    )


def _code_digest() -> str:
    return sha256_json([sha256_file(path) for path in sorted(Path(__file__).parent.glob("mask2former*.py"))])


def _round_up(length_px: int) -> int:
    return -(-length_px // DIVISOR_PX) * DIVISOR_PX


def _check_rgb(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise UnjudgeableImage(f"expected uint8 RGB [H, W, 3], found {image.dtype} {list(image.shape)}.")
