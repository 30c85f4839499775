"""Whole trainings of a tiny model: what they write, how they resume, and what stops them."""

from __future__ import annotations

import csv
import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from l2p.config import Layout, Params, load_params
from l2p.errors import ConfigError, DataError, MissingFileError, ModelError, TrainingError
from l2p.files import read_json, write_json
from l2p.models.delta import load_pixel_model, read_delta_card
from l2p.models.embeddings import TENSORS
from l2p.models.graft import kept_tensors
from l2p.models.source import SourcePin
from l2p.registry.store import Store
from l2p.stages import train as stage
from l2p.training.checkpoints import Checkpoints
from l2p.training.export import check_frozen, check_stored
from l2p.training.order import hold_out
from l2p.training.record import COLUMNS
from l2p.training.samples import Corpus
from l2p.training.state import Progress
from l2p.training.worker import load_subject
from tests.conftest import ROOT
from tests.training.conftest import with_train

TIMING = {"images_per_s", "memory_mb"}


def trained_weights() -> dict[str, torch.Tensor]:
    """The stored delta."""
    return load_file(Layout.pixel / "delta.safetensors")


def curves(*, timing: bool = False) -> list[dict[str, str]]:
    """Rows of curves.csv."""
    with (Layout.training / "curves.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    return rows if timing else [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def command_line(*arguments: str, threads: int | None = None) -> subprocess.Popen[str]:
    """`l2p ...` as a process of its own, with this process's number of threads."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": str(threads or torch.get_num_threads()),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "l2p.cli", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def assert_same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal names, equal bits."""
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_training_lowers_the_loss_and_writes_everything_it_promises(project: Path) -> None:
    params = with_train(
        num_steps=40,
        batch_size=8,
        log_every=5,
        sample_every=25,
        validate_every=10,
        checkpoint_every=20,
        ema_decay=0.9,
    )
    stage.run(params)

    rows = curves(timing=True)
    assert tuple(rows[0]) == COLUMNS
    assert [int(row["step"]) for row in rows] == list(range(5, 41, 5))
    losses = [float(row["loss"]) for row in rows]
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    assert all(float(row["grad_norm"]) > 0 for row in rows)
    held_out = [float(row["val_loss"]) for row in rows if row["val_loss"]]
    assert len(held_out) == 4
    assert held_out[-1] < held_out[0]

    names = sorted(path.name for path in (Layout.training / "samples").iterdir())
    assert names == ["step-000025.png", "step-000040.png"]
    grid = np.asarray(Image.open(Layout.training / "samples" / names[0]))
    corpus = Corpus(Layout.manifest, Layout.corpus)
    _, held_out_rows = hold_out(corpus.prompt_ids, params.train.validation_images, seed=params.train.seed)
    assert np.array_equal(grid[4:68, 4:68], corpus.image(held_out_rows[0]).permute(1, 2, 0).numpy())

    result = read_json(Layout.training / "result.json", written_by="the test")
    model = load_pixel_model(Layout.pixel)
    assert result["steps"] == 40
    assert result["num_processes"] == 1
    assert result["total_parameters"] == sum(p.numel() for p in model.parameters())
    assert 0 < result["trainable_parameters"] < result["total_parameters"]
    assert result["final_loss"] == pytest.approx(losses[-1], rel=1e-4)

    card = read_delta_card(Layout.pixel)
    names_trained = model.set_trainable(params.train.trainable)
    assert set(card["tensors"]) == set(names_trained) | set(model.new_tensors())
    assert card["sampler"] == params.sampling.pixel.model_dump()
    kept = kept_tensors(model, SourcePin.load(Layout.source))
    assert all(
        torch.equal(model.state_dict()[name], stored.read())
        for name, stored in kept.items()
        if name not in names_trained
    )

    assert sorted(path.name for path in Layout.checkpoints.glob("step-*")) == ["step-000020", "step-000040"]
    check_mlflow_run(params)


def check_mlflow_run(params: Params) -> None:
    """One finished run with curves, parameters and grids."""
    store = Store(params.register_.tracking_uri, params.register_.experiment)
    run_id = read_json(Layout.checkpoints / "mlflow.json", written_by="the test")["run_id"]
    run = store.client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_steps"] == "40"
    history = store.client.get_metric_history(run_id, "loss")
    assert [point.step for point in history] == list(range(5, 41, 5))
    assert store.client.list_artifacts(run_id, "images")


def test_a_killed_training_resumes_to_the_same_bits(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    params = with_train(num_steps=24, checkpoint_every=3, sample_every=24)
    stage.run(params)
    expected, expected_curves = trained_weights(), curves()
    for folder in (Layout.pixel, Layout.checkpoints, Layout.training):
        folder.rename(tmp_path_factory.mktemp("uninterrupted") / folder.name)

    kill_at = random.randint(4, 18)  # any step must do
    process = command_line("train")
    while not (Layout.training / "curves.csv").is_file() or len(curves()) < kill_at:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Layout.pixel.exists()
    assert list(Layout.checkpoints.glob("step-*"))

    stage.run(params)
    assert_same_bits(trained_weights(), expected)
    assert curves() == expected_curves, f"killed at step {kill_at}"


def test_grids_of_a_training_that_was_discarded_do_not_stay(project: Path) -> None:
    stray = Layout.training / "samples" / "step-000099.png"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"of another training")
    stage.run(load_params())
    assert not stray.exists()
    assert list(stray.parent.glob("step-*.png"))


def test_a_damaged_checkpoint_is_told_of_and_the_one_before_is_used(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = load_params()
    stage.run(params)
    expected = trained_weights()
    newest = max(Layout.checkpoints.glob("step-*"))
    shard = next(newest.glob("rank*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1000])

    with caplog.at_level(logging.WARNING):
        stage.run(params)
    assert f"{newest}: damaged checkpoint ({shard.name} has other bytes" in caplog.text
    assert_same_bits(trained_weights(), expected)
    assert [int(row["step"]) for row in curves()] == list(range(1, 7))

    for folder in Layout.checkpoints.glob("step-*"):
        (folder / "rank000-000.safetensors").unlink()
    with pytest.raises(
        TrainingError, match=r"models/checkpoints: every checkpoint is damaged .*rank000-000.safetensors is missing"
    ):
        stage.run(params)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("learning_rate", "train.learning_rate was 0.001 and is 0.002"),
        ("manifest", "files.data/manifest.parquet was"),
        ("init", "files.models/init/delta.safetensors was"),
    ],
)
def test_checkpoints_of_other_parameters_or_data_are_discarded(
    project: Path, caplog: pytest.LogCaptureFixture, change: str, told: str
) -> None:
    stage.run(with_train(learning_rate=0.001))
    before = trained_weights()
    run_before = (Layout.checkpoints / "mlflow.json").read_text()
    if change == "learning_rate":
        with_train(learning_rate=0.002)
    elif change == "manifest":
        pd.read_parquet(Layout.manifest).iloc[:-1].to_parquet(Layout.manifest)
    else:
        replace_init(seed=1)

    with caplog.at_level(logging.WARNING):
        stage.run(load_params())
    assert f"checkpoints discarded, because {told}" in caplog.text
    assert len(curves()) == 6
    after = trained_weights()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (Layout.checkpoints / "mlflow.json").read_text() != run_before


def replace_init(seed: int) -> None:
    """Another draw of the new weights."""
    from l2p.models.delta import save_delta
    from l2p.models.graft import graft

    pin = SourcePin.load(Layout.source)
    model = graft(pin, seed=seed, patch_size=16, head_widths=(4, 8, 8, 16), prediction="x0", snr_scale=1.0)
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler={})


def test_how_often_it_logs_and_draws_does_not_discard_checkpoints(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage.run(load_params())
    with caplog.at_level(logging.WARNING):
        stage.run(with_train(log_every=3, sample_every=1, checkpoint_every=5))
    assert "discarded" not in caplog.text


def test_a_finished_training_is_not_trained_again(project: Path) -> None:
    params = load_params()
    stage.run(params)
    expected, rows = trained_weights(), curves(timing=True)
    (Layout.pixel / "delta.safetensors").unlink()
    stage.run(params)
    assert_same_bits(trained_weights(), expected)
    assert curves(timing=True) == rows


def test_a_loss_that_is_not_finite_stops_it_and_names_step_and_prompts(project: Path) -> None:
    prompt = pd.read_parquet(Layout.manifest).prompt_id[0]
    index = pd.read_parquet(Layout.embeddings / "index.parquet").set_index("prompt_id")
    tensors = load_file(Layout.embeddings / TENSORS)
    tensors["cap_feats"][index["start.cap_feats"][prompt]] = torch.nan
    save_file(tensors, Layout.embeddings / TENSORS)
    with pytest.raises(TrainingError, match=rf"step \d+: the loss is not finite for prompts '{prompt}'"):
        stage.run(with_train(caption_dropout=0.0))
    saved = json.loads((Layout.training / "not-finite-rank0.json").read_text())
    assert prompt in {sample["prompt_id"] for sample in saved["samples"]}
    assert not Layout.pixel.exists()


def test_a_corrupt_image_stops_it_and_is_named(project: Path) -> None:
    path = Layout.corpus / "00000" / "000007.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"000007\.png: changed since it was accepted"):
        stage.run(load_params())


@pytest.mark.parametrize(
    ("path", "stage_name"),
    [
        (Layout.manifest, "validate"),
        (Layout.embeddings / TENSORS, "embed"),
        (Layout.init / "delta.safetensors", "convert"),
        (Layout.source, "source"),
    ],
)
def test_a_missing_input_names_the_stage_that_writes_it(project: Path, path: Path, stage_name: str) -> None:
    path.unlink()
    with pytest.raises(MissingFileError, match=f"{path}: not found. `l2p {stage_name}`"):
        stage.run(load_params())


def test_a_graft_of_another_source_is_refused(project: Path) -> None:
    pin = json.loads(Layout.source.read_text())
    Layout.source.write_text(json.dumps(pin | {"digest": "0" * 64}))
    with pytest.raises(ModelError, match="grafted from another source"):
        stage.run(load_params())


def test_contradictory_deepspeed_keys_stop_it_before_it_starts(project: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.deepspeed\.gradient_clipping"):
        stage.run(with_train(deepspeed={"gradient_clipping": 3.0}))


def test_a_frozen_tensor_that_changed_is_never_exported(project: Path) -> None:
    subject = load_subject(load_params())
    held = {name: tensor for name, tensor in subject.model.state_dict().items() if name not in subject.names}
    check_frozen(subject.model, held.items(), subject.pin)
    frozen = next(p for p in subject.model.parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0] += 1
    with pytest.raises(TrainingError, match="frozen, but no longer the source's"):
        check_frozen(subject.model, held.items(), subject.pin)


def test_a_delta_that_lacks_a_tensor_is_noticed(project: Path) -> None:
    path = Layout.init / "delta.safetensors"
    expected = set(load_file(path))
    check_stored(path, expected)
    with pytest.raises(TrainingError, match="instead of"):
        check_stored(path, expected | {"head.missing"})


def test_leftovers_of_a_kill_are_removed(project: Path) -> None:
    leftover = Layout.checkpoints / "step-000099.partial"
    leftover.mkdir(parents=True)
    (leftover / "rank000-000.safetensors").write_bytes(b"half")
    stage.run(load_params())
    assert not leftover.exists()


def test_the_pixel_model_has_the_averaged_weights_of_the_last_checkpoint(project: Path) -> None:
    stage.run(with_train(ema_decay=0.9))
    stored, checkpoint = trained_weights(), load_file(Layout.checkpoints / "step-000006" / "rank000-000.safetensors")
    averages = {name.removeprefix("average/"): t for name, t in checkpoint.items() if name.startswith("average/")}
    assert_same_bits({name: stored[name] for name in averages}, averages)
    weights = {name.removeprefix("weight/"): t for name, t in checkpoint.items() if name.startswith("weight/")}
    assert any(not torch.equal(weights[name], averages[name]) for name in averages)


def test_the_disk_that_fills_during_a_save_leaves_the_older_checkpoint_and_the_next_run_goes_on(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params()
    stage.run(params)
    expected = trained_weights()
    shutil.rmtree(Layout.checkpoints / "step-000006")
    before = sorted(path.name for path in Layout.checkpoints.glob("step-*"))

    save = Checkpoints.save

    def save_with_little_space(checkpoints: Checkpoints, progress: Progress) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # bytes of a file; a checkpoint has more
        try:
            save(checkpoints, progress)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_with_little_space)
        with pytest.raises(TrainingError, match=r"step-000006\.partial/rank000-000\.safetensors: cannot be written"):
            stage.run(params)
    assert sorted(path.name for path in Layout.checkpoints.glob("step-*")) == before == ["step-000004"]

    stage.run(params)
    assert_same_bits(trained_weights(), expected)


@pytest.mark.parametrize("zero", [{"stage": 3}, {"stage": 2, "offload_optimizer": {"device": "cpu"}}])
def test_every_way_of_splitting_resumes_to_the_same_bits(project: Path, zero: dict[str, Any]) -> None:
    params = with_train(deepspeed={"zero_optimization": zero})
    stage.run(params)
    expected = trained_weights()
    shutil.rmtree(Layout.checkpoints / "step-000006")
    stage.run(params)
    assert_same_bits(trained_weights(), expected)


def test_a_training_goes_on_with_another_zero_stage(project: Path) -> None:
    stage.run(with_train(deepspeed={"zero_optimization": {"stage": 1}}))
    expected = trained_weights()
    shutil.rmtree(Layout.checkpoints / "step-000006")
    stage.run(with_train(deepspeed={"zero_optimization": {"stage": 3}}))
    found = trained_weights()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_best_weights_are_kept_when_the_last_are_worse(project: Path) -> None:
    # a rate far too high at the end of the warm-up: the held-out loss is best early
    params = with_train(
        num_steps=12, validate_every=2, learning_rate=0.1, warmup_steps=12, decay_share=0.0, keep="best_val_loss"
    )
    stage.run(params)
    losses = {int(row["step"]): float(row["val_loss"]) for row in curves() if row["val_loss"]}
    best = min(losses, key=lambda step: losses[step])
    assert best < 12
    kept = read_json(Layout.training / "result.json", written_by="the test")["weights"]
    assert kept == {"metric": "val_loss", "value": pytest.approx(losses[best], rel=1e-4), "step": best}
    averages = load_file(Layout.checkpoints / "best" / "rank000-000.safetensors")
    stored = trained_weights()
    assert_same_bits({f"average/{name}": stored[name] for name in subject_names(params)}, averages)


def subject_names(params: Params) -> list[str]:
    """Names of what is trained."""
    return load_subject(params).names


def test_a_small_geneval_is_measured_on_the_way(project: Path) -> None:
    stage.run(with_train(geneval_every=3, geneval_subset=0.1, keep="best_geneval"))
    scores = {int(row["step"]): float(row["geneval"]) for row in curves() if row["geneval"]}
    assert sorted(scores) == [3, 6]
    assert all(0 <= score <= 1 for score in scores.values())
    kept = read_json(Layout.training / "result.json", written_by="the test")["weights"]
    assert kept["metric"] == "geneval"


def test_embeddings_of_another_source_are_refused(project: Path) -> None:
    path = Layout.embeddings / "report.json"
    write_json(path, read_json(path, written_by="the test") | {"source_digest": "0" * 64})
    with pytest.raises(DataError, match=r"data/embeddings: made by another source .*l2p embed"):
        stage.run(load_params())


def test_images_of_a_size_that_the_model_cannot_draw_are_refused(project: Path) -> None:
    rows = pd.read_parquet(Layout.manifest)
    rows["width_px"] = 72
    rows.to_parquet(Layout.manifest)
    with pytest.raises(DataError, match=r"data/manifest\.parquet: image of 72x64 pixels: .*multiples of 16"):
        stage.run(load_params())


def test_a_corpus_smaller_than_a_batch_is_refused(project: Path) -> None:
    with pytest.raises(DataError, match=r"images of 64x64 pixels to train on, but a step takes train\.batch_size = 64"):
        stage.run(with_train(batch_size=64))
