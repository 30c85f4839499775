"""Owns the model as MLflow serves it: prompts in, PNG images out. MLflow executes this file ("models from code").

A row is a `prompt` and, if wanted, a `seed` and its own size, steps and guidance; the answer holds one base64 PNG per
row. The file travels inside the logged model, with the delta beside it; the source model that the delta needs stays
where its pin says, and so do weights that were registered by reference.
"""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from l2p.errors import L2PError
from l2p.registry.references import complete
from l2p.registry.store import load_mlflow

BATCH_SIZE = 16  # images drawn together at most; fewer where they are large
# What one request may ask for, so that it cannot take a server down; the model's configuration has its own.
LIMITS = {"max_rows": 64, "max_pixels": 4096 * 4096, "max_steps": 200, "max_prompt_chars": 2000}
SETTINGS = ("height_px", "width_px", "num_steps", "guidance_scale")

_mlflow = load_mlflow()
_PythonModel: Any = _mlflow.pyfunc.PythonModel


class Row(NamedTuple):
    """One image that is asked for."""

    prompt: str
    seed: int
    height_px: int
    width_px: int
    num_steps: int
    guidance_scale: float


class ServedModel(_PythonModel):
    """A pixel model behind MLflow's `predict`."""

    def load_context(self, context: Any) -> None:  # MLflow looks for an argument of exactly this name
        """Load the pipeline with the loader named in the model's configuration ("module:function")."""
        settings = context.model_config
        self.limits = {name: int(settings.get(name, largest)) for name, largest in LIMITS.items()}
        module, function = settings["loader"].split(":")
        load = getattr(importlib.import_module(module), function)
        delta = complete(Path(context.artifacts["delta"]))
        self.pipeline = load(delta, device=_device(settings["device"]), dtype=settings["dtype"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """Draw one image per row.

        Args:
            context: unused.
            model_input: a data frame with `prompt` and optionally `seed`, height_px, width_px, num_steps and
                guidance_scale. Without a seed, row i has seed i.
            params: the last four for all rows without their own; defaults are in the model's signature.

        Raises:
            MlflowException: the request is larger than the limits or not drawable, which a server answers with status
                400; or the model puts out numbers that are not finite (500).
        """
        rows = as_rows(model_input, params or {})
        problem = oversize(rows, self.limits)
        if problem is not None:
            raise _mlflow.exceptions.MlflowException.invalid_parameter_value(problem)
        try:
            return [image for batch in batches(rows, self.limits["max_pixels"]) for image in self._draw(batch)]
        except L2PError as error:
            raise _mlflow.exceptions.MlflowException.invalid_parameter_value(str(error)) from None

    def _draw(self, rows: list[Row]) -> list[str]:
        import numpy as np
        import torch

        pixels_BHWC = self.pipeline(
            [row.prompt for row in rows],
            height=rows[0].height_px,
            width=rows[0].width_px,
            num_inference_steps=rows[0].num_steps,
            guidance_scale=rows[0].guidance_scale,
            generator=[torch.Generator().manual_seed(row.seed) for row in rows],
            output_type="np",
        ).images
        if not np.isfinite(pixels_BHWC).all():
            raise _mlflow.exceptions.MlflowException(
                "the model put out numbers that are not finite; its weights are damaged."
            )
        return [_png_base64(pixels_HWC) for pixels_HWC in (pixels_BHWC * 255).round().astype(np.uint8)]


def as_rows(model_input: pd.DataFrame, params: Mapping[str, Any]) -> list[Row]:
    """What each row asks for; a value of the row comes before one of `params`."""
    table = model_input.reset_index(drop=True)
    values: dict[str, Any] = {"prompt": table["prompt"], "seed": pd.Series(range(len(table)))}
    if "seed" in table:
        values["seed"] = table["seed"].fillna(values["seed"])
    for name in SETTINGS:
        own = table[name] if name in table else pd.Series([None] * len(table), dtype=object)
        values[name] = own.where(own.notna(), params.get(name))
    missing = [name for name in SETTINGS if values[name].isna().any()]
    if missing:
        raise _mlflow.exceptions.MlflowException.invalid_parameter_value(
            f"{missing[0]} is neither in the row nor in params. Give {', '.join(SETTINGS)}."
        )
    return [
        Row(str(prompt), int(seed), int(height), int(width), int(steps), float(guidance))
        for prompt, seed, height, width, steps, guidance in zip(*values.values(), strict=True)
    ]


def oversize(rows: list[Row], limits: Mapping[str, int]) -> str | None:
    """What of a request is beyond the limits or makes no sense, in words, or None."""
    if not 1 <= len(rows) <= limits["max_rows"]:
        return f"{len(rows)} rows: expected 1 to {limits['max_rows']}. Send several requests."
    return next((problem for row in rows if (problem := _oversize(row, limits)) is not None), None)


def _oversize(row: Row, limits: Mapping[str, int]) -> str | None:
    height, width, steps = row.height_px, row.width_px, row.num_steps
    if height < 1 or width < 1 or height * width > limits["max_pixels"]:
        return f"{width}x{height} pixels: at most {limits['max_pixels']:,} in all. Lower height_px or width_px."
    if not 1 <= steps <= limits["max_steps"]:
        return f"num_steps = {steps}: expected 1 to {limits['max_steps']}."
    if not 0 <= row.seed < 2**63:
        return f"seed = {row.seed}: expected 0 to 2^63 - 1."
    if len(row.prompt) > limits["max_prompt_chars"]:
        return f"a prompt of {len(row.prompt)} characters: at most {limits['max_prompt_chars']}. Shorten it."
    return None if row.prompt.strip() else "an empty prompt. Say what to draw."


def batches(rows: list[Row], max_pixels: int) -> Iterator[list[Row]]:
    """Neighbouring rows of the same settings, together never more pixels than one image of the largest size has."""
    for settings, found in groupby(rows, key=lambda row: row[2:]):
        same, (height, width) = list(found), settings[:2]
        size = max(1, min(BATCH_SIZE, max_pixels // (height * width)))
        for start in range(0, len(same), size):
            yield same[start : start + size]


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
