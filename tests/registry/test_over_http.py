"""Everything that is done with a registered model, against a real MLflow server over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

import l2p
from l2p.cli import app
from l2p.config import Layout, Params, load_params
from l2p.files import read_json
from l2p.registry.store import Store
from l2p.registry.versions import ModelRegistry
from l2p.stages import register
from tests.registry.servers import tracking_server

NAME = "shapes-pixel"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tracking_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture
def online(server: str, change_params: Callable[..., Params]) -> Params:
    """Parameters of a finished project whose registry is the server."""
    return change_params("register", tracking_uri=server)


REGISTER = "from l2p.config import load_params; from l2p.stages import register; register.run(load_params())"


@pytest.mark.slow
def test_a_conversion_is_registered_and_used_over_http(
    online: Params, server: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # two processes register the same model at once
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([sys.executable, "-c", REGISTER], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    registry = ModelRegistry(server)
    (version,) = registry.all(NAME)
    assert version.aliases == ("candidate", "champion")
    register.run(online)
    assert [found.version for found in registry.all(NAME)] == [version.version]

    # nothing of it is on this side
    assert not Path("mlruns").exists()
    run = Store(server, "l2p").client.get_run(version.run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    assert run.info.status == "FINISHED"

    run_command = CliRunner().invoke
    shown = run_command(app, ["lineage", f"{NAME}@champion"])
    assert shown.exit_code == 0, shown.output
    assert read_json(Layout.source, written_by="")["digest"][:12] in shown.output
    checked = run_command(app, ["verify", f"{NAME}@champion"])
    assert checked.exit_code == 0, checked.output
    assert "links hold" in checked.output
    promoted = run_command(app, ["promote", f"{NAME}@candidate"])
    assert f"champion is {NAME}/{version.version}" in promoted.output
    drawn = run_command(app, ["generate", "a red circle", "--model", f"{NAME}@champion", "--out", "image.png"])
    assert drawn.exit_code == 0, drawn.output

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(server)
    served = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    (image,) = served.predict(pd.DataFrame({"prompt": ["a red circle"], "seed": [0]}), params={"num_steps": 2})
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))))
    assert pixels.shape == (64, 64, 3)
    pipeline = l2p.L2PPipeline.from_registry(f"{NAME}@champion", tracking_uri=server)
    assert pipeline.config.num_inference_steps == 2


@pytest.mark.slow
def test_a_link_that_was_tampered_with_on_the_server_is_noticed(online: Params, server: str, project: Path) -> None:
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["register"]["name"] = "tampered"
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    params = load_params()
    register.run(params)
    registry = ModelRegistry(server)
    version = registry.resolve("tampered@candidate")
    scores = json.loads(version.tags["l2p.scores"])
    scores["geneval"]["retention"] = 2.0
    registry.set_tag(version, "l2p.scores", json.dumps(scores))
    found = {link.name: link for link in register.verify(params, "tampered@candidate")}
    assert found["tags"].state == "broken"
    assert "its tag l2p.scores differs" in found["tags"].told
