"""The bench of large corpora: every step runs, and the corpus it makes is one that validation accepts."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pandas as pd
import pytest

from bench import corpus
from l2p.config import Layout


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the bench reads /proc")
def test_every_step_is_measured(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        steps = corpus.measure(20, 32)
        assert len(pd.read_parquet(Layout.manifest)) == 20
    assert [step.name for step in steps] == [*corpus._STEPS, *corpus._DVC_STEPS]
    assert all(step.peak_bytes > 2**20 for step in steps)
