"""No pickle is loaded anywhere: malicious files go through the real loading paths, and nothing in them runs."""

from __future__ import annotations

import ast
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import yaml

from l2p.data.prompting.files import read_candidates
from l2p.errors import DataError, L2PError, LineageError, SourceError, TrainingError
from l2p.files import read_json, sha256_file, sha256_json, write_json
from l2p.models.pipeline import load_pixel_pipeline
from l2p.models.source import SourcePin, load_source_pipeline, pin_source
from l2p.registry.logged_model import check_logged_model, model_files
from l2p.registry.served import Drawing, load_and_draw
from l2p.registry.store import load_mlflow
from l2p.shapes.recipe import checkpoint
from l2p.training.checkpoints import Checkpoints
from tests.conftest import ROOT
from tests.registry.conftest import Drawable

DRAWING = Drawing("a red circle", seed=0, height_px=64, width_px=64, num_steps=2, guidance_scale=0.0)


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Trap]:
    """It snaps when it is unpickled; the test fails if it did."""
    found = Trap(tmp_path / "it-ran")
    pickle.loads(pickle.dumps(found))
    assert found.marker.is_dir()  # the trap works
    found.marker.rmdir()
    yield found
    assert not found.marker.exists()


def write_trap(path: Path, trap: Trap, kind: str) -> None:
    if kind == "torch":
        torch.save({"weights": trap}, path)
    elif kind == "numpy":
        with path.open("wb") as stream:
            np.save(stream, np.array([trap], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(pickle.dumps(trap))


@pytest.mark.parametrize("kind", ["pickle", "torch", "numpy"])
def test_weights_of_a_delta_that_are_a_pickle_are_refused(
    tiny_delta: Path, tmp_path: Path, trap: Trap, kind: str
) -> None:
    folder = tmp_path / "delta"
    shutil.copytree(tiny_delta, folder)
    write_trap(folder / "delta.safetensors", trap, kind)
    digest = sha256_file(folder / "delta.safetensors")
    write_json(folder / "delta.json", read_json(folder / "delta.json", written_by="") | {"weights_sha256": digest})
    with pytest.raises(L2PError, match=r"delta\.safetensors"):
        load_pixel_pipeline(folder)


def test_a_lora_that_is_a_pickle_is_refused(tiny_delta: Path, tmp_path: Path, trap: Trap) -> None:
    for name in ("lora.safetensors", "lora.bin", "lora.pt"):
        write_trap(tmp_path / name, trap, "torch")
        with pytest.raises(L2PError):
            load_pixel_pipeline(tiny_delta).load_lora_weights(tmp_path / name)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder"])
def test_a_source_with_a_part_in_pickled_weights_is_not_loaded(
    tiny_source: Path, tmp_path: Path, trap: Trap, part: str
) -> None:
    folder = tmp_path / "source"
    shutil.copytree(tiny_source, folder)
    for path in (folder / part).glob("*.safetensors*"):
        path.unlink()
    for name in ("diffusion_pytorch_model.bin", "pytorch_model.bin"):
        write_trap(folder / part / name, trap, "torch")
    with pytest.raises(SourceError):
        load_source_pipeline(pin_source(str(folder)))


def test_code_that_lies_in_a_source_does_not_run(tiny_source: Path, tmp_path: Path, trap: Trap) -> None:
    folder = tmp_path / "source"
    shutil.copytree(tiny_source, folder)
    (folder / "text_encoder" / "evil.py").write_text(f"import os\nos.mkdir({str(trap.marker)!r})\nEvil = None\n")
    index = read_json(folder / "model_index.json", written_by="")
    write_json(folder / "model_index.json", index | {"text_encoder": ["evil", "Evil"]})
    with pytest.raises(SourceError):
        load_source_pipeline(pin_source(str(folder)))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".txt"])
def test_a_prompt_file_that_is_a_pickle_is_only_text_or_refused(tmp_path: Path, trap: Trap, suffix: str) -> None:
    path = tmp_path / f"prompts{suffix}"
    write_trap(path, trap, "pickle")
    with pytest.raises(DataError):
        read_candidates(path)


def test_a_checkpoint_of_the_training_that_is_a_pickle_is_refused(tmp_path: Path, trap: Trap) -> None:
    folder = tmp_path / "checkpoints"
    tag = folder / "step-000002"
    tag.mkdir(parents=True)
    write_trap(tag / "rank000-000.safetensors", trap, "torch")
    state = {"progress": {"step": 2, "seconds": 1.0}, "fingerprint": {}}
    write_json(tag / "state.json", state)
    write_json(tag / "files.json", {path.name: sha256_file(path) for path in tag.iterdir()})
    shards = SimpleNamespace(kinds=("weight",), names=["a"], steps_taken=0)
    engine: Any = SimpleNamespace(rank=0, world_size=1, shards=shards, agree=lambda value: value)
    with pytest.raises(TrainingError, match=r"every checkpoint is damaged \(rank000-000.safetensors is no safetensors"):
        Checkpoints(folder, engine, fingerprint={}).resume()


def test_a_checkpoint_of_the_recipe_that_is_a_pickle_is_refused(tmp_path: Path, trap: Trap) -> None:
    write_trap(tmp_path / "vae.pt", trap, "torch")
    with pytest.raises(pickle.UnpicklingError, match="Weights only"):
        checkpoint.load(tmp_path / "vae.pt")


@pytest.fixture
def logged(drawable: Drawable, tmp_path: Path) -> Path:
    """A copy of a logged model."""
    (original,) = drawable.database.parent.glob("mlruns/models/*/artifacts")
    folder = tmp_path / "logged"
    shutil.copytree(original, folder)
    return folder


def change_description(folder: Path, change: Callable[[dict], object]) -> None:
    raw = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    change(raw["flavors"]["python_function"])
    (folder / "MLmodel").write_text(yaml.safe_dump(raw), encoding="utf-8")


def pickled(flavor: dict) -> None:
    flavor |= {"python_model": "python_model.pkl", "loader_module": "mlflow.pyfunc.model"}
    del flavor["model_code_path"]


@pytest.mark.parametrize(
    "change",
    [
        pickled,
        lambda flavor: flavor.update(python_model="python_model.pkl"),
        lambda flavor: flavor.update(loader_module="mlflow.sklearn", model_path="python_model.pkl"),
        lambda flavor: flavor.update(loader_module="joblib"),
        lambda flavor: flavor.update(model_code_path="other.py"),
    ],
)
def test_a_logged_model_with_a_pickle_is_refused_before_it_is_loaded(
    logged: Path, trap: Trap, change: Callable[[dict], object]
) -> None:
    write_trap(logged / "python_model.pkl", trap, "pickle")
    change_description(logged, change)
    with pytest.raises(LineageError, match=r"MLmodel: (not a model that|names the code)"):
        load_and_draw(logged, DRAWING, source="models:/m-1")


def test_mlflow_itself_loads_no_pickle_in_our_processes(logged: Path, trap: Trap) -> None:
    load_mlflow()
    write_trap(logged / "python_model.pkl", trap, "pickle")
    change_description(logged, pickled)
    with pytest.raises(mlflow.exceptions.MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(str(logged))


@pytest.mark.parametrize("name", ["served_model.py", "code/l2p/__init__.py", "code/l2p/added.py"])
def test_changed_code_in_a_logged_model_is_noticed_before_it_runs(logged: Path, trap: Trap, name: str) -> None:
    recorded = model_files(logged)
    digest = sha256_json(recorded)
    check_logged_model(logged, recorded=recorded, digest=digest)
    (logged / name).write_text(f"import os\nos.mkdir({str(trap.marker)!r})\n", encoding="utf-8")
    with pytest.raises(LineageError, match=f"{name} is .*, registered was"):
        check_logged_model(logged, recorded=recorded, digest=digest)


def test_a_source_pin_that_names_files_elsewhere_is_refused(tiny_source: Path) -> None:
    pin = pin_source(str(tiny_source))
    files = {"../outside.safetensors": "0" * 64}
    with pytest.raises(DataError, match=r"\.\./outside\.safetensors.*not below"):
        load_source_pipeline(SourcePin(**(vars(pin) | {"files": files})))


# Calls that can run what a file says, and the argument that makes them harmless.
ALLOWED = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "joblib.load", "cloudpickle.load", "cloudpickle.loads", "dill.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "pd.read_pickle", "pandas.read_pickle", "shelve.open"),
    *("marshal.load", "marshal.loads", "eval", "exec"),
}


def dangerous_calls(source: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in ALLOWED:
            argument, value = ALLOWED[name]
            given = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if given.get(argument) != str(value):
                found.append(f"{node.lineno}: {name} without {argument}={value}")
        if name in FORBIDDEN or name.endswith(".extractall"):
            found.append(f"{node.lineno}: {name}")
        if any(item.arg == "trust_remote_code" and ast.unparse(item.value) != "False" for item in node.keywords):
            found.append(f"{node.lineno}: {name} trusts remote code")
    return found


def test_no_line_of_the_code_can_unpickle_or_run_what_a_file_says() -> None:
    files = [path for folder in ("src", "flows", "bench") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 200
    found = [f"{path.relative_to(ROOT)}:{call}" for path in files for call in dangerous_calls(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader)",
        "pickle.loads(data)",
        "tar.extractall(folder)",
        "eval(text)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
    ],
)
def test_the_search_for_such_lines_finds_them(line: str) -> None:
    assert len(dangerous_calls(line)) == 1
