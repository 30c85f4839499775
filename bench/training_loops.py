"""Owns the training loops that bench.training compares: the usual first script, step by step up to this package's loop.

All of them train the same model on the same images, noise and noise levels, in the folder that `prepare_source` or
`prepare_family` filled and that is the working directory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from bench import random_models
from l2p.config import Layout, Params, TrainParams
from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate
from l2p.files import sha256_file
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore, write_embeddings
from l2p.models.families import read_known
from l2p.models.graft import graft
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin, load_text_pipeline, pin_source
from l2p.training.compilation import compile_regions
from l2p.training.engine import Engine, leave_processes
from l2p.training.loop import Gauges, Trainer
from l2p.training.samples import Corpus, Samples
from l2p.training.worker import load_subject

PROMPTS = [f"a photo of {count} {color} circles" for count in ("two", "three") for color in ("red", "blue", "green")]
SAMPLER = {"num_steps": 1, "guidance_scale": 0.0, "shift": None}
NUM_IMAGES = 64
Step = Callable[[int], None]


@dataclass(frozen=True)
class Task:
    """What is trained: the source of the folder, or, with a family, a model of it with random weights."""

    params: Params
    family: str | None = None
    blocks: int | None = None  # of the family's, image blocks that are kept
    width: int | None = None  # of its tokens; None: the family's own
    naive_dtype: str = "float32"  # of the weights that the plain loops train


@dataclass(frozen=True)
class Loop:
    """What a loop does; `ours` is this package's, which embeds prompts once and trains the ends as params.yaml says."""

    key: str
    name: str
    text_encoder: bool = False
    batch_size: int = 1
    all_trained: bool = False
    checkpointing: bool = False
    ours: bool = False
    compiled: bool = False


def ladder(params: Params, *, text_encoder: bool) -> list[Loop]:
    """The loops, slowest first: each plain one changes one thing."""
    size = params.train.batch_size
    checkpointing = params.train.gradient_checkpointing != "none"
    naive = Loop("naive", "naive", text_encoder=True, all_trained=True, checkpointing=True)
    if not text_encoder:
        naive = replace(naive, name="naive, text encoder left out", text_encoder=False)
    embedded = replace(naive, key="embedded", name="+ prompts embedded once", text_encoder=False)
    batches = replace(embedded, key="batches", name=f"+ batches of {size}", batch_size=size)
    frozen = replace(batches, key="frozen", name="+ middle frozen", all_trained=False)
    kept = replace(frozen, key="kept", name="+ activations kept", checkpointing=False)
    ours = Loop("uncompiled", "l2p, uncompiled", batch_size=size, checkpointing=checkpointing, ours=True)
    compiled = replace(ours, key="l2p", name="l2p", compiled=True)
    plain = [naive, *([embedded] if text_encoder else []), *([batches] if size > 1 else []), frozen, kept]
    return [*plain, ours, compiled]


def prepare_source(source: Path, params: Params) -> None:
    """Pin, graft and embed a source in diffusers layout, and write random images as its corpus."""
    pin = pin_source(str(source))
    pin.save(Layout.source)
    widths, patch = params.convert.head.widths, params.convert.patch_size_px
    model = graft(pin, seed=0, patch_size=patch, head_widths=widths, prediction=params.convert.prediction)
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler=SAMPLER)
    _write_data(model.adapter.encode(load_text_pipeline(pin), [*PROMPTS, ""]), params, pin.digest)


def prepare_family(family: str, params: Params) -> None:
    """Write random embeddings of the usual length and random images."""
    generator = torch.Generator().manual_seed(0)
    shapes = read_known(family).text
    embeddings = [
        {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()} for _ in (*PROMPTS, "")
    ]
    _write_data(embeddings, params, None)


def random_model(task: Task) -> PixelTransformer:
    """The family's model, cut, without memory for its parameters."""
    assert task.family is not None
    known = read_known(task.family)
    known = known if task.width is None else random_models.narrow(known, task.width)
    return random_models.empty_model(known, task.params, blocks=task.blocks)


@contextlib.contextmanager
def open_loop(loop: Loop, task: Task) -> Iterator[Step]:
    """Build the loop; within the block, each call is one step of it, given its number from 0."""
    with (our_loop if loop.ours else plain_loop)(loop, task) as step:
        yield step


@contextlib.contextmanager
def our_loop(loop: Loop, task: Task) -> Iterator[Step]:
    """This package's loop, as the stage `train` runs it."""
    train = task.params.train.model_copy(update={"compile_blocks": loop.compiled, "num_processes": 1})
    params = task.params.model_copy(update={"train": train})
    model = load_subject(params).model if task.family is None else _our_random_model(replace(task, params=params))
    engine = Engine(model, train)
    samples = _samples(train)
    batches = samples.batches(0, 10**9)
    nothing: Any = None
    trainer = Trainer(
        model, engine, samples, train=train, checkpoints=nothing, gauges=Gauges(nothing, None, None, None)
    )
    try:
        yield lambda index: trainer._step(index, next(batches), train.learning_rate)
    finally:
        leave_processes()


@contextlib.contextmanager
def plain_loop(loop: Loop, task: Task) -> Iterator[Step]:
    """A plain PyTorch loop over the same model, data and noise."""
    device = _device()
    train = task.params.train.model_copy(update={"batch_size": loop.batch_size})
    model = _plain_model(loop, task, device).train()
    if loop.checkpointing:
        model.enable_gradient_checkpointing()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=train.learning_rate, fused=True)
    samples = _samples(train)
    text_pipeline = load_text_pipeline(SourcePin.load(Layout.source), device=str(device)) if loop.text_encoder else None
    predict = _predict_in_bfloat16 if task.naive_dtype == "bfloat16" else _predict_under_autocast(train, device)

    def step(index: int) -> None:
        batch = samples.batch(index).to(device)
        embeddings = batch.embeddings
        if text_pipeline is not None:
            texts = [PROMPTS[int(number)] if number else "" for number in batch.prompt_ids]
            embeddings = model.adapter.encode(text_pipeline, texts)
        out = predict(model, interpolate(batch.x0_BCHW, batch.noise_BCHW, batch.sigma_B), batch.sigma_B, embeddings)
        loss, _ = flow_matching_loss(
            out,
            batch.x0_BCHW,
            batch.noise_BCHW,
            batch.sigma_B,
            prediction_type=model.config.prediction,
            min_sigma=train.min_sigma_weight,
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, train.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    yield step


def _our_random_model(task: Task) -> PixelTransformer:
    """What `load_subject` does, without files."""
    model, train = random_model(task), task.params.train
    random_models.prepare(model, task.params)
    random_models.fill(model, str(_device()))
    if train.gradient_checkpointing in ("blocks", "all"):
        model.enable_gradient_checkpointing()
    if train.gradient_checkpointing in ("head", "all"):
        model.enable_head_checkpointing()
    if train.compile_blocks:
        compile_regions(model)
    return model


def _plain_model(loop: Loop, task: Task, device: torch.device) -> PixelTransformer:
    if task.family is None:
        model = load_pixel_model(Layout.init, device=str(device), dtype=task.naive_dtype)
    else:
        model = random_model(task)
        nn.Module.to(model, getattr(torch, task.naive_dtype))
        random_models.fill(model, str(device))
    choose_trained(model, task.params, everything=loop.all_trained)
    return model


def choose_trained(model: PixelTransformer, params: Params, *, everything: bool) -> None:
    """Let everything require a gradient, or what params.yaml names."""
    if everything:
        model.requires_grad_(True)
    else:
        blocks = random_models.count_blocks(model)
        model.set_trainable(random_models.ends(params.train.trainable, blocks))


def _predict_under_autocast(train: TrainParams, device: torch.device) -> Callable[..., Tensor]:
    def predict(model: Any, noisy: Tensor, sigma: Tensor, embeddings: list[PromptEmbedding]) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bfloat16"):
            out: Tensor = model.predict(noisy, sigma, model.adapter.collate(embeddings))
        return out

    return predict


def _predict_in_bfloat16(model: Any, noisy: Tensor, sigma: Tensor, embeddings: list[PromptEmbedding]) -> Tensor:
    halved = [
        {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in embedding.items()}
        for embedding in embeddings
    ]
    out: Tensor = model.predict(noisy.bfloat16(), sigma, model.adapter.collate(halved))
    return out.float()


def _samples(train: TrainParams) -> Samples:
    return Samples(Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings), train)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _write_data(embeddings: list[PromptEmbedding], params: Params, source_digest: str | None) -> None:
    """Embeddings of `PROMPTS` and the empty prompt, and random images."""
    ids = [str(index) for index in range(len(PROMPTS))]
    write_embeddings(Layout.embeddings, [*ids, EMPTY_PROMPT_ID], embeddings, {"source_digest": source_digest})
    random, rows = np.random.default_rng(0), []
    size = (params.synthesize.height_px, params.synthesize.width_px)
    for index in range(max(NUM_IMAGES, params.train.batch_size)):
        path = Layout.corpus / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, compress_level=1)
        row = {"file_name": path.name, "prompt_id": ids[index % len(ids)], "seed": index, "sha256": sha256_file(path)}
        rows.append({**row, "height_px": size[0], "width_px": size[1]})
    pd.DataFrame(rows).to_parquet(Layout.manifest)
