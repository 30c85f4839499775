"""Efficiency of source and pixel model, measured in their own processes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from l2p.errors import EvaluationError
from l2p.evaluation.efficiency import measure_efficiency
from l2p.evaluation.measuring import MemoryMeter, StepClock
from l2p.models.source import pin_source

MIB = 1 << 20


@pytest.fixture
def pin_file(tiny_source: Path, tmp_path: Path) -> Path:
    path = tmp_path / "source.json"
    pin_source(str(tiny_source)).save(path)
    return path


def test_both_models_are_measured_at_every_size(pin_file: Path, tiny_delta: Path) -> None:
    measured = measure_efficiency(
        pin_file, tiny_delta, resolutions_px=(64, 32), num_steps=2, repeats=1, dtype="float32"
    )
    rows = {(row["resolution_px"], row["model"]): row for row in measured["rows"]}
    assert set(rows) == {(size, model) for size in (32, 64) for model in ("source", "pixel")}
    assert all(row["denoise_step_ms"] > 0 and row["weights_mb"] > 0 for row in rows.values())
    assert all(rows[size, "source"]["decode_ms"] > 0 and rows[size, "pixel"]["decode_ms"] is None for size in (32, 64))
    assert rows[64, "source"]["peak_memory_mb"] >= 0


def test_a_failing_process_is_told_with_the_model_it_measured(pin_file: Path, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"efficiency of the pixel model: MissingFileError.*delta\.json"):
        measure_efficiency(
            pin_file, tmp_path / "nothing", resolutions_px=(64,), num_steps=2, repeats=1, dtype="float32"
        )


class _Scheduler:
    def set_timesteps(self) -> None: ...

    def step(self) -> None: ...


class _Pipeline:
    device = "cpu"
    scheduler = _Scheduler()


def test_the_clock_separates_steps_from_decoding() -> None:
    pipeline = _Pipeline()
    with StepClock(pipeline) as clock:
        pipeline.scheduler.set_timesteps()
        for _ in range(2):
            time.sleep(0.01)
            pipeline.scheduler.step()
        time.sleep(0.05)
    assert len(clock.step_s) == 2
    assert all(step > 0.009 for step in clock.step_s)
    assert clock.decode_s > 0.049
    assert "step" not in vars(pipeline.scheduler), "the clock left its hook behind"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks can be reset on Linux only")
def test_a_peak_is_counted_from_the_start_of_its_drawing() -> None:
    meter = MemoryMeter("cpu")
    peaks = []
    for size in (64, 1):
        meter.start()
        torch.ones(size * MIB, dtype=torch.uint8)
        peaks.append(meter.peak_bytes() or 0)
    assert 60 * MIB < peaks[0] < 90 * MIB
    assert peaks[1] < 8 * MIB
