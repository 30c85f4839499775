"""The benches of training: operations against closed forms, memory against sums by hand, and real runs of both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bench import flops, memory, memory_check, random_models, training, training_loops
from bench.memory_formula import Content, Share, content_of
from l2p.config import load_params
from l2p.errors import ConfigError
from l2p.models.families import read_known

ROOT = Path(__file__).parents[2]


@pytest.fixture
def task(workspace: Path, tiny_source: Path) -> training_loops.Task:
    """A tiny source, pinned, grafted and embedded in the working directory."""
    params = load_params(workspace / "params.yaml")
    training_loops.prepare_source(tiny_source, params)
    return training_loops.Task(params)


def two_layers(*, first_trained: bool) -> nn.Module:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 11, bias=False))
    model[0].requires_grad_(first_trained)
    return model


@pytest.mark.parametrize(
    ("first_trained", "products"), [(True, 3 * 5 * 7 - 5 * 7 + 3 * 7 * 11), (False, 5 * 7 + 2 * 7 * 11)]
)
def test_operations_of_linear_layers_are_two_a_weight_and_pass_that_is_needed(
    first_trained: bool, products: int
) -> None:
    """Forward, gradient of the input (not of the first layer's) and of the weight (if trained), three samples."""
    model = two_layers(first_trained=first_trained)
    assert flops.counted(lambda: model(torch.empty(3, 5, device="meta")).sum().backward()) == 2 * 3 * products


def test_a_grouped_convolution_costs_as_much_backward_as_twice_forward() -> None:
    layer = nn.Conv2d(8, 8, 3, padding=1, groups=8, device="meta")
    pixels = torch.empty(1, 8, 4, 4, device="meta", requires_grad=True)
    assert flops.counted(lambda: layer(pixels).sum().backward()) == 3 * 2 * 8 * 9 * 16


def test_gradients_of_frozen_weights_are_not_counted(task: training_loops.Task) -> None:
    everything, ends = (training.count_operations(task, everything=choice) for choice in (True, False))
    assert 0 < ends < everything
    assert ends > everything / 3  # the forward pass is a third of it all


def test_only_gpus_of_the_table_have_a_peak() -> None:
    assert flops.gpu_peak("NVIDIA H100 80GB HBM3") == 989.4e12
    assert flops.gpu_peak("NVIDIA A100-SXM4-80GB") == flops.gpu_peak("NVIDIA A100 80GB PCIe") == 312e12
    assert flops.gpu_peak("NVIDIA H100 PCIe") is None
    assert flops.gpu_peak("NVIDIA GeForce RTX 4090 Laptop GPU") is None


def test_every_loop_of_the_ladder_takes_steps(task: training_loops.Task) -> None:
    loops = training_loops.ladder(task.params, text_encoder=True)
    assert [loop.key for loop in loops] == list(training.KEYS)
    for loop in (loops[0], loops[-2]):
        with training_loops.open_loop(loop, task) as step:
            assert training.images_per_s(step, loop.batch_size, 0.0) > 0


def test_a_family_is_trained_with_random_weights(workspace: Path) -> None:
    params = random_models.preset_params("z-image")
    sizes = params.synthesize.model_copy(update={"height_px": 64, "width_px": 64})
    train = params.train.model_copy(update={"num_processes": 1, "batch_size": 2, "compile_blocks": False})
    params = params.model_copy(update={"synthesize": sizes, "train": train})
    task = training_loops.Task(params, "z-image", blocks=2, width=128, naive_dtype="bfloat16")
    training_loops.prepare_family("z-image", params)
    loops = training_loops.ladder(params, text_encoder=False)
    for loop in (loops[0], loops[-2]):
        with training_loops.open_loop(loop, task) as step:
            step(0)


def test_a_loop_that_does_not_fit_is_a_row_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(training, "open_loop", full)
    task = training_loops.Task(load_params(ROOT / "params.yaml"))
    assert training.measure(training_loops.Loop("naive", "naive"), task, 0.0) == training.Measured(None, None)


@pytest.mark.parametrize("name", ["z-image", "flux1-dev", "qwen-image", "sana"])
def test_a_family_is_cut_to_its_outermost_blocks(name: str) -> None:
    params = random_models.preset_params(name)
    whole, piece = (random_models.empty_model(read_known(name), params, blocks=blocks) for blocks in (None, 4))
    lists = [
        [len(list(m.dit.get_submodule(part).children())) for part in m.adapter.image_blocks] for m in (whole, piece)
    ]
    assert all(0 < small < large for large, small in zip(*lists, strict=True))
    assert random_models.prepare(piece, params)


def test_a_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiple"):
        random_models.narrow(read_known("z-image"), 100)
    with pytest.raises(ConfigError, match="ties other sizes"):
        random_models.narrow(read_known("sana"), 256)


CONTENT = Content(trained=100, frozen_bytes=1000, buffer_bytes=8)


@pytest.mark.parametrize(
    ("stage", "between", "gradient", "optimizer", "peak"),
    [
        (1, 400 + 1008 + 600, 400 + 40, 200, 2008 + 440),
        (2, 400 + 1008 + 600, 200 + 40, 200, 2008 + 400),
        (3, 400 + 500 + 8 + 600 + 40, 0, 200, 1548 + 200),
    ],
)
def test_memory_is_the_sum_by_hand(stage: int, between: int, gradient: int, optimizer: int, peak: int) -> None:
    """Two processes, a bucket of 10 values; 400 bytes of trained weights, their copy and two states split in two."""
    share = Share(stage, 2, bucket_values=10)
    assert share.between_steps(CONTENT) == between
    assert share.after_backward(CONTENT) == between + gradient
    assert share.in_optimizer(CONTENT) == between + optimizer
    assert share.peak(CONTENT) == peak


def test_averages_are_split_like_the_other_states() -> None:
    without, averaged = (Share(2, 4, averages).between_steps(CONTENT) for averages in (False, True))
    assert averaged - without == 100


def test_offloading_moves_everything_but_the_bucket_and_the_buffers() -> None:
    share = Share(3, 2, bucket_values=10)
    assert share.offloaded(CONTENT) == (48, share.peak(CONTENT) - 48)


def test_frozen_matrices_count_two_bytes_and_other_frozen_values_four() -> None:
    params = random_models.preset_params("z-image")
    model = random_models.empty_model(random_models.narrow(read_known("z-image"), 256), params)
    content = content_of(model, params)
    total = sum(parameter.numel() for parameter in model.parameters())
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    vectors = sum(parameter.numel() for parameter in frozen if parameter.dtype == torch.float32)
    assert content.frozen_bytes == 2 * (total - content.trained) + 2 * vectors
    assert 0 < vectors < 0.01 * total


def test_the_table_has_a_row_for_each_n_and_the_preset_in_bold() -> None:
    lines = list(memory.table("z-image"))
    assert [line.split("|")[1].strip() for line in lines[3:]] == ["1", "2", "3", "**5**"]
    assert {line.count("|") for line in lines[1:]} == {lines[1].count("|")}


def test_computed_memory_is_what_is_measured() -> None:
    known, params = memory_check.small_family(256), random_models.preset_params("z-image")
    zero = memory_check.SETTINGS["ZeRO 2"]
    alive = memory_check.launch(1, (known, params, 4, zero))
    content = content_of(random_models.empty_model(known, params, blocks=4), params)
    share = Share(2, 1, averages=True, bucket_values=memory_check.BUCKET_VALUES)
    assert alive.between_steps == pytest.approx(share.between_steps(content), rel=0.02)
    assert alive.after_backward == pytest.approx(share.after_backward(content), rel=0.05)
    assert alive.in_optimizer == pytest.approx(share.in_optimizer(content), rel=0.02)


@pytest.mark.parametrize("module", ["training", "memory"])
def test_a_bench_of_training_begins_with_the_command_that_runs_it(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"python -m bench.{module}" in done.stdout


@pytest.mark.slow
def test_the_bench_runs_on_the_embedded_source() -> None:
    command = [sys.executable, "-m", "bench.training", "--seconds", "0.1", "--loops", "naive", "uncompiled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith(("naive", "l2p"))]
    assert len(rows) == 2
    assert all(row.rstrip().endswith("%") for row in rows)
