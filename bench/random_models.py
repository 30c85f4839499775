"""Owns pixel models of published sources with random weights: whole or cut to some blocks, empty or filled on a device.

Speed and memory do not depend on the values of weights, so a training at full size can be measured without a
checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from l2p.config import Params, TrainableParams
from l2p.errors import ConfigError
from l2p.models.adapters import get_adapter
from l2p.models.embedder import choose_rank
from l2p.models.families import KnownSource
from l2p.models.graft import build_empty
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer
from l2p.presets import merged_params
from l2p.training.precision import hold_frozen_in_bfloat16

ROOT = Path(__file__).parents[1]
STD = 0.02  # of random matrices
_PRESETS = {"flux1-dev": "flux1-1k", "flux1-schnell": "flux1-1k", "flux2-dev": "flux2-1k"}


def preset_params(family: str) -> Params:
    """params.yaml with the family's preset for 1024 pixels over it, trained in the precision of a GPU."""
    preset = ROOT / "presets" / f"{_PRESETS.get(family, f'{family}-1k')}.yaml"
    params = Params.model_validate(merged_params(ROOT / "params.yaml", preset))
    return params.model_copy(update={"train": params.train.model_copy(update={"dtype": "bfloat16"})})


def empty_model(known: KnownSource, params: Params, *, blocks: int | None = None) -> PixelTransformer:
    """The pixel model of `known` as `params.convert` makes it, without memory for its parameters (meta device).

    Args:
        known: the checkpoint.
        params: the patch, the head and the embedder are those of its section `convert`.
        blocks: image blocks that are kept, the outermost; None keeps all.
    """
    convert = params.convert
    values = CHANNELS * convert.patch_size_px**2
    dim = get_adapter(known.transformer_class).token_dim(known.settings)
    rule = convert.embedder
    model = build_empty(
        {
            "source_class": known.transformer_class,
            "source_config": known.settings,
            "patch_size": convert.patch_size_px,
            "head_type": convert.head.type,
            "head_widths": convert.head.widths,
            "embedder_rank": choose_rank(values, dim, max_parameters=rule.max_parameters, rank=rule.rank),
            "prediction": convert.prediction,
        }
    )
    if blocks is not None:
        cut(model, blocks)
    return model


def narrow(known: KnownSource, width: int) -> KnownSource:
    """The checkpoint with tokens of `width`, its heads as wide as before, so fewer.

    Raises:
        ConfigError: the width is no multiple of a head's, or the family ties other sizes to it.
    """
    config = known.transformer
    names: tuple[str, ...]
    widths: tuple[str, ...]
    if "dim" in config:
        head, names, widths = config["dim"] // config["n_heads"], ("n_heads", "n_kv_heads"), ("dim",)
    elif "num_attention_heads" in config and not config.keys() & {"hidden_size", "cross_attention_dim"}:
        head, names, widths = config["attention_head_dim"], ("num_attention_heads",), ("caption_projection_dim",)
    else:
        raise ConfigError(f"--width: {known.name} ties other sizes to its width. Leave it out, or use --blocks.")
    if width % head:
        raise ConfigError(f"--width {width}: heads of {known.name} are {head} wide. Choose a multiple of that.")
    changes = dict.fromkeys(names, width // head) | {name: width for name in widths if name in config}
    return replace(known, transformer=config | changes)


def cut(model: PixelTransformer, blocks: int) -> None:
    """Keep `blocks` image blocks, in place: of each of the source's lists its share, at least one, and its ends."""
    lists = {name: list(model.dit.get_submodule(name).children()) for name in model.adapter.image_blocks}
    whole = sum(len(found) for found in lists.values())
    for name, found in lists.items():
        share = min(len(found), max(1, round(blocks * len(found) / whole)))
        last = share // 2
        model.dit.set_submodule(name, nn.ModuleList([*found[: share - last], *found[len(found) - last :]]))


def count_blocks(model: PixelTransformer) -> int:
    """Image blocks of the model."""
    return sum(len(list(model.dit.get_submodule(name).children())) for name in model.adapter.image_blocks)


def ends(trainable: TrainableParams, blocks: int) -> TrainableParams:
    """`trainable` with no more blocks at the ends than a model of `blocks` has."""
    first, last = min(trainable.first_blocks, (blocks + 1) // 2), min(trainable.last_blocks, blocks // 2)
    return trainable.model_copy(update={"first_blocks": first, "last_blocks": last})


def prepare(model: PixelTransformer, params: Params) -> list[str]:
    """Choose what is trained and in which precision the rest is held, as the stage `train` does; the trained names."""
    names = model.set_trainable(ends(params.train.trainable, count_blocks(model)))
    model.adapter.prepare_training(model.dit)
    if params.train.precision == "bfloat16":
        hold_frozen_in_bfloat16(model)
    return names


def fill(model: nn.Module, device: str) -> None:
    """Give every empty parameter random values on `device`, in its own precision, one after the other, in place."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            values.fill_(1.0) if _is_scale(name, parameter) else values.normal_(std=STD)
            module.register_parameter(name, nn.Parameter(values, requires_grad=parameter.requires_grad))
    nn.Module.to(model, device)  # buffers; diffusers' own `to` warns of whole models


def _is_scale(name: str, parameter: nn.Parameter) -> bool:
    """Whether it is the weight of a normalisation."""
    return name == "weight" and parameter.ndim == 1
