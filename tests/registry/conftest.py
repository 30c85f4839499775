"""A finished little project, as the stages before `register` leave it, with real weights and real files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from l2p.config import Layout, Params, load_params
from l2p.files import sha256_file, sha256_json, write_json
from l2p.models.delta import read_delta_card
from l2p.models.embeddings import write_embeddings
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.source import SourcePin, pin_source
from l2p.registry.served import Drawing, log_model
from l2p.registry.store import Store
from l2p.registry.versions import DRAWING_TAG, ROOT_TAG, WEIGHTS_TAG
from tests.conftest import small_params

PROMPTS = ["a red circle", "two blue squares", "a green star on a white background"]
SCORES = {
    "geneval": {"source": 0.90, "pixel": 0.88, "retention": 0.978, "interval": [0.94, 1.01]},
    "dpg": {"source": 92.0, "pixel": 91.5, "retention": 0.995, "interval": [0.98, 1.01]},
}


@dataclass(frozen=True)
class Drawable:
    """A database, the address of the logged model in it, and tags for versions of it."""

    database: Path
    source: str
    tags: dict[str, str]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in it; making one takes seconds, so tests copy it."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Store("sqlite:///mlflow.db", "Default")
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def project_template(
    tiny_source: Path, tiny_delta: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("project") / "finished"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(empty_store, "mlflow.db")
        Path("params.yaml").write_text(yaml.safe_dump(small_params(tiny_source)), encoding="utf-8")
        Path("dvc.yaml").write_text("stages: {}\n", encoding="utf-8")
        for delta in (Layout.init, Layout.pixel):
            shutil.copytree(tiny_delta, delta)
        pin = pin_source(str(tiny_source))
        pin.save(Layout.source)
        _write_data(tiny_delta)
        _write_reports(pin)
    return folder


@pytest.fixture
def project(project_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory of a project where everything but `register` has run."""
    folder = tmp_path / "project"
    shutil.copytree(project_template, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def params(project: Path) -> Params:
    return load_params()


@pytest.fixture
def change_params(project: Path) -> Callable[..., Params]:
    """Change fields of one section of params.yaml and load it again."""

    def change(section: str, **fields: object) -> Params:
        raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
        raw[section] |= fields
        Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        return load_params()

    return change


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store in a working directory of its own."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return Store("sqlite:///mlflow.db", "tests")


@pytest.fixture(scope="session")
def drawable_template(empty_store: Path, tiny_delta: Path, tmp_path_factory: pytest.TempPathFactory) -> Drawable:
    """A store with one logged model that draws; logging one takes seconds, so tests copy the database."""
    folder = tmp_path_factory.mktemp("drawable")
    shutil.copy(empty_store, folder / "mlflow.db")
    drawing = Drawing("a red circle", seed=0, height_px=64, width_px=64, num_steps=2, guidance_scale=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        store = Store("sqlite:///mlflow.db", "tests")
        source = log_model(store, store.create_run("model", {}), tiny_delta, drawing)
    tags = {WEIGHTS_TAG: sha256_file(tiny_delta / "delta.safetensors"), ROOT_TAG: "0" * 64}
    return Drawable(folder / "mlflow.db", source, tags | {DRAWING_TAG: json.dumps(asdict(drawing))})


@pytest.fixture
def drawable(drawable_template: Drawable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drawable:
    """Likewise, in a working directory of its own."""
    shutil.copy(drawable_template.database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    return drawable_template


def write_scores(comparison: dict[str, dict]) -> None:
    write_json(Layout.comparison, comparison | {"efficiency": {"device": "cpu", "threads": 1, "rows": []}})


def flip_byte(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def _write_data(delta: Path) -> None:
    ids = [sha256_json(text)[:12] for text in PROMPTS]
    Layout.prompts.mkdir(parents=True)
    pd.DataFrame({"prompt_id": ids, "text": PROMPTS, "style": "plain"}).to_parquet(Layout.prompts_table, index=False)
    rng, rows = np.random.default_rng(0), []
    for index, prompt_id in enumerate(ids):
        name = f"00000/{index:06d}.png"
        (Layout.corpus / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(Layout.corpus / name)
        rows.append({"file_name": name, "prompt_id": prompt_id, "sha256": sha256_file(Layout.corpus / name)})
    pd.DataFrame(rows).to_parquet(Layout.corpus_table, index=False)
    pd.DataFrame(rows[:2]).to_parquet(Layout.manifest, index=False)
    embeddings = load_pixel_pipeline(delta).encode_prompts([*PROMPTS, ""])
    write_embeddings(Layout.embeddings, [*ids, ""], embeddings, {})


def _write_reports(pin: SourcePin) -> None:
    pixel = sha256_json([pin.digest, read_delta_card(Layout.pixel)["weights_sha256"]])
    for folder in (Layout.geneval, Layout.dpg):
        for model, digest in (("source", pin.digest), ("pixel", pixel)):
            overall = SCORES[folder.name][model]
            card = {"model": {"name": model, "digest": digest}}
            write_json(folder / model / "scores.json", {"overall": overall, "card": card})
    (Layout.training / "samples").mkdir(parents=True)
    lines = ["step,loss,grad_norm", *(f"{step},{1 / step},0.5" for step in range(1, 7))]
    (Layout.training / "curves.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Image.new("RGB", (64, 64), "red").save(Layout.training / "samples" / "step-000006.png")
    write_json(Layout.validation / "result.json", {"success": True, "accepted": 2, "rejected": 1})
    write_scores(SCORES)
