"""How long a device was busy with a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from l2p.config import Layout, Params
from l2p.files import read_json, write_json
from l2p.registry import usage
from l2p.registry.usage import device_hours, record_use


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block takes an hour."""
    clock = iter(range(0, 36000, 3600))
    monkeypatch.setattr(usage.time, "monotonic", lambda: float(next(clock)))


def test_an_interrupted_synthesis_and_its_resumption_count_together(hours: None, params: Params) -> None:
    with pytest.raises(KeyboardInterrupt), record_use("synthesize", params):
        raise KeyboardInterrupt
    with record_use("synthesize", params):
        pass
    with record_use("geneval", params, model="pixel"):
        pass
    assert device_hours(params) == {"synthesize": 2.0, "geneval-pixel": 1.0, "total": 3.0}


def test_the_time_of_another_corpus_and_of_other_weights_does_not_count(
    hours: None, params: Params, change_params: Callable[..., Params]
) -> None:
    with record_use("synthesize", params):
        pass
    with record_use("geneval", params, model="pixel"):
        pass
    card = read_json(Layout.pixel / "delta.json", written_by="")
    write_json(Layout.pixel / "delta.json", card | {"weights_sha256": "0" * 64})
    assert device_hours(params) == {"synthesize": 1.0, "total": 1.0}
    assert device_hours(change_params("synthesize", seed=7)) == {"total": 0}


def test_training_counts_every_process_and_by_its_own_clock(params: Params) -> None:
    write_json(Layout.training / "result.json", {"seconds": 3600, "num_processes": 8})
    assert device_hours(params) == {"train": 8.0, "total": 8.0}


def test_stages_without_a_device_leave_no_line_and_a_torn_line_is_left_out(hours: None, params: Params) -> None:
    with record_use("report", params):
        pass
    assert not Layout.usage.exists()
    with record_use("synthesize", params):
        pass
    with Layout.usage.open("a") as stream:
        stream.write('{"stage": "synth')
    assert device_hours(params)["synthesize"] == 1.0


def test_nothing_recorded_is_nothing(project: Path, params: Params) -> None:
    assert device_hours(params) == {"total": 0}
