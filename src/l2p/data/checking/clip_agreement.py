"""Owns CLIP's word on whether an image shows its prompt: its score against `validate.min_clip_score`."""

from __future__ import annotations

from collections.abc import Sequence
from pkgutil import resolve_name

import numpy as np

from l2p.config import ValidateParams
from l2p.errors import DataError, EvaluationError

# The evaluation's own CLIP, by name: the corpus and the scores are then measured by one and the same code.
_EMBEDDER = "l2p.evaluation.fidelity.clip:ClipEmbedder"
_SCORES = "l2p.evaluation.fidelity.clip:clip_scores"


class ClipAgreement:
    """Doubts an image whose CLIP score with its prompt is below the limit."""

    def __init__(self, model: str, min_score: float, device: str) -> None:
        """`model` is a folder or a repository id.

        Raises:
            DataError: no CLIP model is there.
        """
        try:
            self._embedder = resolve_name(_EMBEDDER)(model, device, option="validate.clip_model")
        except EvaluationError as error:
            raise DataError(str(error)) from error
        self._min_score = min_score
        self._texts: dict[str, np.ndarray] = {}

    @property
    def name(self) -> str:
        """Judge and model."""
        return f"clip:{self._embedder.name}"

    @property
    def digest(self) -> str:
        """SHA-256 of the model's files."""
        digest: str = self._embedder.digest
        return digest

    def doubts(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[str | None]:
        """The score of each image whose score is too low."""
        scores = resolve_name(_SCORES)(self._embedder.images(images), self._of_prompts(prompts))
        return [
            None if score >= self._min_score else f"CLIP score {score:.1f}, at least {self._min_score:g} wanted"
            for score in scores.tolist()
        ]

    def _of_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Embeddings; those of the batch before are kept, because repetitions of a prompt are neighbours."""
        new = [text for text in dict.fromkeys(prompts) if text not in self._texts]
        embedded = dict(zip(new, self._embedder.texts(new), strict=True)) if new else {}
        self._texts = {text: embedded.get(text, self._texts.get(text)) for text in prompts}  # type: ignore[misc]
        return np.stack([self._texts[text] for text in prompts])


def agreement_judge(limits: ValidateParams) -> ClipAgreement:
    """The judge of `agreement: clip`."""
    import torch

    assert limits.clip_model is not None  # the section is not valid without
    return ClipAgreement(limits.clip_model, limits.min_clip_score, "cuda" if torch.cuda.is_available() else "cpu")
