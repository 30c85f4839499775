"""Owns one training process from start to end; `python -m l2p.training.worker PARAMS.json` is what `launch` starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from l2p.config import Layout, Params
from l2p.errors import L2PError, ModelError
from l2p.files import write_json
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.embeddings import EmbeddingStore
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin
from l2p.quiet import quiet_third_parties
from l2p.registry.tracking import TrainingRun
from l2p.training.checkpoints import Checkpoints
from l2p.training.compilation import compile_regions
from l2p.training.engine import Engine, leave_processes
from l2p.training.export import export
from l2p.training.lifeline import die_with_parent
from l2p.training.loop import Desk, Trainer
from l2p.training.precision import hold_frozen_in_bfloat16
from l2p.training.preview import Preview
from l2p.training.record import Record, memory_mb
from l2p.training.samples import Corpus, Samples
from l2p.training.state import Ema, Progress, fingerprint

RESULT = "result.json"
RUN_FILE = "mlflow.json"  # beside the checkpoints, so that the run goes on as long as they do


@dataclass(frozen=True)
class Subject:
    """The model in training, and what it stands on."""

    model: PixelTransformer
    names: list[str]
    pin: SourcePin


def work(params: Params) -> None:
    """Train as this process's share; rank 0 writes `models/pixel` and `reports/training`.

    Raises:
        ConfigError, DataError, MissingFileError, ModelError, SourceError, TrainingError: see the message.
    """
    made_for = fingerprint(params)
    subject = load_subject(params)
    corpus = Corpus(Layout.manifest, Layout.corpus)
    embeddings = EmbeddingStore(Layout.embeddings)
    engine = Engine(subject.model, params.train)
    try:
        _train(params, subject, engine, corpus=corpus, embeddings=embeddings, made_for=made_for)
    finally:
        leave_processes()


def load_subject(params: Params) -> Subject:
    """The grafted model of `models/init` with its trained part chosen, ready for `Engine`.

    Raises:
        ModelError: it was grafted from another source than the one pinned now.
    """
    train, pin = params.train, SourcePin.load(Layout.source)
    if read_delta_card(Layout.init)["source"]["digest"] != pin.digest:
        raise ModelError(f"{Layout.init}: grafted from another source than {Layout.source} pins. Run `l2p convert`.")
    model = load_pixel_model(Layout.init)
    names = model.set_trainable(train.trainable)
    model.adapter.prepare_training(model.dit)
    if train.dtype == "bfloat16":
        hold_frozen_in_bfloat16(model)
    if train.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    if train.compile_blocks:
        compile_regions(model)
    return Subject(model, names, pin)


def _train(
    params: Params,
    subject: Subject,
    engine: Engine,
    *,
    corpus: Corpus,
    embeddings: EmbeddingStore,
    made_for: dict[str, Any],
) -> None:
    train, model = params.train, subject.model
    samples = Samples(corpus, embeddings, train, rank=engine.rank, world_size=engine.world_size)
    ema = (
        Ema({name: model.get_parameter(name) for name in subject.names}, train.ema_decay) if engine.rank == 0 else None
    )
    checkpoints = Checkpoints(Layout.checkpoints, engine, fingerprint=made_for)
    progress = checkpoints.resume(ema)
    if ema is None:
        Trainer(model, engine, samples, train=train, checkpoints=checkpoints, desk=None).run(progress)
    else:
        with _tracker(params) as tracker:
            preview = Preview(
                model,
                corpus,
                embeddings,
                pin=subject.pin,
                sampler=params.sampling.pixel,
                autocast_dtype=engine.autocast_dtype,
            )
            desk = Desk(ema, preview, Record(Layout.training, tracker, num_steps=train.num_steps))
            progress = Trainer(model, engine, samples, train=train, checkpoints=checkpoints, desk=desk).run(progress)
            sampler = params.sampling.pixel.model_dump()
            export(model, ema, Layout.pixel, names=subject.names, pin=subject.pin, sampler=sampler)
            write_json(Layout.training / RESULT, _result(params, subject, engine, desk.record, progress))
    engine.wait_for_all()


def _tracker(params: Params) -> TrainingRun:
    settings = params.register_
    run = TrainingRun.open(
        tracking_uri=settings.tracking_uri,
        experiment=settings.experiment,
        run_file=Layout.checkpoints / RUN_FILE,
        name=f"train {settings.name}",
    )
    run.log_params(params.model_dump(mode="json", by_alias=True, include={"source", "convert", "train"}))
    run.watch_system()
    return run


def _result(params: Params, subject: Subject, engine: Engine, record: Record, progress: Progress) -> dict[str, Any]:
    on_gpu = engine.device.type == "cuda"
    parameters = list(subject.model.parameters())
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "images_per_s": round(progress.step * params.train.batch_size / max(progress.seconds, 1e-9), 2),
        "peak_memory_mb": round(memory_mb(engine.device), 1),
        "final_loss": record.last["loss"],
        "device": torch.cuda.get_device_name(engine.device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "num_processes": engine.world_size,
        "trainable_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "total_parameters": sum(p.numel() for p in parameters),
    }


def main(arguments: list[str]) -> int:
    """Run as a launched process; a mistake of the user is handed to the launcher instead of a traceback."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    die_with_parent()
    quiet_third_parties()
    handler = get_error_handler()
    handler.initialize()
    try:
        work(Params.model_validate_json(Path(arguments[0]).read_bytes()))
    except L2PError as error:
        handler.record_exception(error)
        return 1
    except Exception as error:
        handler.record_exception(error)
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
