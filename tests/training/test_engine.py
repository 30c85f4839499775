"""The DeepSpeed engine: what it trains, what it leaves alone, and the private names it is kept from using."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from l2p.config import Layout, load_params
from l2p.errors import ConfigError
from l2p.models.embeddings import EmbeddingStore
from l2p.training import engine as engine_module
from l2p.training.engine import Engine, leave_processes
from l2p.training.loop import Trainer
from l2p.training.samples import Corpus, Samples
from l2p.training.worker import Subject, load_subject
from tests.training.conftest import with_train


@pytest.fixture(autouse=True)
def no_processes_left() -> Iterator[None]:
    """Each test joins a group of its own."""
    yield
    leave_processes()


def take_steps(count: int) -> tuple[Subject, Engine]:
    """Train the project's model for some steps, without anything that only rank 0 does."""
    params = load_params()
    subject = load_subject(params)
    engine = Engine(subject.model, params.train)
    samples = Samples(Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings), params.train)
    checkpoints: Any = None  # not reached by single steps
    gauges: Any = None
    trainer = Trainer(subject.model, engine, samples, train=params.train, checkpoints=checkpoints, gauges=gauges)
    for step in range(count):
        trainer._step(step, samples.batch(step), params.train.learning_rate)
    return subject, engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_frozen_tensors_stay_bitwise_and_have_neither_gradient_nor_optimizer_state(project: Path, dtype: str) -> None:
    with_train(dtype=dtype)
    before = {name: tensor.clone() for name, tensor in load_subject(load_params()).model.state_dict().items()}
    subject, engine = take_steps(3)
    trained = set(subject.names)
    assert 0 < len(trained) < len(before)
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in trained), name
    frozen = [p for name, p in subject.model.named_parameters() if name not in trained]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    trained_numel = sum(subject.model.get_parameter(name).numel() for name in trained)
    assert 0 <= engine.shards.local_numel() - trained_numel < 16  # the rest is padding


def test_trained_weights_are_float32_and_frozen_matrices_bfloat16_in_mixed_precision(project: Path) -> None:
    with_train(dtype="bfloat16")
    subject, engine = take_steps(1)
    trained = set(subject.names)
    kinds = {name: p.dtype for name, p in subject.model.named_parameters()}
    assert {kinds[name] for name in trained} == {torch.float32}
    assert {kind for name, kind in kinds.items() if name not in trained and name.endswith("w1.weight")} == {
        torch.bfloat16
    }
    assert {kind for name, kind in kinds.items() if "norm" in name} == {torch.float32}
    samples = Samples(Corpus(Layout.manifest, Layout.corpus), EmbeddingStore(Layout.embeddings), load_params().train)
    batch = samples.batch(0)
    text = subject.model.adapter.collate(batch.embeddings)
    assert engine.predict(batch.x0_BCHW, batch.sigma_B, text).dtype == torch.bfloat16


def test_micro_batches_add_up_to_the_whole_batch(project: Path) -> None:
    whole, _ = take_steps(2)
    leave_processes()
    with_train(deepspeed={"train_micro_batch_size_per_gpu": 1})
    parts, engine = take_steps(2)
    assert engine.micro_batch_size == 1
    for name in whole.names:
        torch.testing.assert_close(
            parts.model.get_parameter(name), whole.model.get_parameter(name), rtol=1e-4, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("what", ["head", "blocks", "all"])
def test_gradient_checkpointing_changes_no_weight(project: Path, what: str) -> None:
    plain, _ = take_steps(2)
    leave_processes()
    with_train(gradient_checkpointing=what)
    checkpointed, _ = take_steps(2)
    for name in plain.names:
        torch.testing.assert_close(checkpointed.model.get_parameter(name), plain.model.get_parameter(name))


def test_the_private_name_that_keeps_deepspeed_from_compiling_still_works(project: Path) -> None:
    take_steps(1)
    import deepspeed
    from deepspeed.comm.torch import build_shm_op

    builder = deepspeed.accelerator.get_accelerator().create_op_builder("ShareMemCommBuilder")
    assert builder is not None
    assert builder.NAME == engine_module.SHM_OP
    assert build_shm_op() is None


def test_deepspeeds_own_refusals_name_the_section(project: Path) -> None:
    params = with_train(deepspeed={"zero_optimization": {"stage": 1, "no_such_key": 1}})
    with pytest.raises(ConfigError, match=r"train\.deepspeed: DeepSpeed refuses it .*no_such_key"):
        Engine(load_subject(params).model, params.train)


def test_another_number_of_launched_processes_than_configured_is_refused(project: Path) -> None:
    params = with_train(num_processes=2)
    with pytest.raises(ConfigError, match=r"train\.num_processes = 2, but 1"):
        Engine(load_subject(params).model, params.train)


@pytest.mark.parametrize("stage", [1, 3])
def test_what_is_written_to_the_shards_is_read_back_and_reaches_the_model(project: Path, stage: int) -> None:
    with_train(deepspeed={"zero_optimization": {"stage": stage}}, ema_decay=0.5)
    subject, engine = take_steps(2)
    shards, name = engine.shards, subject.names[0]
    assert shards.kinds == ("weight", "exp_avg", "exp_avg_sq", "average")
    for kind in shards.kinds:
        shards.write(name, kind, torch.full_like(shards.read(name, kind), 0.5))
        assert (shards.read(name, kind) == 0.5).all()
    shards.update_model()
    assert (dict(engine.whole_tensors([name]))[name] == 0.5).all()
    assert shards.steps_taken == 2


def test_within_drawing_the_model_has_its_averages_and_after_it_its_own_weights(project: Path) -> None:
    with_train(ema_decay=0.5)
    subject, engine = take_steps(3)
    own = {name: subject.model.get_parameter(name).detach().clone() for name in subject.names}
    with engine.drawing():
        assert not torch.is_grad_enabled()
        for name in subject.names:
            assert torch.equal(subject.model.get_parameter(name), engine.shards.read(name, "average"))
    assert all(torch.equal(subject.model.get_parameter(name), tensor) for name, tensor in own.items())


def test_the_optimizer_can_be_held_on_the_cpu(project: Path) -> None:
    with_train(deepspeed={"zero_optimization": {"stage": 2}})
    plain, _ = take_steps(2)
    leave_processes()
    with_train(deepspeed={"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})
    offloaded, _ = take_steps(2)
    for name in plain.names:
        torch.testing.assert_close(
            offloaded.model.get_parameter(name), plain.model.get_parameter(name), rtol=1e-4, atol=1e-6
        )
