"""Owns the small GenEval inside a training: some prompts, one image each, by the weights of now.

Prompts are embedded once, at the start, and the text encoder is let go; images and answers lie beside the checkpoints.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from l2p.config import Layout, Params
from l2p.evaluation.benchmark_data import load_geneval
from l2p.evaluation.engine import split
from l2p.evaluation.runs import Run, run_geneval
from l2p.evaluation.subject import Subject, default_device
from l2p.evaluation.subset import geneval_subset
from l2p.files import sha256_json
from l2p.models.adapters import get_adapter
from l2p.models.adapters.base import PromptEmbedding
from l2p.models.sampling import to_uint8
from l2p.models.source import SourcePin, load_text_pipeline
from l2p.training.loop import Probe
from l2p.training.preview import Draw


@dataclass(frozen=True)
class Painter:
    """Draws as the training does at this moment."""

    draw: Draw
    embeddings: Mapping[str, PromptEmbedding]
    size_px: tuple[int, int]

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        """uint8 RGB [B, H, W, 3]."""
        return to_uint8(self.draw([self.embeddings[prompt] for prompt in prompts], seeds, self.size_px))


@dataclass(frozen=True)
class TrainingSubject(Subject):
    """The model in training; nothing is loaded, `load` gives its painter."""

    def make_painter(self) -> Any:
        """What draws its images."""
        return self.load()


def make_probe(params: Params, pin: SourcePin, rank: int) -> Probe:
    """Embed the prompts; the result draws them, has them judged and answers {"geneval": overall score}.

    Raises:
        EvaluationError, DataError: the benchmark's file or its judge cannot be used.
    """
    folder = Layout.checkpoints / "geneval" / f"rank{rank}"
    settings = params.geneval.model_copy(update={"images_per_prompt": 1, "subset": params.train.geneval_subset})
    data = load_geneval(settings.data, folder)
    prompts = [prompt.prompt for prompt in geneval_subset(data, settings.subset).prompts]
    adapter = get_adapter(pin.transformer_class)
    encoder = load_text_pipeline(pin, dtype=params.synthesize.precision, device=default_device())
    encoded = [
        item for batch in split(prompts, params.embed.batch_size) for item in adapter.encode(encoder, list(batch))
    ]
    embeddings = dict(zip(prompts, encoded, strict=True))
    size_px = (params.synthesize.height_px, params.synthesize.width_px)
    machine = params.evaluation.model_copy(update={"engine": "local", "num_workers": 1})
    run = Run(folder / "images", folder / "judgements.jsonl", machine, params.sampling.batch_size)

    def probe(draw: Draw) -> dict[str, float]:
        shutil.rmtree(run.folder, ignore_errors=True)  # of other weights
        subject = TrainingSubject(
            name="training",
            digest=sha256_json([pin.digest, "training"]),
            sampler=params.sampling.pixel,
            size_px=size_px,
            device=default_device(),
            dtype=params.train.precision,
            load=functools.partial(Painter, draw, embeddings, size_px),
        )
        outcome = run_geneval(subject, data, settings, run)
        return {"geneval": float(outcome.scores["overall"])}

    return probe
