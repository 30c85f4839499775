"""Owns what Mask2Former's logits mean: the objects of an image, with scores, boxes and masks, as mmdet finds them.

Formula: mmdet 2.x, mmdet/models/seg_heads/panoptic_fusion_heads/maskformer_fusion_head.py. Sizes are (height, width)
in pixels. Q queries, K classes, N instances, H W pixels, L pixels of a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from l2p.evaluation.judges.base import Detection, UnjudgeableImage

MAX_INSTANCES = 100  # (query, class) pairs of an image that are looked at
MIN_SCORE = 0.3  # no task of GenEval counts an object at or below this, so none is returned
_MASKS_AT_ONCE = 16  # at full resolution; bounds memory in crowded images

Size = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """An image's size as it came, as it was scaled, and as the network saw it, with padding below and on the right."""

    original: Size
    scaled: Size
    padded: Size


def find_instances(
    class_logits_QK: Tensor, mask_logits_QHW: Tensor, sizes: Sizes, labels: Sequence[str]
) -> list[Detection]:
    """The objects of one image, most certain class first.

    Args:
        class_logits_QK: per query one column per class, and a last one for "no object".
        mask_logits_QHW: per query a mask in a quarter of `sizes.padded`.
        sizes: of the image on its way to the network.
        labels: names of the classes.

    Returns:
        Every (query, class) among the `MAX_INSTANCES` most certain whose score, the class's probability times the mean
        probability of the pixels in the mask, is above `MIN_SCORE`. Boxes fit their masks, of the original size.

    Raises:
        UnjudgeableImage: a logit is not finite.
    """
    if not (class_logits_QK.isfinite().all() and mask_logits_QHW.isfinite().all()):
        raise UnjudgeableImage(f"the detector's {class_logits_QK.dtype} answer is not finite. Use dtype float32.")
    probabilities_QK = class_logits_QK.float().softmax(dim=-1)[:, :-1]
    num_classes = probabilities_QK.shape[1]
    scores_N, places_N = probabilities_QK.flatten().topk(min(MAX_INSTANCES, probabilities_QK.numel()))
    places_N = places_N[scores_N > MIN_SCORE]  # the mask only lowers a score, so the others need none
    found: list[Detection] = []
    for start in range(0, len(places_N), _MASKS_AT_ONCE):
        places = places_N[start : start + _MASKS_AT_ONCE]
        logits_NHW = _to_original_size(mask_logits_QHW[places // num_classes].float(), sizes)
        masks_NHW = logits_NHW > 0
        certainty_N = (logits_NHW.sigmoid() * masks_NHW).sum((1, 2)) / (masks_NHW.sum((1, 2)) + 1e-6)
        scores_N = probabilities_QK.flatten()[places] * certainty_N
        kept = scores_N > MIN_SCORE  # a mask without pixels has score 0
        classes = (places[kept] % num_classes).tolist()
        boxes = _boxes(masks_NHW[kept]).tolist()
        masks = masks_NHW[kept].cpu().numpy()
        for number, score, box, mask in zip(classes, scores_N[kept].tolist(), boxes, masks, strict=True):
            found.append(Detection(labels[number], score, (box[0], box[1], box[2], box[3]), mask))
    return found


def _to_original_size(mask_logits_NHW: Tensor, sizes: Sizes) -> Tensor:
    """Mask logits in pixels of the image: scaled to what the network saw, without its padding, scaled back."""
    padded = _scale(mask_logits_NHW, sizes.padded)
    return _scale(padded[:, : sizes.scaled[0], : sizes.scaled[1]], sizes.original)


def _scale(maps_NHW: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps_NHW[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _boxes(masks_NHW: Tensor) -> Tensor:
    """(x0, y0, x1, y1) float [N, 4] around the pixels of each mask, upper bounds exclusive; no mask is empty."""
    low_x, high_x = _extent(masks_NHW.any(dim=1))
    low_y, high_y = _extent(masks_NHW.any(dim=2))
    return torch.stack([low_x, low_y, high_x, high_y], dim=1).float()


def _extent(hit_NL: Tensor) -> tuple[Tensor, Tensor]:
    """First true position of each row, and one after the last."""
    hit_NL = hit_NL.int()  # argmax gives the first of equals
    return hit_NL.argmax(dim=1), hit_NL.shape[1] - hit_NL.flip(1).argmax(dim=1)
