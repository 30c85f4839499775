"""Images per second of the training loop, beside a naive loop over the same model in the same run.

    python -m bench.training                 # the embedded source; some minutes on two cores
    python -m bench.training --seconds 60    # longer measurements

The naive loop is the usual first script: text encoder in the loop, one image a step, every weight trained, every block
checkpointed. Each further row changes one thing; the last is this package's own loop (DeepSpeed, compiled blocks).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from l2p.config import Layout, Params, load_params
from l2p.diffusion.loss import flow_matching_loss
from l2p.diffusion.path import interpolate
from l2p.files import sha256_file
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.embeddings import EMPTY_PROMPT_ID, EmbeddingStore, write_embeddings
from l2p.models.graft import graft
from l2p.models.source import SourcePin, load_text_pipeline, pin_source
from l2p.quiet import quiet_third_parties
from l2p.training.engine import Engine, leave_processes
from l2p.training.loop import Trainer
from l2p.training.samples import Corpus, Samples
from l2p.training.worker import load_subject

ROOT = Path(__file__).parents[1]
PROMPTS = [f"a photo of {count} {color} circles" for count in ("two", "three") for color in ("red", "blue", "green")]
SAMPLER = {"num_steps": 1, "guidance_scale": 0.0, "shift": None}
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Loop:
    """What a plain loop does."""

    name: str
    text_encoder: bool = True
    batch_size: int = 1
    all_trained: bool = True
    checkpointing: bool = True


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "sources/shapes"), help="folder in diffusers layout")
    parser.add_argument("--seconds", type=float, default=15.0, help="length of each measurement")
    arguments = parser.parse_args()
    quiet_third_parties()
    params = load_params(ROOT / "params.yaml")
    source = Path(arguments.source).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(source, params)
        rows = list(measure_all(params, arguments.seconds))
    baseline = rows[0][1]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    size = f"{params.synthesize.height_px}x{params.synthesize.width_px} px"
    print(f"\n{source.name}, {size}, {params.train.dtype}, {device}\n")
    print(f"{'loop':<44}{'images/s':>10}{'ratio':>8}")
    for name, speed in rows:
        print(f"{name:<44}{speed:>10.2f}{speed / baseline:>7.1f}x")


def prepare(source: Path, params: Params) -> None:
    """Pin, graft and embed the source, and write random images as its corpus."""
    pin = pin_source(str(source))
    pin.save(Layout.source)
    widths, patch = params.convert.head.widths, params.convert.patch_size_px
    model = graft(pin, seed=0, patch_size=patch, head_widths=widths, prediction=params.convert.prediction)
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler=SAMPLER)
    ids = [str(index) for index in range(len(PROMPTS))]
    embeddings = model.adapter.encode(load_text_pipeline(pin), [*PROMPTS, ""])
    write_embeddings(Layout.embeddings, [*ids, EMPTY_PROMPT_ID], embeddings, {})
    random, rows = np.random.default_rng(0), []
    size = (params.synthesize.height_px, params.synthesize.width_px)
    for index in range(64):
        path = Layout.corpus / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        row = {"file_name": path.name, "prompt_id": ids[index % len(ids)], "seed": index, "sha256": sha256_file(path)}
        rows.append({**row, "height_px": size[0], "width_px": size[1]})
    pd.DataFrame(rows).to_parquet(Layout.manifest)


def measure_all(params: Params, seconds: float) -> Iterator[tuple[str, float]]:
    """Name and images per second of every loop, slowest first."""
    size = params.train.batch_size
    loop = Loop("naive")
    ladder = [
        loop,
        loop := replace(loop, name="+ prompts embedded once", text_encoder=False),
        loop := replace(loop, name=f"+ batches of {size}", batch_size=size),
        loop := replace(loop, name="+ middle frozen", all_trained=False),
        replace(loop, name="+ activations kept", checkpointing=False),
    ]
    for each in ladder:
        with plain_loop(each, params) as step:
            yield each.name, images_per_s(step, each.batch_size, seconds)
    for name, compiled in (("l2p, uncompiled", False), ("l2p", True)):
        with our_loop(params, compiled=compiled) as step:
            yield name, images_per_s(step, size, seconds)


def images_per_s(step: Callable[[int], None], batch_size: int, seconds: float) -> float:
    """Speed of `step` over about `seconds`, after a warm-up that also compiles."""
    for index in range(WARM_UP_STEPS):
        step(index)
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds or not done:
        step(WARM_UP_STEPS + done)
        done += 1
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return done * batch_size / (time.perf_counter() - began)


@contextlib.contextmanager
def our_loop(params: Params, *, compiled: bool) -> Iterator[Callable[[int], None]]:
    """One step of this package's loop, as the stage `train` runs it."""
    train = params.train.model_copy(update={"compile_blocks": compiled, "num_processes": 1})
    subject = load_subject(params.model_copy(update={"train": train}))
    engine = Engine(subject.model, train)
    samples = Samples(Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings), train)
    batches = samples.batches(0, 10**9)
    trainer = Trainer(subject.model, engine, samples, train=train, checkpoints=None, desk=None)
    try:
        yield lambda index: trainer._step(index, next(batches), train.learning_rate)
    finally:
        leave_processes()


@contextlib.contextmanager
def plain_loop(loop: Loop, params: Params) -> Iterator[Callable[[int], None]]:
    """One step of a plain PyTorch loop over the same model, data, noise and precision."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train = params.train.model_copy(update={"batch_size": loop.batch_size})
    model = load_pixel_model(Layout.init, device=str(device)).train()
    if loop.all_trained:
        model.requires_grad_(True)
    else:
        model.set_trainable(train.trainable)
    if loop.checkpointing:
        model.enable_gradient_checkpointing()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=train.learning_rate, fused=True)
    samples = Samples(Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings), train)
    text_pipeline = load_text_pipeline(SourcePin.load(Layout.source), device=str(device)) if loop.text_encoder else None

    def step(index: int) -> None:
        batch = samples.batch(index).to(device)
        embeddings = batch.embeddings
        if text_pipeline is not None:
            texts = [PROMPTS[int(number)] if number else "" for number in batch.prompt_ids]
            embeddings = model.adapter.encode(text_pipeline, texts)
        noisy = interpolate(batch.x0_BCHW, batch.noise_BCHW, batch.sigma_B)
        with torch.autocast(device.type, torch.bfloat16, enabled=train.dtype == "bfloat16"):
            out = model.predict(noisy, batch.sigma_B, model.adapter.collate(embeddings))
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


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
