"""A project folder with everything that `l2p train` reads, made in a second: random images, a real graft."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from l2p.config import Layout, Params, load_params
from l2p.models.adapters import get_adapter
from l2p.models.delta import save_delta
from l2p.models.embeddings import write_embeddings
from l2p.models.graft import graft
from l2p.models.source import load_text_pipeline, pin_source
from l2p.registry.store import Store
from tests.conftest import small_params

PROMPTS = ("a red circle", "a blue square", "two green triangles", "a black ring", "three red stars")
IMAGES = 16
SIZE_PX = 64


def write_corpus() -> None:
    """Smooth random images with a manifest in which all are accepted."""
    random, rows = np.random.default_rng(0), []
    for index in range(IMAGES):
        coarse = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        path = Layout.corpus / "00000" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC).save(path)
        rows.append(
            {
                "file_name": path.relative_to(Layout.corpus).as_posix(),
                "prompt_id": prompt_id(PROMPTS[index % len(PROMPTS)]),
                "text": PROMPTS[index % len(PROMPTS)],
                "seed": 1000 + index,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "height_px": SIZE_PX,
                "width_px": SIZE_PX,
            }
        )
    pd.DataFrame(rows).to_parquet(Layout.manifest, index=False)


def prompt_id(text: str) -> str:
    """Id of a prompt; the empty one has none."""
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else ""


def prepare(source: Path, params: Params) -> None:
    """Write every input of `l2p train` into the working directory."""
    pin = pin_source(str(source))
    pin.save(Layout.source)
    texts = [*PROMPTS, ""]
    embeddings = get_adapter(pin.transformer_class).encode(load_text_pipeline(pin), texts)
    write_embeddings(Layout.embeddings, [prompt_id(text) for text in texts], embeddings, {"source_digest": pin.digest})
    model = graft(pin, seed=0, patch_size=16, head_widths=(4, 8, 8, 16), prediction="x0", snr_scale=1.0)
    sampler = params.sampling.pixel.model_dump()
    save_delta(model, Layout.init, pin=pin, names=model.new_tensors(), sampler=sampler)
    write_corpus()


@pytest.fixture(scope="session")
def prepared(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs and an MLflow store, made once; do not write into the inputs."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        params = Params.model_validate(small_params(tiny_source))
        prepare(tiny_source, params)
        Store("sqlite:///mlflow.db", params.register_.experiment)  # creating its tables takes longer than a training
    return folder


@pytest.fixture
def project(workspace: Path, prepared: Path) -> Path:
    """A working directory in which `l2p train` can run."""
    for name in ("data", "models"):
        shutil.copytree(prepared / name, workspace / name)
    path = workspace / "params.yaml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["register"]["tracking_uri"] = f"sqlite:///{prepared / 'mlflow.db'}"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return workspace


def with_train(**changes: Any) -> Params:
    """The project's parameters with changes to the section `train`, written to params.yaml too."""
    path = Path("params.yaml")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    raw["train"] |= changes
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params()
