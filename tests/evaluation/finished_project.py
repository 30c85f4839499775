"""Fills a folder with the results of every stage before `report`, as the stages write them.

Benchmark images are renders (of the pixel model: some of another prompt, so that it is wrong there), scored by the real
benchmarks and judges; training, validation and efficiency are figures of a plausible shape.
"""

from __future__ import annotations

import csv
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from l2p.config import Layout, Params
from l2p.evaluation.benchmark_data import load_dpg, load_geneval
from l2p.evaluation.runs import Run, run_dpg, run_geneval
from l2p.evaluation.subject import Subject, open_subject
from l2p.files import sha256_file, write_json
from l2p.models.source import pin_source
from l2p.shapes.benchmarks import dpg_prompts, geneval_prompts
from l2p.shapes.render import render
from l2p.shapes.world import Prompt, draw_scene

IMAGES_PER_PROMPT = 4
STEPS, LOG_EVERY = 1400, 10


class RenderPainter:
    """Draws prompts of the shapes world with its renderer, noisily; a share of the images shows another prompt."""

    def __init__(self, prompts: list[Prompt], *, wrong_share: float, noise: float) -> None:
        self._prompts = {prompt.text: prompt for prompt in prompts}
        self._wrong_share, self._noise = wrong_share, noise

    def __call__(self, prompts: list[str], seeds: list[int]) -> np.ndarray:
        return np.stack([self._draw(text, seed) for text, seed in zip(prompts, seeds, strict=True)])

    def _draw(self, text: str, seed: int) -> np.ndarray:
        rng = random.Random(seed)
        prompt = rng.choice(list(self._prompts.values())) if rng.random() < self._wrong_share else self._prompts[text]
        clean = render(draw_scene(prompt, rng)).astype(np.float64)
        noisy = clean + np.random.default_rng(seed).normal(0, self._noise, clean.shape)
        return np.clip(noisy, 0, 255).astype(np.uint8)


def fill(params: Params, *, delta: Path, prompts_per_benchmark: int | None = None) -> None:
    """Write everything into the working directory; `delta` is the folder of a pixel model on `params.source.path`."""
    pin_source(params.source.path).save(Layout.source)
    for folder in (Layout.init, Layout.pixel):
        shutil.copytree(delta, folder)
    _write_corpus()
    _write_training()
    for model, wrong_share, noise in (("source", 0.05, 3), ("pixel", 0.12, 7)):
        _score_geneval(params, model, prompts_per_benchmark, wrong_share=wrong_share, noise=noise)
        _score_dpg(params, model, prompts_per_benchmark, wrong_share=wrong_share, noise=noise)
    write_json(Layout.efficiency, efficiency())


def efficiency() -> dict[str, Any]:
    """As reports/efficiency.json."""
    rows = [
        {
            "resolution_px": size,
            "model": model,
            "denoise_step_ms": base * (size / 64) ** 1.7,
            "decode_ms": 9.0 * (size / 64) ** 2 if model == "source" else None,
            "peak_memory_mb": memory * (size / 64) ** 1.9,
            "weights_mb": 26.0,
        }
        for size in (64, 128, 256)
        for model, base, memory in (("source", 7.9, 21.0), ("pixel", 8.6, 6.5))
    ]
    return {"device": "cpu", "dtype": "bfloat16", "threads": 2, "rows": rows}


def _score_geneval(params: Params, model: Any, limit: int | None, *, wrong_share: float, noise: float) -> None:
    data = load_geneval("shapes", Layout.benchmarks / "geneval" / model)
    if limit is not None:
        data = replace(data, prompts=data.prompts[:: len(data.prompts) // limit])
    subject = _RenderedSubject.of(open_subject(model, params), geneval_prompts(), wrong_share, noise)
    settings = params.geneval.model_copy(update={"images_per_prompt": IMAGES_PER_PROMPT})
    run_geneval(subject, data, settings, _run(params, "geneval", model))


def _score_dpg(params: Params, model: Any, limit: int | None, *, wrong_share: float, noise: float) -> None:
    data = load_dpg("shapes", Layout.benchmarks / "dpg" / model)
    data = replace(data, items=data.items[:limit])
    subject = _RenderedSubject.of(open_subject(model, params), dpg_prompts(), wrong_share, noise)
    settings = params.dpg.model_copy(update={"images_per_prompt": IMAGES_PER_PROMPT})
    run_dpg(subject, data, settings, _run(params, "dpg", model))


def _run(params: Params, benchmark: str, model: str) -> Run:
    store = Layout.benchmarks / benchmark / model / "judgements.jsonl"
    return Run(Path("reports") / benchmark / model, store, params.evaluation, batch_size=50)


class _RenderedSubject(Subject):
    """A subject whose images are renders."""

    @classmethod
    def of(cls, subject: Subject, prompts: list[Prompt], wrong_share: float, noise: float) -> Subject:
        rendered = cls(**vars(subject))
        painter = RenderPainter(prompts, wrong_share=wrong_share, noise=noise)
        object.__setattr__(rendered, "make_painter", lambda: painter)
        return rendered


def _write_corpus() -> None:
    Layout.prompts.mkdir(parents=True)
    texts = [prompt.text for prompt in geneval_prompts()[:4]]
    pd.DataFrame({"prompt_id": [f"{i:012x}" for i in range(4)], "text": texts, "style": "position"}).to_parquet(
        Layout.prompts_table
    )
    write_json(Layout.prompts / "report.json", {"count": 1000, "by_style": {"position": 1000}, "sha256": "0" * 64})
    Layout.corpus.mkdir(parents=True)
    rows = pd.DataFrame(
        {
            "file_name": [f"00000/{i:06d}.png" for i in range(2000)],
            "sha256": [f"{i:064x}" for i in range(2000)],
            "height_px": 64,
            "width_px": 64,
        }
    )
    rows.to_parquet(Layout.corpus_table)
    rows[:1996].to_parquet(Layout.manifest)
    Layout.embeddings.mkdir(parents=True)
    (Layout.embeddings / "tokens.safetensors").write_bytes(b"tokens")
    observed = {"sha256 is unique": "2,000 of 2,000", "contrast at least 4": "1,997 of 2,000 (smallest 1.2)"}
    result = {
        "success": True,
        "accepted": 1996,
        "rejected": 4,
        "reasons": {"blank": 3, "duplicate": 1},
        "expectations": [{"name": name, "success": True, "observed": seen} for name, seen in observed.items()],
    }
    write_json(Layout.validation / "result.json", result)


def _write_training() -> None:
    rng = np.random.default_rng(0)
    (Layout.training / "samples").mkdir(parents=True)
    with (Layout.training / "curves.csv").open("w", newline="", encoding="utf-8") as stream:
        names = ["step", "loss", "loss_low", "loss_mid", "loss_high", "grad_norm", "learning_rate", "images_per_s"]
        table = csv.writer(stream)
        table.writerow(names)
        for step in range(LOG_EVERY, STEPS + 1, LOG_EVERY):
            losses = [scale * (0.12 + math.exp(-step / 220)) * rng.lognormal(0, 0.2) for scale in (1.0, 1.9, 0.8, 0.3)]
            rate = 1e-3 * min(1, step / 50, 2 * (1 - step / STEPS))
            table.writerow([step, *losses, rng.lognormal(0, 0.4), rate, 101.5])
    prompts = geneval_prompts()
    for step in range(0, STEPS + 1, 200):
        painter = RenderPainter(prompts, wrong_share=0, noise=120 * math.exp(-step / 250) + 3)
        tiles = painter([prompt.text for prompt in prompts[:: len(prompts) // 8][:8]], list(range(8)))
        grid = tiles.reshape(2, 4, 64, 64, 3).transpose(0, 2, 1, 3, 4).reshape(128, 256, 3)
        Image.fromarray(grid).save(Layout.training / "samples" / f"step-{step:06d}.png")
    result = {
        "steps": STEPS,
        "seconds": 412.0,
        "images_per_s": 108.7,
        "peak_memory_mb": 2310.0,
        "final_loss": 0.0231,
        "device": "cpu",
        "num_processes": 1,
        "trainable_parameters": 2_310_000,
        "total_parameters": 5_920_000,
    }
    write_json(Layout.training / "result.json", result)


def digest_of_page() -> str:
    """SHA-256 of the page, to compare two writings of it."""
    return sha256_file(Layout.report)
