"""The bench of the synthesis: its ways draw the same images, and its figures are what they say."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench import synthesis as bench
from l2p.data.journal import read_journal
from l2p.models.source import pin_source
from tests.data.synthesis_project import settings


def test_the_stage_is_compared_with_both_bare_loops(tiny_source: Path, tmp_path: Path):
    task = bench.prepare(pin_source(str(tiny_source)), settings(num_steps=1, images_per_prompt=1), tmp_path, 2)
    assert task.images == 6
    rates = {rate.name: rate for rate in bench.compare_with_bare(task, repeats=2)}
    assert set(rates) == {bench.BARE, bench.STAGE, bench.TEXT}
    assert rates[bench.BARE].ratio == 1
    assert all(rate.images_per_s > 0 and rate.cpu_s_per_image for rate in rates.values())
    assert len(read_journal(tmp_path / "corpus")) == 6


def test_every_turn_begins_with_another_way():
    ways = {name: lambda: None for name in "abc"}
    order = ["".join(name for name, _ in bench._in_turn(ways, turn)) for turn in range(4)]
    assert order == ["abc", "bca", "cab", "abc"]


def test_rates_and_ratios_follow_from_the_times(monkeypatch: pytest.MonkeyPatch, tiny_source: Path):
    clock = itertools.chain([0, 2, 2, 3], itertools.repeat(3))
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))
    task = bench.Task(None, settings(), Path(), [])
    monkeypatch.setattr(bench.Task, "images", 10)
    slow, fast = bench._rates({"slow": int, "fast": int}, task, 1, compared_with="slow", in_here=False)
    assert (slow.images_per_s, fast.images_per_s, fast.ratio) == (5, 10, 2)
