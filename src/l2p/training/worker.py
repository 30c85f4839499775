"""Owns one training process from start to end; `serve` is what a launched one does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from l2p.config import Layout, Params, TrainParams
from l2p.errors import DataError, L2PError, ModelError
from l2p.files import write_json
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.embeddings import EmbeddingStore
from l2p.models.pixel_transformer import PixelTransformer
from l2p.models.source import SourcePin
from l2p.quiet import quiet_third_parties
from l2p.registry.tracking import TrainingRun
from l2p.training.checkpoints import Best, Checkpoints
from l2p.training.compilation import compile_regions
from l2p.training.deepspeed_config import zero_stage
from l2p.training.engine import Engine, leave_processes
from l2p.training.export import export
from l2p.training.lifeline import die_with_parent
from l2p.training.loop import BEST_BY, Gauges, Probe, Trainer
from l2p.training.order import hold_out
from l2p.training.precision import hold_frozen_in_bfloat16
from l2p.training.preview import Preview, drop_grids_after
from l2p.training.record import Record, memory_mb
from l2p.training.samples import Corpus, Samples
from l2p.training.state import Progress, fingerprint
from l2p.training.validation import Validation

RESULT = "result.json"
RUN_FILE = "mlflow.json"  # beside the checkpoints, so that the run goes on as long as they do


@dataclass(frozen=True)
class Subject:
    """The model in training, and what it stands on."""

    model: PixelTransformer
    names: list[str]
    pin: SourcePin


MakeProbe = Callable[[Params, SourcePin, int], Probe]


def work(params: Params, make_probe: MakeProbe | None = None) -> None:
    """Train as this process's share; rank 0 writes `models/pixel` and `reports/training`.

    Args:
        params: of the project.
        make_probe: makes what measures the weights now and then, of params, source and rank of the process.

    Raises:
        ConfigError, DataError, MissingFileError, ModelError, SourceError, TrainingError: see the message.
    """
    made_for = fingerprint(params)
    subject = load_subject(params)
    data = open_data(params, subject)
    engine = Engine(subject.model, params.train)
    try:
        engine.together(data.corpus.check_files if engine.rank == 0 else None)
        probe = None
        if make_probe is not None and (engine.rank == 0 or engine.shards.split_weights):
            probe = make_probe(params, subject.pin, engine.rank)
        _train(params, subject, engine, data=data, probe=probe, made_for=made_for)
    finally:
        leave_processes()


@dataclass(frozen=True)
class Data:
    """What a training reads: images, embeddings, and which rows are trained on and which are held out."""

    corpus: Corpus
    embeddings: EmbeddingStore
    rows: list[int]
    held_out: list[int]


def open_data(params: Params, subject: Subject) -> Data:
    """Open corpus and embeddings.

    Raises:
        DataError: the model cannot draw a size of the corpus, embeddings are another source's, or nothing is left.
    """
    corpus, embeddings = Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings)
    for height, width in sorted(set(corpus.sizes)):
        try:
            subject.model.check_size(height, width)
        except ModelError as error:
            raise DataError(f"{Layout.manifest}: {error}") from error
    if embeddings.source_digest != subject.pin.digest:
        raise DataError(f"{Layout.embeddings}: made by another source than {Layout.source} pins. Run `l2p embed`.")
    rows, held_out = hold_out(corpus.prompt_ids, params.train.validation_images, seed=params.train.seed)
    return Data(corpus, embeddings, rows, held_out)


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
    if train.precision == "bfloat16":
        hold_frozen_in_bfloat16(model)
    if train.gradient_checkpointing in ("blocks", "all"):
        model.enable_gradient_checkpointing()
    if train.gradient_checkpointing in ("head", "all"):
        model.enable_head_checkpointing()
    if train.compile_blocks:
        compile_regions(model)
    return Subject(model, names, pin)


def _train(
    params: Params, subject: Subject, engine: Engine, *, data: Data, probe: Probe | None, made_for: dict[str, Any]
) -> None:
    train, model, corpus, embeddings = params.train, subject.model, data.corpus, data.embeddings
    samples = Samples(corpus, embeddings, train, rows=data.rows, rank=engine.rank, world_size=engine.world_size)
    checkpoints = Checkpoints(Layout.checkpoints, engine, fingerprint=made_for)
    progress = checkpoints.resume()
    if engine.rank == 0:
        drop_grids_after(progress.step)
    preview = Preview(
        model,
        corpus,
        embeddings,
        rows=data.held_out or data.rows,
        pin=subject.pin,
        sampler=params.sampling.pixel,
        device=engine.device,
        autocast_dtype=engine.autocast_dtype,
    )
    validation = (
        Validation(model, engine, corpus, embeddings, train=train, rows=data.held_out) if data.held_out else None
    )
    with _tracker(params) if engine.rank == 0 else contextlib.nullcontext() as tracker:
        record = (
            Record(Layout.training, tracker, num_steps=train.num_steps, batch_size=train.batch_size)
            if tracker is not None
            else None
        )
        gauges = Gauges(preview, validation, probe, record)
        progress = Trainer(model, engine, samples, train=train, checkpoints=checkpoints, gauges=gauges).run(progress)
        kept = _choose_weights(train, checkpoints)
        sampler = params.sampling.pixel.model_dump()
        export(model, engine, Layout.pixel, names=subject.names, pin=subject.pin, sampler=sampler)
        if record is not None:
            result = _result(params, subject, engine, record, progress)
            write_json(
                Layout.training / RESULT, result | {"weights": asdict(kept) if kept else {"step": progress.step}}
            )
    engine.wait_for_all()


def _choose_weights(train: TrainParams, checkpoints: Checkpoints) -> Best | None:
    """Give the model the best weights, if they are what is kept; says which."""
    if train.keep == "last":
        return None
    best = checkpoints.best(BEST_BY[train.keep][0])
    if best is not None:
        checkpoints.load_best()
    return best


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
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in subject.model.parameters()]
    return {
        "steps": progress.step,
        "seconds": round(progress.seconds, 1),
        "images_per_s": round(progress.step * params.train.batch_size / max(progress.seconds, 1e-9), 2),
        "peak_memory_mb": round(memory_mb(engine.device), 1),
        "final_loss": record.final_loss,
        "device": torch.cuda.get_device_name(engine.device) if on_gpu else f"cpu, {torch.get_num_threads()} threads",
        "num_processes": engine.world_size,
        "zero_stage": zero_stage(params.train),
        "trainable_parameters": sum(numel for numel, trained in sizes if trained),
        "total_parameters": sum(numel for numel, _ in sizes),
    }


def serve(arguments: list[str], make_probe: Callable[[Params], MakeProbe | None]) -> int:
    """Run as a launched process; a mistake of the user is handed to the launcher instead of a traceback."""
    from torch.distributed.elastic.multiprocessing.errors import get_error_handler

    die_with_parent()
    quiet_third_parties()
    handler = get_error_handler()
    handler.initialize()
    try:
        params = Params.model_validate_json(Path(arguments[0]).read_bytes())
        work(params, make_probe(params))
    except L2PError as error:
        handler.record_exception(error)
        return 1
    except Exception as error:
        handler.record_exception(error)
        raise
    return 0
