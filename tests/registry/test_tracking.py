import json
from pathlib import Path

import numpy as np
import pytest

from l2p.errors import RegistryError
from l2p.registry import tracking
from l2p.registry.entries import flatten
from l2p.registry.store import Store, absolute_uri
from l2p.registry.tracking import TrainingRun

RUN_FILE = Path("models/checkpoints/mlflow.json")


@pytest.fixture(autouse=True)
def every_metric_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FLUSH_EVERY_S", 0.0)


def open_run(store: Store) -> TrainingRun:
    return TrainingRun.open(tracking_uri=store.tracking_uri, experiment="tests", run_file=RUN_FILE, name="train")


def losses(store: Store, run_id: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in store.client.get_metric_history(run_id, "loss")]


def test_metrics_are_there_while_the_run_goes_on(store: Store) -> None:
    run = open_run(store)
    for step in (1, 2):
        run.log_metrics({"loss": 1 / step, "grad_norm": 0.1}, step=step)
    assert losses(store, run.run_id) == [(1, 1.0), (2, 0.5)]
    assert store.client.get_run(run.run_id).info.status == "RUNNING"


def test_metrics_that_wait_are_sent_at_the_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "FLUSH_EVERY_S", 3600.0)
    with open_run(store) as run:
        for step in range(1500):  # more than MLflow takes in one call
            run.log_metrics({"loss": 1.0}, step=step)
        assert losses(store, run.run_id) == []
    assert len(losses(store, run.run_id)) == 1500
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_an_interrupted_run_is_taken_up_again(store: Store) -> None:
    run = open_run(store)
    run.log_metrics({"loss": 1.0}, step=1)
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert store.client.get_run(run.run_id).info.status == "FAILED"
    with open_run(store) as again:
        assert again.resumed
        assert again.run_id == run.run_id
        assert store.client.get_run(run.run_id).info.status == "RUNNING"
        again.log_metrics({"loss": 0.5}, step=2)
    assert losses(store, run.run_id) == [(1, 1.0), (2, 0.5)]


def test_ctrl_c_ends_the_run_as_killed(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(store) as run:
        raise KeyboardInterrupt
    assert store.client.get_run(run.run_id).info.status == "KILLED"


def test_an_interrupted_run_is_found_again_by_a_relative_address(store: Store) -> None:
    address = "sqlite:///mlflow.db"
    first, second = (
        TrainingRun.open(tracking_uri=address, experiment="tests", run_file=RUN_FILE, name="train") for _ in range(2)
    )
    assert second.resumed
    assert second.run_id == first.run_id


@pytest.mark.parametrize("known", [{"run_id": "0" * 32}, {"tracking_uri": "sqlite:////elsewhere/mlflow.db"}])
def test_a_run_file_of_another_store_starts_a_new_run(store: Store, known: dict[str, str]) -> None:
    first = open_run(store)
    RUN_FILE.write_text(json.dumps(json.loads(RUN_FILE.read_text()) | known))
    second = open_run(store)
    assert not second.resumed
    assert second.run_id != first.run_id


def test_parameters_that_change_on_resume_become_tags(store: Store) -> None:
    open_run(store).log_params({"train": {"num_steps": 10, "seed": 0}})
    again = open_run(store)
    again.log_params({"train": {"num_steps": 20, "seed": 0}})
    data = store.client.get_run(again.run_id).data
    assert data.params == {"train.num_steps": "10", "train.seed": "0"}
    assert data.tags["changed.train.num_steps"] == "10 -> 20"


def test_a_long_parameter_is_shortened_the_same_way_twice(store: Store) -> None:
    for _ in range(2):
        run = open_run(store)
        run.log_params({"text": "x" * 10_000})
    assert not any(tag.startswith("changed.") for tag in store.client.get_run(run.run_id).data.tags)


def test_a_store_that_is_away_does_not_stop_the_training(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    run = open_run(store)
    store.client.delete_run(run.run_id)  # now it takes nothing
    run.log_metrics({"loss": 1.0}, step=1)
    run.log_metrics({"loss": 0.5}, step=2)
    assert caplog.text.count("Training goes on") == 1
    with pytest.raises(RegistryError, match="logging metrics"):
        run.finish()
    store.client.restore_run(run.run_id)
    run.finish()
    assert losses(store, run.run_id) == [(1, 1.0), (2, 0.5)]
    assert store.client.get_run(run.run_id).info.status == "FINISHED"


def test_sample_grids_are_kept_with_their_step(store: Store) -> None:
    with open_run(store) as run:
        run.log_image(np.zeros((8, 8, 3), dtype=np.uint8), key="samples", step=200)
    names = [item.path for item in store.client.list_artifacts(run.run_id, "images")]
    assert any("samples" in name and "200" in name for name in names)


def test_the_machine_is_watched_until_the_run_ends(store: Store) -> None:
    with open_run(store) as run:
        run.watch_system()
        assert run._monitor is not None
    assert run._monitor is None


def test_nested_parameters_get_dotted_names() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_a_relative_database_means_the_directory_it_was_opened_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri(f"sqlite:///{tmp_path}/x.db") == f"sqlite:///{tmp_path}/x.db"
    assert absolute_uri("http://tracker:5000") == "http://tracker:5000"
    assert absolute_uri("sqlite:///:memory:") == "sqlite:///:memory:"


def test_a_damaged_database_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database" * 100)
    with pytest.raises(RegistryError, match=r"opening sqlite.*not a database"):
        Store(f"sqlite:///{tmp_path}/mlflow.db", "tests")


def test_a_server_that_is_not_there_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(RegistryError, match=r"opening http://127\.0\.0\.1:9 failed"):
        Store("http://127.0.0.1:9", "tests")
