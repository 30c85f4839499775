"""Owns DeepSpeed, with `zero` the only importer: processes, precision, clipping, and how a step is taken.

Everything else of the training sees an `Engine` with predict, backward, step, and the `shards` of what is trained.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from l2p.config import TrainParams
from l2p.errors import ConfigError, L2PError
from l2p.models.adapters.base import TextInputs
from l2p.models.pixel_transformer import PixelTransformer
from l2p.training.deepspeed_config import resolve_config, zero_stage
from l2p.training.optimizer import AveragingAdamW
from l2p.training.zero import Shards, whole

_environment_before: dict[str, str | None] = {}  # what a lone process found; it leaves as it came
SHM_OP = "deepspeed_shm_comm"  # compiled at first use, with a lock that a killed process leaves behind


class Engine:
    """One process's share of the training of one model's trainable parameters."""

    def __init__(self, model: PixelTransformer, train: TrainParams) -> None:
        """Build it; the model moves to this process's device, its frozen parameters stay out of the optimizer.

        Raises:
            ConfigError: `train.deepspeed` contradicts the rest, or DeepSpeed refuses it.
        """
        self.device = start_process(train)
        config = resolve_config(train, world_size=self.world_size)
        self.micro_batch_size: int = config["train_micro_batch_size_per_gpu"]
        self.autocast_dtype = torch.bfloat16 if train.precision == "bfloat16" else None
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if zero_stage(train) < 3:  # stage 3 moves the weights itself, one by one
            model.to(self.device)
        self._engine = _initialize(_Predict(model.train()), list(trained.values()), train, config)
        self.shards = Shards(self._engine, trained)

    @property
    def rank(self) -> int:
        """Number of this process; 0 writes files."""
        return torch.distributed.get_rank()

    @property
    def world_size(self) -> int:
        """Number of processes, all machines together."""
        return torch.distributed.get_world_size()

    def predict(self, noisy: Tensor, sigma: Tensor, text: TextInputs) -> Tensor:
        """What the head puts out for noisy pixels [B, 3, H, W] at sigma [B], in the training's precision."""
        prediction: Tensor = self._engine(noisy, sigma, text)
        return prediction

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of one micro batch; the last one of a step also sums them over the processes."""
        self._engine.backward(loss)

    def step(self, learning_rate: float | None = None) -> None:
        """End a micro batch; at the last one of a step clip, update with `learning_rate` and clear the gradients."""
        if learning_rate is not None:
            for group in self._engine.optimizer.param_groups:
                group["lr"] = learning_rate
        self._engine.step()

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradient over all processes, before clipping."""
        return float(self._engine.get_global_grad_norm())

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """The model has its averaged weights and computes no gradient within the block; every process must enter it."""
        with self.shards.averages(), torch.no_grad():
            yield

    def whole_tensors(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of the model's state, on its device, one after the other; every process must read them all."""
        model: nn.Module = self._engine.module.model
        parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
        for name in names:
            if name in buffers:
                yield name, buffers[name]
                continue
            with whole([parameters[name]]):
                yield name, parameters[name].detach()

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """Elementwise sum of `values` over all processes."""
        torch.distributed.all_reduce(values)
        return values

    def agree(self, value: Any) -> Any:
        """The `value` of rank 0, in every process."""
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in the order of their ranks, in every process."""
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, value)
        return found

    def together(self, work: Callable[[], object] | None) -> None:
        """Let one process work while the others wait; what it raises ends them all, here and not at a time-out.

        Raises:
            L2PError: what `work` raised.
        """
        problem: L2PError | None = None
        try:
            if work is not None:
                work()
        except L2PError as error:
            problem = error
        for found in self.gather(problem):
            if found is not None:
                raise found

    def wait_for_all(self) -> None:
        """Return when every process has come here."""
        torch.distributed.barrier()


class _Predict(nn.Module):
    """Gives `PixelTransformer.predict` the name `forward`, through which DeepSpeed applies its precision and hooks."""

    def __init__(self, model: PixelTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, noisy: Tensor, sigma: Tensor, text: TextInputs) -> Tensor:
        return self.model.predict(noisy, sigma, text)


def start_process(train: TrainParams) -> torch.device:
    """Join the processes of this training, alone if nothing launched us; returns this process's device.

    Raises:
        ConfigError: fewer GPUs than processes, or launched with another number of processes than params.yaml says.
    """
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    _describe_lone_process()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if local != train.num_processes:
        raise ConfigError(
            f"train.num_processes = {train.num_processes}, but {local} processes were launched on this machine."
        )
    if on_gpu and torch.cuda.device_count() < train.num_processes:
        raise ConfigError(
            f"train.num_processes = {train.num_processes}, but there are {torch.cuda.device_count()} GPUs."
        )
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        _import_deepspeed().init_distributed("nccl" if on_gpu else "gloo", verbose=False)
    return device


def leave_processes() -> None:
    """Leave the group of processes that `start_process` joined, so that a later training can form another."""
    if torch.distributed.is_initialized():
        _import_deepspeed().comm.destroy_process_group()
    for name, value in _environment_before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _environment_before.clear()


def _describe_lone_process() -> None:
    """What a launcher would say; without it DeepSpeed asks for MPI."""
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    _environment_before.update({name: os.environ.get(name) for name in (*defaults, "MASTER_PORT")})
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if os.environ["WORLD_SIZE"] == "1":  # nobody else needs to know the port, so each training takes a free one
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(probe.getsockname()[1])


def _import_deepspeed() -> Any:
    """DeepSpeed, kept from compiling its shared-memory operator (needs ninja; a stale lock file hangs it silently)."""
    import deepspeed

    deepspeed.ops.__compatible_ops__[SHM_OP] = False
    return deepspeed


def _initialize(module: nn.Module, trained: list[nn.Parameter], train: TrainParams, config: dict[str, Any]) -> Any:
    deepspeed = _import_deepspeed()
    # Our own AdamW: one built by DeepSpeed from its configuration compiles an extension first, for most of a minute.
    optimizer = AveragingAdamW(
        trained, lr=train.learning_rate, weight_decay=train.weight_decay, average_decay=train.ema_decay
    )
    _tell_deepspeed_of(AveragingAdamW)
    try:
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, model_parameters=trained, config=config)
    except (AssertionError, ValueError, TypeError, deepspeed.runtime.config.DeepSpeedConfigError) as error:
        raise ConfigError(f"train.deepspeed: DeepSpeed refuses it ({' '.join(str(error).split())[:400]}).") from error
    return engine


def _tell_deepspeed_of(optimizer_class: type) -> None:
    """Ours is AdamW; DeepSpeed compares exact types and would warn of an optimizer that it has not tested."""
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    if optimizer_class not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(optimizer_class)
