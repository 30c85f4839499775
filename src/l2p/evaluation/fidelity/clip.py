"""Owns CLIP's view of images and prompts: embeddings, and the CLIP score of an image with its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from l2p.errors import EvaluationError
from l2p.evaluation.judges.pretrained import digest_folder, locate_weights

MAX_SCORE = 100.0


class ClipEmbedder:
    """Embeddings of images and texts, float32 [n, D], not normalised."""

    def __init__(self, model: str, device: str, *, option: str = "fidelity.clip") -> None:
        """`model` is a folder or a repository of the Hugging Face hub; `option` is what messages call the setting.

        Raises:
            EvaluationError: no CLIP model with .safetensors weights is there.
        """
        from transformers import AutoModel, AutoTokenizer, CLIPModel
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = locate_weights(model, None, option=option)
        self.name, self.digest = Path(model).name, digest_folder(folder)
        loaded = AutoModel.from_pretrained(folder, use_safetensors=True)
        if not isinstance(loaded, CLIPModel):
            raise EvaluationError(f"{option} = {model!r}: a {type(loaded).__name__}; expected a CLIPModel.")
        self._model = loaded.eval().to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._processor = CLIPImageProcessorPil.from_pretrained(folder)
        self._device = device

    @torch.inference_mode()
    def images(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Of uint8 RGB [H, W, 3] each."""
        pictures = [Image.fromarray(image) for image in images]
        pixels = self._processor(pictures, return_tensors="pt")["pixel_values"].to(self._device)
        return _features(self._model.get_image_features(pixel_values=pixels))

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Of prompts, cut to what CLIP reads."""
        longest = self._model.config.text_config.max_position_embeddings
        cut = {"truncation": True, "max_length": longest}
        tokens = self._tokenizer(list(texts), padding=True, **cut, return_tensors="pt").to(self._device)
        return _features(self._model.get_text_features(**tokens))


def clip_scores(images: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """100 max(cos, 0) of each image embedding [n, D] with its text's [n, D] (Hessel et al. 2021, arXiv 2104.08718)."""
    images, texts = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (images, texts))
    return MAX_SCORE * np.maximum((images * texts).sum(1), 0)


def _features(output: object) -> np.ndarray:
    """transformers 5 wraps them."""
    found = output if isinstance(output, torch.Tensor) else output.pooler_output  # type: ignore[attr-defined]
    return found.float().cpu().numpy()
