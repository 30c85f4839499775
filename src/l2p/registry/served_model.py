"""Owns the model as MLflow serves it: prompts in, PNG images out. MLflow executes this file ("models from code").

A row is a `prompt` and, if wanted, a `seed`; the answer holds one base64 PNG per row. The file travels inside the
logged model, with the delta beside it; the source model that the delta needs stays where its pin says.
"""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Mapping
from typing import Any

import pandas as pd

from l2p.registry.store import load_mlflow

BATCH_SIZE = 16
# What one request may ask for, so that it cannot take a server down; the model's configuration has its own.
LIMITS = {"max_rows": 64, "max_pixels": 4096 * 4096, "max_steps": 200, "max_prompt_chars": 2000}

_mlflow = load_mlflow()
_PythonModel: Any = _mlflow.pyfunc.PythonModel


class ServedModel(_PythonModel):
    """A pixel model behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:  # MLflow looks for an argument of exactly this name
        """Load the pipeline with the loader named in the model's configuration ("module:function")."""
        settings = context.model_config
        self.limits = {name: int(settings.get(name, largest)) for name, largest in LIMITS.items()}
        module, function = settings["loader"].split(":")
        load = getattr(importlib.import_module(module), function)
        self.pipeline = load(context.artifacts["delta"], device=_device(settings["device"]), dtype=settings["dtype"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """Draw one image per row.

        Args:
            context: unused.
            model_input: a data frame with `prompt` and optionally `seed`. Without a seed, row i has seed i.
            params: height_px, width_px, num_steps, guidance_scale; defaults are in the model's signature.

        Raises:
            ValueError: parameters are missing, or the model puts out numbers that are not finite.
            MlflowException: the request is larger than the limits; a server answers it with status 400.
        """
        if params is None:
            raise ValueError("params is None: expected height_px, width_px, num_steps and guidance_scale.")
        rows = as_rows(model_input)
        problem = oversize(rows, params, self.limits)
        if problem is not None:
            raise _mlflow.exceptions.MlflowException.invalid_parameter_value(problem)
        images: list[str] = []
        for start in range(0, len(rows), BATCH_SIZE):
            images += self._draw(rows[start : start + BATCH_SIZE], params)
        return images

    def _draw(self, rows: list[tuple[str, int]], params: Mapping[str, Any]) -> list[str]:
        import numpy as np
        import torch

        pixels_BHWC = self.pipeline(
            [prompt for prompt, _ in rows],
            height=int(params["height_px"]),
            width=int(params["width_px"]),
            num_inference_steps=int(params["num_steps"]),
            guidance_scale=float(params["guidance_scale"]),
            generator=[torch.Generator().manual_seed(seed) for _, seed in rows],
            output_type="np",
        ).images
        if not np.isfinite(pixels_BHWC).all():
            raise ValueError("the model put out numbers that are not finite; its weights are damaged.")
        return [_png_base64(pixels_HWC) for pixels_HWC in (pixels_BHWC * 255).round().astype(np.uint8)]


def as_rows(model_input: pd.DataFrame) -> list[tuple[str, int]]:
    """(prompt, seed) of each row."""
    seeds = pd.Series(range(len(model_input)))
    if "seed" in model_input:
        seeds = model_input["seed"].reset_index(drop=True).fillna(seeds)
    return [(str(prompt), int(seed)) for prompt, seed in zip(model_input["prompt"], seeds, strict=True)]


def oversize(rows: list[tuple[str, int]], params: Mapping[str, Any], limits: Mapping[str, int]) -> str | None:
    """What of a request is beyond the limits or makes no sense, in words, or None."""
    height, width, steps = int(params["height_px"]), int(params["width_px"]), int(params["num_steps"])
    longest = max((len(prompt) for prompt, _ in rows), default=0)
    if not 1 <= len(rows) <= limits["max_rows"]:
        return f"{len(rows)} rows: expected 1 to {limits['max_rows']}. Send several requests."
    if height < 1 or width < 1 or height * width > limits["max_pixels"]:
        return f"{width}x{height} pixels: at most {limits['max_pixels']:,} in all. Lower height_px or width_px."
    if not 1 <= steps <= limits["max_steps"]:
        return f"num_steps = {steps}: expected 1 to {limits['max_steps']}."
    if longest > limits["max_prompt_chars"]:
        return f"a prompt of {longest} characters: at most {limits['max_prompt_chars']}. Shorten it."
    if any(not prompt.strip() for prompt, _ in rows):
        return "an empty prompt. Say what to draw."
    return None


def _png_base64(pixels_HWC: Any) -> str:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels_HWC).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


_mlflow.models.set_model(ServedModel())
