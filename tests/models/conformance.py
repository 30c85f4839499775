"""What every adapter is held to: the graft over latents beside the source, and the source's pipeline listened to."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from l2p.config import TrainableParams
from l2p.models.adapters import ADAPTERS, Adapter
from l2p.models.adapters.base import TextInputs
from l2p.models.graft import build_empty
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.weights import materialise
from tests.families.tiny import TEXTS, tiny_pipeline, tiny_transformer

CAPTION_FIRST, IMAGE_FIRST = "Lumina2Transformer2DModel", "ZImageTransformer2DModel"  # sequences that hold both
UNSTEADY = {
    "hidden_states",
    "x",
    "return_dict",
    "joint_attention_kwargs",
    "attention_kwargs",
    "patch_size",
    "f_patch_size",
}
CAPTIONS = ("encoder_hidden_states", "cap_feats")
MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask", "attention_mask")


@functools.cache
def pipeline_of(family: str) -> Any:
    """The tiny source pipeline; shared, so leave it as it is."""
    return tiny_pipeline(family)


@functools.cache
def text_of(family: str, count: int = len(TEXTS)) -> TextInputs:
    """Prompts of different lengths as one batch."""
    adapter = ADAPTERS[family]
    return adapter.collate(adapter.encode(pipeline_of(family), list(TEXTS[:count])))


def guidance_of(source: Any, count: int) -> Tensor | None:
    """What a guidance-distilled transformer is told."""
    return torch.full((count,), 3.5) if source.config.get("guidance_embeds") else None


def latent_graft(source: Any) -> nn.Module:
    """The patch-1 graft over the source's latents, with the source's own embedder: it must compute what it computes."""
    adapter = ADAPTERS[type(source).__name__]
    config = {key: value for key, value in source.config.items() if not key.startswith("_")}
    tensors = source.state_dict()
    weight, bias = adapter.source_embedding(tensors)
    twin = getattr(diffusers, type(source).__name__)(**{**config, **adapter.overrides(config, weight.shape[1])})
    adapter.graft(twin, adapter.token_dim(config))
    if adapter.token_layout == "channels last":  # the graft reads pixel_unshuffle, channels first
        patch = adapter.latent_patch(config)
        weight = weight.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2).flatten(1)
    kept = {name: tensor for name, tensor in tensors.items() if not adapter.left_behind(name)}
    own = twin.get_submodule(adapter.embedder)
    kept[f"{adapter.embedder}.weight"] = weight.reshape(own.weight.shape)
    if bias is not None:
        kept[f"{adapter.embedder}.bias"] = bias
    twin.load_state_dict(kept, strict=True)
    return twin.eval()


def latents_of(source: Any, count: int, grid: tuple[int, int]) -> Tensor:
    """Random latents whose tokens form `grid`, as the autoencoder gives them."""
    adapter: Adapter = ADAPTERS[type(source).__name__]
    patch = adapter.latent_patch(source.config)
    channels = source.config.in_channels // (patch**2 if adapter.packed else 1)
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, channels, *(patch * side for side in grid), generator=generator)


def tokens_before_the_tail(source: Any, latents: Tensor, sigma: Tensor, text: TextInputs) -> Tensor:
    """Image tokens that enter the source's own final layer, [B, D, h, w]."""
    family, config = type(source).__name__, source.config
    adapter, patch = ADAPTERS[family], ADAPTERS[family].latent_patch(config)
    patches, count = F.pixel_unshuffle(latents, patch), len(latents)
    arguments = adapter.arguments(patches, sigma, text, config=config, guidance_B=guidance_of(source, count))
    if not adapter.packed:
        if "x" in arguments:
            arguments |= {"x": list(latents.unsqueeze(2)), "patch_size": patch}
        else:
            arguments["hidden_states"] = latents
    seen: list[Tensor] = []
    tail = source.all_final_layer["2-1"] if family == IMAGE_FIRST else source.get_submodule(adapter.tail[0])
    hook = tail.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        source(**arguments, return_dict=False)
    hook.remove()
    (h, w), tokens = patches.shape[-2:], seen[0]
    starts = text["mask"].sum(1).tolist() if family == CAPTION_FIRST else [0] * count
    image = torch.stack([row[start : start + h * w] for row, start in zip(tokens, starts, strict=True)])
    return image.transpose(1, 2).unflatten(2, (h, w))


def tiny_pixel_model(family: str, patch: int | None = None, **settings: Any) -> PixelTransformer:
    """A pixel model on the tiny source, its weights included; new parts are drawn with a fixed seed."""
    source = tiny_transformer(family)
    adapter = ADAPTERS[family]
    size = patch or adapter.native_patch_px
    widths = settings.pop("head_widths", (4, 4, 8, 8, 8)[: size.bit_length() - 1])
    config = {key: value for key, value in source.config.items() if not key.startswith("_")}
    model = build_empty(
        {"source_class": family, "source_config": config, "patch_size": size, "head_widths": widths, **settings}
    )
    kept = {f"dit.{name}": tensor for name, tensor in source.state_dict().items() if not adapter.left_behind(name)}
    model.load_state_dict(kept, strict=False, assign=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        materialise(model, model.new_tensors())
    model.initialise_head()
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    return model.eval()


def both_ends(end_blocks: int) -> TrainableParams:
    """Everything that can be trained, with so many blocks at each end."""
    on = {"embedder": True, "refiners": True, "pad_tokens": True, "head": True}
    return TrainableParams(first_blocks=end_blocks, last_blocks=end_blocks, **on)


@contextmanager
def calls_of(pipeline: Any) -> Iterator[list[dict[str, Any]]]:
    """Every call of the pipeline's transformer within the block, as keyword arguments."""
    calls: list[dict[str, Any]] = []
    transformer, original = pipeline.transformer, pipeline.transformer.forward
    signature = inspect.signature(original)

    def listening(*args: Any, **kwargs: Any) -> Any:
        calls.append(dict(signature.bind(*args, **kwargs).arguments))
        return original(*args, **kwargs)

    transformer.forward = listening
    try:
        yield calls
    finally:
        del transformer.forward


def rows_of_captions(arguments: dict[str, Any]) -> list[Tensor]:
    """Captions of one call, each without the tokens that its mask hides."""
    captions = next(arguments[name] for name in CAPTIONS if name in arguments)
    masks = next((arguments[name] for name in MASKS if arguments.get(name) is not None), None)
    if masks is None or isinstance(captions, list):
        return list(captions)
    return [caption[mask[: len(caption)].bool()] for caption, mask in zip(captions, masks, strict=True)]
