"""The benches: they start, measure what they say, and count what a formula gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import efficiency, judging, loading, sizes
from l2p.models.adapters import get_adapter
from l2p.models.families import NAMES, KnownSource, read_known

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed` is deprecated:FutureWarning")  # diffusers' own use


@pytest.fixture(scope="module")
def tiny(tiny_source: Path) -> KnownSource:
    return efficiency.read_folder(str(tiny_source))


def setting(known: KnownSource) -> efficiency.Setting:
    return efficiency.Setting(known, "cpu", native_px=32, num_steps=2, repeats=1, innermost_width=16)


def test_attention_is_counted() -> None:
    query = torch.empty(1, 2, 64, 16, device="meta")
    run = lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query)  # noqa: E731
    assert sizes.operations(run, read_known("z-image")) == 2 * 2 * 2 * 64 * 64 * 16


def test_the_count_of_a_step_is_that_of_the_formula() -> None:
    """Per token two operations a weight of the blocks, and attention 4 N^2 D a block."""
    known = read_known("z-image")
    count = sizes.count_step(known, 4096)
    tokens, caption, dim, blocks = 256**2, 128, 3840, 30
    per_block = 4 * dim**2 + 3 * dim * 10240  # its matrices that see every token
    linear = 2 * per_block * ((blocks + 2) * tokens + (blocks + 2) * caption)
    attention = 4 * dim * (blocks * (tokens + caption) ** 2 + 2 * tokens**2 + 2 * caption**2)
    assert count.source == pytest.approx(linear + attention, rel=0.001)


def test_at_4k_a_step_of_the_pixel_model_takes_less_than_a_fortieth_of_the_sources() -> None:
    count = sizes.count_step(read_known("z-image"), 4096)
    assert count.source is not None
    assert count.source / count.official > 40
    assert count.source / count.unet > 40


def test_at_1k_the_head_costs_under_three_per_cent() -> None:
    count = sizes.count_step(read_known("z-image"), 1024)
    assert count.source is not None
    assert max(count.official, count.unet) < 1.03 * count.source


@pytest.mark.parametrize("name", NAMES)
def test_every_published_source_can_be_counted_at_its_native_size(name: str) -> None:
    count = sizes.count_step(read_known(name), 1024)
    assert count.source
    assert count.decode
    assert count.official == pytest.approx(count.source, rel=0.15)  # the same tokens through the same blocks


def test_a_size_without_positions_has_no_count() -> None:
    assert not sizes.has_positions(read_known("sd35-large"), 4096)
    assert sizes.has_positions(read_known("sd35-medium"), 4096)


def test_large_patches_get_a_bottleneck() -> None:
    rows = {
        patch: (rank, linear, embedder)
        for patch, rank, linear, embedder, _, _ in sizes.count_patches(read_known("z-image"))
    }
    assert rows[64][0] is None
    assert rows[128][0] == 512
    assert rows[128][2] < rows[128][1] / 6


def test_both_models_are_timed_with_their_memory(tiny: KnownSource) -> None:
    rows = list(efficiency.measure_all(setting(tiny), (32, 64)))
    assert [(row.resolution_px, row.model) for row in rows] == [
        (32, "source"),
        (32, "pixel"),
        (64, "source"),
        (64, "pixel"),
    ]
    assert all(row.step_s and row.peak_bytes and not row.note for row in rows)
    assert [row.decode_s is None for row in rows] == [False, True, False, True]


def test_weights_are_made_in_bfloat16_on_the_device(tiny: KnownSource) -> None:
    model = sizes.empty_source(tiny)
    nbytes = efficiency.fill(model, "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert nbytes == 2 * sum(p.numel() for p in model.parameters())
    assert all(p.abs().sum() > 0 for p in model.parameters())


def test_what_does_not_fit_is_a_row_that_says_so() -> None:
    def full() -> efficiency.Row:
        raise torch.OutOfMemoryError

    assert efficiency.attempt(4096, "source", full).note == "out of memory"


def test_a_source_without_positions_for_a_size_is_a_row_that_says_so(tiny: KnownSource) -> None:
    small = replace(tiny, transformer=tiny.transformer | {"axes_lens": [600, 2, 2]})
    assert efficiency.measure_source(setting(small), 64).note == "no positions for this size"


def test_targets_are_judged_where_their_sizes_were_measured() -> None:
    rows = [
        efficiency.Row(1024, "source", 0.10, 0.1, 10**9),
        efficiency.Row(1024, "pixel", 0.11, None, 10**9),
        efficiency.Row(4096, "source", 50.0, 1.0, 10**10),
        efficiency.Row(4096, "pixel", 1.0, None, 30 * 10**9),
    ]
    assert list(efficiency.targets(rows)) == [
        "4K step, seconds: 1.00, at most 1.2: met",
        "4K peak, GB: 30.00, at most 26.8: missed",
        "4K source / pixel: 50.00, at least 40: met",
        "1K pixel / source: 1.10, at most 1.05: missed",
    ]
    assert list(efficiency.targets(rows[:1])) == []


def test_latents_of_the_source_have_the_grid_of_its_tokens() -> None:
    for name, shape in (
        ("z-image", (1, 16, 128, 128)),
        ("sana", (1, 32, 32, 32)),
        ("qwen-image", (1, 16, 1, 128, 128)),
    ):
        assert sizes.latents_for(read_known(name), 1024, torch.empty(0, device="meta")).shape == shape, name
        assert get_adapter(read_known(name).transformer_class).native_patch_px == (32 if name == "sana" else 16)


def test_loading_needs_little_more_than_the_weights_and_the_naive_way_twice_as_much(tmp_path: Path) -> None:
    """In processes of their own; small, so against the naive way and not against the weights."""
    loading.write_sources(tmp_path, dim=512, layers=4)
    ours, naive = (
        loading.measure_apart(loading.Case(way, "float32", "float32"), tmp_path) for way in ("graft", "naive")
    )
    assert ours.weights == naive.weights
    assert ours.peak < naive.peak - 0.5 * ours.weights


@pytest.mark.parametrize("module", ["sizes", "efficiency", "loading", "heads", "picture"])
def test_a_bench_begins_with_the_command_that_runs_it(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"python -m bench.{module}" in done.stdout


def test_batches_of_the_shapes_judges_come_to_the_answers_of_one_by_one(tmp_path: Path) -> None:
    for case in judging.cases("shapes", tmp_path, 6):
        rate = judging.measure(case, repeats=1)  # asserts that both ways agree
        assert rate.ratio > 0
        assert case.images == 6
