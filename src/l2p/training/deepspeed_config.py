"""Owns DeepSpeed's configuration: the user's keys under `train.deepspeed`, merged with the rest of params.yaml.

A key may be said twice only if both agree. Nothing here imports deepspeed, so that a contradiction is told at once.
"""

from __future__ import annotations

from typing import Any

from l2p.config import TrainParams
from l2p.errors import ConfigError

MAX_ZERO_STAGE = 3
_OFFLOADS = ("offload_optimizer", "offload_param")

# Keys that DeepSpeed reads and that change nothing params.yaml already decides. It ignores unknown keys, we do not.
_FREE_KEYS = frozenset(
    {
        "aio",
        "comms_logger",
        "communication_data_type",
        "csv_monitor",
        "disable_allgather",
        "dump_state",
        "flops_profiler",
        "gradient_accumulation_steps",
        "gradient_allreduce_op",
        "gradient_predivide_factor",
        "log_level",
        "memory_breakdown",
        "prescale_gradients",
        "steps_per_print",
        "tensorboard",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_clipping",
        "wall_clock_breakdown",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    }
)
_ELSEWHERE = {
    "optimizer": "it is AdamW with train.learning_rate and train.weight_decay",
    "scheduler": "the rate follows train.warmup_steps and train.decay_share",
    "activation_checkpointing": "it is train.gradient_checkpointing",
    "compile": "it is train.compile_blocks",
    "checkpoint": "checkpoints are written every train.checkpoint_every steps, the last two are kept",
}
# With offload DeepSpeed wants its own optimizer, compiled at first use; torch's fused AdamW is as fast on a CPU.
_OWN_OPTIMIZER = {"zero_force_ds_cpu_optimizer": False}
_PRECISIONS = ("bf16", "bfloat16", "fp16", "amp")
_STEPS_BETWEEN_PRINTS = 10**9  # progress is ours to tell


def resolve_config(train: TrainParams, *, world_size: int) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`.

    Args:
        train: the section `train` of params.yaml.
        world_size: training processes, all machines together.

    Raises:
        ConfigError: a key is unknown, contradicts another part of params.yaml, or belongs there.
    """
    given = dict(train.deepspeed)
    _refuse_foreign_keys(given)
    micro, accumulation = _batch_split(train, given, world_size)
    bfloat16 = train.precision == "bfloat16"
    ours: dict[str, Any] = {
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": train.max_grad_norm,
        "zero_optimization": _zero(given, train),
        "torch_autocast": _autocast(given, enabled=bfloat16),
    }
    _check_agreement(given, ours, train)
    return {"steps_per_print": _STEPS_BETWEEN_PRINTS, **_OWN_OPTIMIZER, **given, **ours}


def zero_stage(train: TrainParams) -> int:
    """Stage of ZeRO, 1 to 3.

    Raises:
        ConfigError: it is none of these.
    """
    stage: int = _zero(dict(train.deepspeed), train)["stage"]
    return stage


def _refuse_foreign_keys(given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key in _PRECISIONS:
            if not isinstance(value, dict) or value.get("enabled", False):
                raise ConfigError(
                    f"train.deepspeed.{key}: precision is set by train.dtype (autocast over float32 weights, "
                    f"docs/decisions/0004-training-precision.md). Remove `{key}`."
                )
        elif key in _ELSEWHERE:
            raise ConfigError(f"train.deepspeed.{key}: not set here; {_ELSEWHERE[key]}. Remove `{key}`.")
        elif key not in _FREE_KEYS:
            raise ConfigError(f"train.deepspeed.{key}: not a key of use here. Known: {', '.join(sorted(_FREE_KEYS))}.")


def _batch_split(train: TrainParams, given: dict[str, Any], world_size: int) -> tuple[int, int]:
    """Images per forward pass of one process, and forward passes per step."""
    if train.batch_size % world_size:
        raise ConfigError(f"train.batch_size = {train.batch_size} does not divide among {world_size} processes.")
    per_process = train.batch_size // world_size
    micro = given.get("train_micro_batch_size_per_gpu")
    accumulation = given.get("gradient_accumulation_steps")
    if micro is None:
        micro = per_process // accumulation if accumulation else per_process
    if not isinstance(micro, int) or micro < 1 or per_process % micro:
        raise ConfigError(
            f"train.deepspeed: micro batches of {micro} images do not make up the {per_process} images per step and "
            f"process (train.batch_size = {train.batch_size}, {world_size} processes)."
        )
    return micro, per_process // micro


def _zero(given: dict[str, Any], train: TrainParams) -> dict[str, Any]:
    zero = given.get("zero_optimization", {})
    field = "train.deepspeed.zero_optimization"
    if not isinstance(zero, dict):
        raise ConfigError(f"{field} = {zero!r}: expected keys such as `stage: 1`.")
    stage = zero.get("stage", 1)
    if stage not in range(1, MAX_ZERO_STAGE + 1):
        raise ConfigError(f"{field}.stage = {stage!r}: expected 1, 2 or 3.")
    for name in _OFFLOADS:
        offload = zero.get(name)
        if offload is None:
            continue
        if not isinstance(offload, dict) or offload.get("device", "none") not in ("cpu", "none"):
            raise ConfigError(f"{field}.{name} = {offload!r}: expected `device: cpu` or `device: none`.")
    if _offloads(zero, "offload_param") and stage < 3:
        raise ConfigError(f"{field}.offload_param: weights leave the GPU only with stage 3. Set `stage: 3`.")
    if stage == 3 and train.compile_blocks:
        raise ConfigError(
            f"{field}.stage = 3 splits the weights that compiled blocks would hold. Set train.compile_blocks: false."
        )
    return {**zero, "stage": stage}


def _offloads(zero: dict[str, Any], name: str) -> bool:
    return (zero.get(name) or {}).get("device", "none") == "cpu"


def _autocast(given: dict[str, Any], *, enabled: bool) -> dict[str, Any]:
    """Autocast whose gradients are summed over processes in float32: DeepSpeed's default would round them first."""
    section = given.get("torch_autocast", {})
    ours = {"enabled": enabled, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    return {**ours, **section} if isinstance(section, dict) else ours


def _check_agreement(given: dict[str, Any], ours: dict[str, Any], train: TrainParams) -> None:
    rules = {
        "train_batch_size": ("train.batch_size", train.batch_size),
        "gradient_clipping": ("train.max_grad_norm", train.max_grad_norm),
        "gradient_accumulation_steps": ("what train.batch_size leaves", ours["gradient_accumulation_steps"]),
    }
    for key, (field, value) in rules.items():
        if key in given and given[key] != value:
            raise ConfigError(
                f"train.deepspeed.{key} = {given[key]!r} contradicts {field} = {value!r}. Remove `{key}`."
            )
    autocast = ours["torch_autocast"]
    if given.get("torch_autocast") is not None and autocast["enabled"] != (train.precision == "bfloat16"):
        raise ConfigError(
            f"train.deepspeed.torch_autocast.enabled = {autocast['enabled']!r} contradicts train.dtype = "
            f"{train.precision!r}. "
            "Remove `torch_autocast`."
        )
    if autocast["dtype"] not in ("bfloat16", "bf16"):
        raise ConfigError(f"train.deepspeed.torch_autocast.dtype = {autocast['dtype']!r}: only bfloat16 is supported.")
