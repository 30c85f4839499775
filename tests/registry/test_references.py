"""Weights that are registered by reference and digest: found where they are, refused where they are others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import l2p
from l2p.config import Layout, Params
from l2p.errors import RegistryError
from l2p.files import read_json, sha256_file
from l2p.registry.references import Reference, complete, find_weights
from l2p.registry.store import Store
from l2p.registry.versions import ModelRegistry, ModelVersion
from l2p.stages import register
from tests.registry.conftest import flip_byte

NAME = "shapes-pixel"
STORE = "sqlite:///mlflow.db"
WEIGHTS = Layout.pixel / "delta.safetensors"


def dvc(*arguments: str, folder: Path = Path()) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def by_reference(project: Path, change_params: Callable[..., Params]) -> ModelVersion:
    register.run(change_params("register", max_artifact_mb=0.001))
    return ModelRegistry(STORE).resolve(f"{NAME}@champion")


def test_large_weights_stay_where_they_are_and_load(
    by_reference: ModelVersion, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(Path("mlruns").rglob("delta.safetensors")) == []
    (path,) = Path("mlruns").rglob("weights.json")
    reference = Reference.load(path.parent)
    assert reference.path == "models/pixel/delta.safetensors"
    assert reference.sha256 == sha256_file(WEIGHTS) == by_reference.tags["l2p.weights_sha256"]
    assert "registered by reference" in Store(STORE, "l2p").client.get_model_version(NAME, "1").description
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    assert len(served.predict(pd.DataFrame({"prompt": ["a red circle"]}))) == 1
    assert l2p.L2PPipeline.from_registry(f"{NAME}@champion", tracking_uri=f"sqlite:///{project}/mlflow.db")


def test_verification_reaches_weights_by_reference(by_reference: ModelVersion, params: Params) -> None:
    found = {link.name: link for link in register.verify(params, f"{NAME}@champion")}
    assert {link.state for link in found.values()} == {"holds"}
    assert "by reference to" in found["registered weights"].told


def test_other_weights_in_their_place_are_refused_by_name(by_reference: ModelVersion, params: Params) -> None:
    digest = sha256_file(WEIGHTS)
    flip_byte(WEIGHTS)
    with pytest.raises(RegistryError, match=rf"{digest[:12]}.*registered by reference.*other weights \("):
        l2p.L2PPipeline.from_registry(f"{NAME}@champion")
    found = {link.name: link for link in register.verify(params, f"{NAME}@champion")}
    assert found["registered weights"].state == "unreachable"
    assert found["pixel"].state == "broken"


def test_weights_that_are_nowhere_are_told_with_every_place(
    by_reference: ModelVersion, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{project}/mlflow.db"
    WEIGHTS.unlink()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(RegistryError, match=r"elsewhere/models.*: not there.*project/models.*L2P_WORKSPACE"):
        l2p.L2PPipeline.from_registry(f"{NAME}@champion", tracking_uri=store)


def test_weights_come_from_the_cache_and_from_the_remote_of_dvc(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256_file(WEIGHTS)
    reference = Reference.of(WEIGHTS)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    dvc("init", "--no-scm", "-q")
    dvc("add", "-q", str(Layout.pixel))
    dvc("remote", "add", "-q", "-d", "shared", str(tmp_path / "remote"))
    dvc("push", "-q")
    WEIGHTS.unlink()
    assert sha256_file(find_weights(reference)) == digest  # of the cache
    clone = tmp_path / "clone"
    shutil.copytree(project / ".dvc", clone / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
    shutil.rmtree(project / ".dvc" / "cache")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("L2P_WORKSPACE", str(clone))
    found = find_weights(reference)
    assert sha256_file(found) == digest
    assert found.is_relative_to(clone)
    shutil.rmtree(clone / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    shutil.rmtree(project / ".dvc")
    with pytest.raises(RegistryError, match=r"DVC remote 'shared' of .*clone.*: not there"):
        find_weights(reference)


def test_a_delta_with_its_weights_is_left_as_it_is(project: Path) -> None:
    assert complete(Layout.pixel) == Layout.pixel
    assert read_json(Layout.pixel / "delta.json", written_by="")["weights_sha256"] == sha256_file(WEIGHTS)
