"""Owns opening any text-to-image model for an evaluation: a delta, a saved pixel pipeline, or a diffusers pipeline."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers

from l2p.config import SamplerParams
from l2p.errors import EvaluationError, MissingFileError
from l2p.evaluation.subject import Subject, default_device, delta_digest, load_pixel
from l2p.files import read_json, sha256_json
from l2p.models.adapters import ADAPTERS
from l2p.models.delta import CARD as DELTA_CARD
from l2p.models.delta import read_delta_card
from l2p.models.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.models.pixel_transformer import tensor_dtype
from l2p.models.source import MODEL_INDEX, digest_pipeline, resolve_source

_DEFAULT_SIDE_PX = 1024
_WRITTEN_BY = "the model's author"


@dataclass(frozen=True)
class Choices:
    """What the user asks for; None leaves it to the model. `size_px` is (height, width)."""

    num_steps: int | None = None
    guidance_scale: float | None = None
    size_px: tuple[int, int] | None = None
    dtype: str = "float32"


def open_model(model: str, choices: Choices) -> Subject:
    """A model by its folder or its `repository@revision` on the Hugging Face hub.

    Raises:
        MissingFileError: a folder that holds no model.
        SourceError: no such folder, or the repository cannot be fetched.
        EvaluationError: a pipeline that does not draw from text alone.
    """
    name, _, revision = model.partition("@") if not Path(model).is_dir() else (model, "", "")
    folder = resolve_source(name, revision or None)
    if (folder / DELTA_CARD).is_file():
        return _open_delta(model, folder, choices)
    if not (folder / MODEL_INDEX).is_file():
        raise MissingFileError(
            f"--model {model}: holds neither {DELTA_CARD} (a pixel model) nor {MODEL_INDEX} (a diffusers pipeline)."
        )
    return _open_pipeline(model, folder, choices)


def load_diffusers(folder: Path, dtype: str, device: str) -> Any:
    """Any diffusers pipeline, from .safetensors weights only.

    Raises:
        EvaluationError: diffusers cannot load it.
    """
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=tensor_dtype(dtype), use_safetensors=True)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise EvaluationError(f"{folder}: diffusers cannot load it ({reason}).") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _open_delta(model: str, folder: Path, choices: Choices) -> Subject:
    stored = read_delta_card(folder)["sampler"]
    sampler = SamplerParams(
        num_steps=choices.num_steps or stored["num_steps"],
        guidance_scale=stored["guidance_scale"] if choices.guidance_scale is None else choices.guidance_scale,
        shift=stored["shift"],
    )
    load = functools.partial(load_pixel, folder, sampler.shift, choices.dtype, default_device())
    return _subject(model, delta_digest(folder), sampler, _size(model, choices), choices, load)


def _open_pipeline(model: str, folder: Path, choices: Choices) -> Subject:
    index = read_json(folder / MODEL_INDEX, written_by=_WRITTEN_BY)
    if index["_class_name"] == L2PPipeline.__name__:
        own = {"num_inference_steps": index["num_inference_steps"], "guidance_scale": index["guidance_scale"]}
        size_px = _size(model, choices)
        load = functools.partial(load_pixel_pipeline, folder, device=default_device(), dtype=choices.dtype)
    else:
        own = _own_settings(folder, index)
        size_px = choices.size_px or _own_size(folder, index)
        load = functools.partial(load_diffusers, folder, choices.dtype, default_device())
    sampler = SamplerParams(
        num_steps=choices.num_steps or own["num_inference_steps"],
        guidance_scale=own["guidance_scale"] if choices.guidance_scale is None else choices.guidance_scale,
    )
    return _subject(model, sha256_json(digest_pipeline(folder)), sampler, size_px, choices, load)


def _subject(
    model: str, digest: str, sampler: SamplerParams, size_px: tuple[int, int], choices: Choices, load: Any
) -> Subject:
    return Subject(model, digest, sampler, size_px, default_device(), choices.dtype, load)


def _size(model: str, choices: Choices) -> tuple[int, int]:
    """A pixel model has no size of its own."""
    if choices.size_px is None:
        raise EvaluationError(f"--size: missing. {model} draws any size; give WIDTHxHEIGHT in pixels.")
    return choices.size_px


def _own_settings(folder: Path, index: dict[str, Any]) -> dict[str, Any]:
    """Steps and guidance that the pipeline's call takes when it is given none.

    Raises:
        EvaluationError: a class that diffusers does not have, or one that needs more than a prompt.
    """
    name = str(index["_class_name"])
    kind = getattr(diffusers, name, None)
    if kind is None:
        raise EvaluationError(f"{folder / MODEL_INDEX}: diffusers {diffusers.__version__} has no {name}.")
    known = inspect.signature(kind.__call__).parameters
    if "prompt" not in known or known.get("image", _OPTIONAL).default is inspect.Parameter.empty:
        raise EvaluationError(f"{folder / MODEL_INDEX}: a {name}, which does not draw from a prompt alone.")
    transformer = str(index.get("transformer", [None, None])[1])
    guidance = ADAPTERS[transformer].guidance_argument if transformer in ADAPTERS else "guidance_scale"
    return {
        "num_inference_steps": known["num_inference_steps"].default,
        "guidance_scale": float(known[guidance].default) if guidance in known else 0.0,
    }


_OPTIONAL = inspect.Parameter("image", inspect.Parameter.KEYWORD_ONLY, default=None)


def _own_size(folder: Path, index: dict[str, Any]) -> tuple[int, int]:
    """(height, width) that a UNet was trained for; 1024 for what does not say."""
    if "unet" not in index or "vae" not in index:
        return _DEFAULT_SIDE_PX, _DEFAULT_SIDE_PX
    unet, vae = (read_json(folder / part / "config.json", written_by=_WRITTEN_BY) for part in ("unet", "vae"))
    side = unet.get("sample_size") or _DEFAULT_SIDE_PX // 8
    scale = 2 ** (len(vae["block_out_channels"]) - 1)
    return side * scale, side * scale
