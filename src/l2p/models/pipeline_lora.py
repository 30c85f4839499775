"""Owns low-rank adapters (LoRA) of a pixel model: reading them, and fitting in those of the source's transformer.

A LoRA of the source names modules of its transformer; in the pixel model they are the modules of `dit`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY, LORA_WEIGHT_NAME_SAFE, LoraBaseMixin
from diffusers.utils import is_peft_available
from safetensors import SafetensorError, safe_open
from torch import Tensor

from l2p.errors import ModelError
from l2p.models.pixel_transformer import PixelTransformer

_PREFIXES = ("transformer.", "base_model.model.")  # of a pipeline's file, and of PEFT's own
_KEY = re.compile(r"(?P<module>.+)\.(?P<part>lora_[AB])\.weight")
_SCALES = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")  # of the metadata, what changes the sum


class PixelLoraMixin(LoraBaseMixin):
    """LoRA as in diffusers' pipelines: loading here; switching, weighing and unloading are diffusers' own."""

    _lora_loadable_modules = ["transformer"]
    transformer: PixelTransformer

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        **settings: Any,
    ) -> None:
        """Add a LoRA of this pixel model, or one that was trained for the source's transformer.

        Args:
            pretrained_model_name_or_path_or_dict: a .safetensors file, a folder with pytorch_lora_weights.safetensors,
                or tensors by name in diffusers' format: `[transformer.]MODULE.lora_A.weight` and `lora_B`.
            adapter_name: for `set_adapters`; None = the next of default_0, default_1, ...
            settings: further ones of `load_lora_adapter`, such as `hotswap`.

        Raises:
            ModelError: PEFT is not installed, the file cannot be read, or names or shapes that the model lacks.
        """
        if not is_peft_available():
            raise ModelError("LoRA needs the package PEFT, which is not installed. `pip install peft`.")
        given, card = read_lora(pretrained_model_name_or_path_or_dict)
        tensors = place_lora(given, self.transformer)
        modules = sorted({name.split(".lora_")[0] for name in tensors})
        metadata = {key: card[key] for key in _SCALES if key in card} | {"target_modules": modules} if card else None
        self.transformer.load_lora_adapter(
            tensors, prefix=None, metadata=metadata, adapter_name=adapter_name, _pipeline=self, **settings
        )

    def fuse_lora(self, components: Sequence[str] = ("transformer",), **settings: Any) -> None:
        """Add what the active LoRAs compute to the weights themselves; `settings` are diffusers' own."""
        super().fuse_lora(list(components), **settings)

    def unfuse_lora(self, components: Sequence[str] = ("transformer",), **settings: Any) -> None:
        """Undo `fuse_lora`, up to rounding."""
        super().unfuse_lora(list(components), **settings)


def read_lora(given: str | Path | Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a LoRA by name, and its configuration as far as the file holds one.

    Raises:
        ModelError: there is no such file, or it is no safetensors file.
    """
    if isinstance(given, Mapping):
        return dict(given), {}
    path = Path(given)
    path = path / LORA_WEIGHT_NAME_SAFE if path.is_dir() else path
    if not path.is_file():
        raise ModelError(
            f"{path}: no such LoRA. Give a .safetensors file; one of the Hugging Face hub must be downloaded."
        )
    try:
        with safe_open(path, framework="pt") as file:
            card = json.loads((file.metadata() or {}).get(LORA_ADAPTER_METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as a LoRA in safetensors ({error}).") from error
    return tensors, {key.removeprefix("transformer."): value for key, value in card.items()}


def place_lora(given: Mapping[str, Tensor], model: PixelTransformer) -> dict[str, Tensor]:
    """The tensors under the pixel model's names.

    Raises:
        ModelError: names without a place in the pixel model, such as those of the source's embedder, wrong shapes, or
            half a pair.
    """
    placed, homeless = {}, []
    modules = dict(model.named_modules())
    for name, tensor in given.items():
        own = _place(name, model, modules)
        if own is None:
            homeless.append(name)
        else:
            placed[own] = tensor
    if homeless or not placed:
        raise ModelError(
            f"LoRA: {len(homeless)} of {len(given)} tensors have no place in the pixel model, first {homeless[:3]}. "
            "Expected `transformer.MODULE.lora_A.weight` with modules of the source's transformer; its embedder and "
            "its last layer are replaced. Remove such tensors, or convert the file to diffusers' format."
        )
    for name, tensor in placed.items():
        module, _, part = name.removesuffix(".weight").rpartition(".")
        _check_shape(name, tensor, getattr(modules[module], "weight", None), part)
    for module in {name.split(".lora_")[0] for name in placed}:
        _check_pair(module, placed)
    return placed


def _place(name: str, model: PixelTransformer, modules: Mapping[str, Any]) -> str | None:
    bare = name
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    match = _KEY.fullmatch(bare)
    if match is None:
        return None
    if match["module"] in modules:
        return bare
    if model.adapter.left_behind(bare) or f"dit.{match['module']}" not in modules:
        return None
    return f"dit.{bare}"


def _check_shape(name: str, tensor: Tensor, weight: torch.Tensor | None, part: str) -> None:
    side = 1 if part == "lora_A" else 0  # lora_A reads the module's input, lora_B writes its output
    if weight is None or tensor.ndim != weight.ndim or tensor.shape[side] != weight.shape[side]:
        expected = "no weight" if weight is None else f"a weight of shape {list(weight.shape)}"
        raise ModelError(f"LoRA: {name} has shape {list(tensor.shape)}, and its module has {expected}.")


def _check_pair(module: str, placed: Mapping[str, Tensor]) -> None:
    """Of a missing half PEFT would make one of its own, a random lora_A too."""
    halves = [placed.get(f"{module}.lora_{part}.weight") for part in "AB"]
    ranks = [None if half is None else half.shape[axis] for axis, half in enumerate(halves)]
    if None in ranks or ranks[0] != ranks[1]:
        found = ", ".join(f"lora_{part} {rank or 'missing'}" for part, rank in zip("AB", ranks, strict=True))
        raise ModelError(f"LoRA: {module} has rank {found}. Expected lora_A and lora_B of one rank.")
