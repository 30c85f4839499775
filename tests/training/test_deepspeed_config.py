"""DeepSpeed's keys in params.yaml: used, or refused with the reason; never silently overruled."""

from __future__ import annotations

from typing import Any

import pytest

from l2p.config import TrainParams, load_params
from l2p.errors import ConfigError
from l2p.training.deepspeed_config import resolve_config
from tests.conftest import ROOT


def train_params(deepspeed: dict[str, Any], **changes: Any) -> TrainParams:
    """The repository's section `train` with other DeepSpeed keys."""
    train = load_params(ROOT / "params.yaml").train
    return train.model_copy(update={"batch_size": 32, "dtype": "bfloat16", "deepspeed": deepspeed, **changes})


def test_without_keys_of_the_user_it_is_zero_1_with_everything_from_params() -> None:
    train = train_params({})
    config = resolve_config(train, world_size=2)
    assert config["train_batch_size"] == 32
    assert config["train_micro_batch_size_per_gpu"] == 16
    assert config["gradient_accumulation_steps"] == 1
    assert config["gradient_clipping"] == train.max_grad_norm
    assert config["zero_optimization"]["stage"] == 1
    assert config["torch_autocast"]["enabled"] is True


def test_float32_turns_autocast_off() -> None:
    assert resolve_config(train_params({}, dtype="float32"), world_size=1)["torch_autocast"]["enabled"] is False


def test_keys_that_params_do_not_decide_reach_deepspeed() -> None:
    given = {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000}, "communication_data_type": "fp32"}
    config = resolve_config(train_params(given), world_size=1)
    assert config["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert config["communication_data_type"] == "fp32"


@pytest.mark.parametrize("key", ["train_micro_batch_size_per_gpu", "gradient_accumulation_steps"])
def test_either_key_splits_the_batch_into_micro_batches(key: str) -> None:
    config = resolve_config(train_params({key: 4}), world_size=2)
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 4


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"train_batch_size": 64}, "train.batch_size = 32"),
        ({"gradient_clipping": 0.5}, "train.max_grad_norm"),
        ({"bf16": {"enabled": True}}, "train.dtype"),
        ({"fp16": {"enabled": True}}, "train.dtype"),
        ({"torch_autocast": {"enabled": False}}, "train.dtype = 'bfloat16'"),
        ({"torch_autocast": {"dtype": "float16"}}, "only bfloat16"),
        ({"optimizer": {"type": "Adam"}}, "train.learning_rate"),
        ({"scheduler": {"type": "WarmupLR"}}, "train.warmup_steps"),
        ({"zero_optimization": {"stage": 3}}, "train.compile_blocks: false"),
        ({"zero_optimization": {"stage": 4}}, "expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "Set `stage: 3`"),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "nvme"}}}, "`device: cpu`"),
        ({"zero_optimization": 1}, "stage: 1"),
        ({"zero_optimisation": {"stage": 1}}, "zero_optimisation"),
        ({"train_micro_batch_size_per_gpu": 5}, "micro batches of 5"),
        ({"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}, "gradient_accumulation_steps = 2"),
    ],
)
def test_a_contradiction_is_refused_and_named(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.deepspeed") as caught:
        resolve_config(train_params(given), world_size=1)
    assert named in str(caught.value)


def test_a_batch_that_does_not_divide_among_the_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide among 3"):
        resolve_config(train_params({}), world_size=3)


def test_harmless_repetitions_are_accepted() -> None:
    train = train_params({})
    given = {"train_batch_size": 32, "gradient_clipping": train.max_grad_norm, "bf16": {"enabled": False}}
    assert resolve_config(train_params(given), world_size=1)["train_batch_size"] == 32
