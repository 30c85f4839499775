"""Batches through workers: in this process, and on local workers of Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from l2p.config import EvaluationParams
from l2p.errors import EvaluationError
from l2p.evaluation.engine import run_batches, split
from tests.test_evaluate_command import SHAPES, SMALL, rows, run

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:ray.*")

RAY = EvaluationParams(judge_batch_size=4, engine="ray", num_workers=2)
LOCAL = RAY.model_copy(update={"engine": "local"})


def make_doubler():
    made_by = os.getpid()
    return lambda batch: [[2 * item, made_by] for item in batch]


def make_dier():
    """Ends its process at the first batch that any worker sees, as a machine that is lost does."""

    def work(batch: Sequence[str]) -> list[str]:
        for marker in batch:
            if not Path(marker).exists():
                Path(marker).touch()
                os._exit(1)
        return list(batch)

    return work


def make_failer():
    raise RuntimeError("no weights here")


def test_batches_are_consecutive_and_whole():
    assert split([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert split([], 2) == []


def test_without_work_no_worker_is_made():
    assert list(run_batches(make_failer, [], LOCAL)) == []


def test_one_worker_of_this_process_does_all_batches():
    found = {tuple(batch): results for batch, results in run_batches(make_doubler, [[1, 2], [3]], LOCAL)}
    assert found == {(1, 2): [[2, os.getpid()], [4, os.getpid()]], (3,): [[6, os.getpid()]]}


@pytest.fixture(scope="module")
def ray_of_two():
    """A local Ray of two workers; the project's test folder is importable there."""
    ray = pytest.importorskip("ray", reason="Ray is an extra: pip install 'l2p[ray]'")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else a busy machine lets them starve
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    environment = {"env_vars": {"PYTHONPATH": f"{here}:{root}:{root / 'src'}"}}
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False, runtime_env=environment)
    yield
    ray.shutdown()


def test_workers_of_ray_share_the_batches(ray_of_two):
    batches = split(list(range(40)), 2)
    results = [pair for _, found in run_batches(make_doubler, batches, RAY) for pair in found]
    assert sorted(value for value, _ in results) == [2 * item for item in range(40)]
    assert os.getpid() not in {process for _, process in results}


def test_a_worker_of_ray_that_dies_is_replaced(ray_of_two, tmp_path: Path):
    batches = [[str(tmp_path / "died")], *([str(tmp_path)] for _ in range(5))]
    assert len(list(run_batches(make_dier, batches, RAY))) == 6


def test_a_worker_of_ray_that_cannot_be_made_is_told(ray_of_two):
    with pytest.raises(EvaluationError, match=r"a Ray worker failed.*no weights here"):
        list(run_batches(make_failer, [[1]], RAY))


@pytest.fixture
def one_thread():
    """As Ray's workers have: sums of several threads round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_an_evaluation_on_ray_equals_a_local_one_bit_for_bit(
    ray_of_two, one_thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_delta: Path
):
    monkeypatch.chdir(tmp_path)
    for benchmark, results in (("geneval", "results.jsonl"), ("dpg", "answers.jsonl")):
        asked = [benchmark, "--model", str(tiny_delta), *SHAPES, *SMALL, "--subset", "0.2", "--batch-size", "4"]
        run(*asked, "--out", "local")
        run(*asked, "--out", "ray", "--engine", "ray", "--workers", "2")
        assert rows("ray", results) == rows("local", results)
        for path in Path("local/images").rglob("*.png"):
            assert path.read_bytes() == (Path("ray") / path.relative_to("local")).read_bytes()
