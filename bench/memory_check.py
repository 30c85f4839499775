"""Owns the measurement beside bench.memory: which tensors are alive in a real training, at three moments of a step."""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from bench.memory_formula import Content, Share, content_of
from bench.random_models import empty_model, fill, narrow, prepare, preset_params
from bench.sizes import text_inputs
from l2p.config import Params
from l2p.diffusion.loss import flow_matching_loss
from l2p.evaluation.measuring import MemoryMeter
from l2p.models.families import KnownSource, read_known
from l2p.models.pixel_transformer import CHANNELS, PixelTransformer
from l2p.quiet import quiet_third_parties
from l2p.training.engine import Engine, leave_processes

FAMILY = "z-image"
SIDE_PX = 64  # few tokens, so that activations are small
BUCKET_VALUES = 1_000_000
NUM_STEPS = 2  # the states of AdamW are there after the first
SETTINGS: dict[str, dict[str, Any]] = {
    "ZeRO 1": {"stage": 1},
    "ZeRO 2": {"stage": 2},
    "ZeRO 3": {"stage": 3},
    "ZeRO 3, offloaded": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}


@dataclass(frozen=True)
class Alive:
    """Bytes of tensors at three moments, and the highest resident memory of a step above that before the model."""

    between_steps: int
    after_backward: int
    in_optimizer: int
    peak_resident: int | None  # None: the system does not tell


def check(processes: int, *, width: int, blocks: int) -> None:
    """Train at every stage and print computed against measured bytes."""
    known, params = small_family(width), preset_params(FAMILY)
    content = content_of(empty_model(known, params, blocks=blocks), params)
    total = sum(parameter.numel() for parameter in empty_model(known, params, blocks=blocks).parameters())
    print(f"\n{known.title} of width {width}, {blocks} blocks: {total / 1e6:.0f} million parameters, ", end="")
    print(f"{content.trained / 1e6:.0f} trained; {processes} process{'es' * (processes > 1)}; MB of tensors\n")
    print(f"{'':<19}{'moment':<22}{'computed':>10}{'measured':>10}{'ratio':>8}")
    for name, zero in SETTINGS.items():
        alive = launch(processes, (known, params, blocks, zero))
        for line in compare(name, alive, content, processes):
            print(line, flush=True)


def compare(name: str, alive: Alive, content: Content, processes: int) -> list[str]:
    """Lines of one setting."""
    share = Share(SETTINGS[name]["stage"], processes, averages=True, bucket_values=BUCKET_VALUES)
    moments: list[tuple[str, Callable[[Content], float], int]] = [
        ("between steps", share.between_steps, alive.between_steps),
        ("at the last gradient", share.after_backward, alive.after_backward),
        ("in the optimizer", share.in_optimizer, alive.in_optimizer),
    ]
    if "offloaded" in name:  # gradients are summed up in a tensor of their own, which stays
        moments = [(moment, share.in_optimizer, measured) for moment, _, measured in moments]
    if alive.peak_resident is not None:
        moments.append(("resident, highest", share.peak, alive.peak_resident))
    lines = []
    for index, (moment, computed, measured) in enumerate(moments):
        told = computed(content)
        head = f"{name if index == 0 else '':<19}{moment:<22}"
        lines.append(f"{head}{told / 1e6:>10.0f}{measured / 1e6:>10.0f}{measured / told:>8.3f}")
    return lines


def small_family(width: int) -> KnownSource:
    """A narrow Z-Image."""
    return narrow(read_known(FAMILY), width)


def launch(processes: int, arguments: tuple[Any, ...]) -> Alive:
    """Train in processes of their own; what rank 0 measured."""
    context = multiprocessing.get_context("spawn")
    results, port = context.SimpleQueue(), _free_port()
    workers = [
        context.Process(target=_work, args=(rank, processes, port, results, arguments)) for rank in range(processes)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers) or results.empty():
        raise SystemExit("a training process failed; what it said stands above.")
    alive: Alive = results.get()
    return alive


def measure(known: KnownSource, params: Params, blocks: int, zero: dict[str, Any]) -> Alive:
    """Two steps in this process, one of those that the environment describes."""
    import deepspeed  # noqa: F401 (before the meter starts)

    meter, before = MemoryMeter("cuda" if torch.cuda.is_available() else "cpu"), alive_bytes()
    meter.start()
    train = params.train.model_copy(
        update={
            "num_processes": int(os.environ["WORLD_SIZE"]),
            "batch_size": int(os.environ["WORLD_SIZE"]),
            "ema_decay": 0.99,
            "gradient_checkpointing": "none",
            "compile_blocks": False,
            "deepspeed": {"zero_optimization": {**zero, "reduce_bucket_size": BUCKET_VALUES}},
        }
    )
    model = empty_model(known, params, blocks=blocks)
    prepare(model, params)
    fill(model, "cpu")
    engine = Engine(model, train)
    after_backward: list[int] = []
    in_optimizer: list[int] = []
    first = model.dit.get_submodule(model.adapter.embedder).weight  # its gradient is the last
    first.register_hook(lambda _: after_backward.append(alive_bytes()))
    hook = register_optimizer_step_pre_hook(lambda *_: in_optimizer.append(alive_bytes()))
    for _ in range(NUM_STEPS):
        MemoryMeter(str(engine.device.type)).start()  # forgets the peak before this step; `meter` keeps its own start
        after_backward.clear()
        in_optimizer.clear()
        take_step(model, engine, known)
    hook.remove()
    measured = Alive(
        alive_bytes() - before, max(after_backward) - before, max(in_optimizer) - before, meter.peak_bytes()
    )
    leave_processes()
    return measured


def take_step(model: PixelTransformer, engine: Engine, known: KnownSource) -> None:
    """One step on noise."""
    pixels = torch.randn(1, CHANNELS, SIDE_PX, SIDE_PX, device=engine.device)
    sigma = torch.full((1,), 0.5, device=engine.device)
    out = engine.predict(pixels, sigma, text_inputs(known, device=str(engine.device)))
    loss, _ = flow_matching_loss(out, pixels, pixels, sigma, prediction_type=model.config.prediction, min_sigma=0.1)
    engine.backward(loss)
    engine.step()


def alive_bytes() -> int:
    """Bytes of the storages of all tensors that Python can reach, with their gradients; each storage counts once."""
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if not issubclass(type(found), Tensor):  # not isinstance: it would wake lazy objects
            continue
        for tensor in (found, found.grad if found.is_leaf else None, getattr(found, "grad_accum", None)):
            if tensor is not None and not tensor.is_meta and tensor.layout == torch.strided:
                storage = tensor.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _work(rank: int, processes: int, port: int, results: Any, arguments: tuple[Any, ...]) -> None:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    quiet_third_parties()
    measured = measure(*arguments)
    if rank == 0:
        results.put(measured)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
