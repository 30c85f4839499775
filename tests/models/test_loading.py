"""Weights into models: strict about what the files hold, and no more memory than the finished model needs."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from l2p.errors import ModelError
from l2p.models import weights
from l2p.models.delta import load_pixel_model, save_delta
from l2p.models.graft import graft
from l2p.models.source import pin_source
from l2p.models.weights import index_folder

SHAPE: dict[str, Any] = {"patch_size": 16, "head_widths": (4, 8, 8, 16)}
SAMPLER = {"num_steps": 2, "guidance_scale": 0.0, "shift": 3.0}
STEM, INDEX = "diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json"
SHARDS = [f"{STEM}-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
LINUX = Path("/proc/self/maps").exists()


@pytest.fixture
def sharded(tiny_source: Path, tmp_path: Path) -> Path:
    """A copy of the tiny source whose transformer is in three shards."""
    folder = Path(shutil.copytree(tiny_source, tmp_path / "source"))
    whole = folder / "transformer" / f"{STEM}.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    shards = {shard: dict(list(tensors.items())[number::3]) for number, shard in enumerate(SHARDS)}
    for shard, part in shards.items():
        save_file(part, folder / "transformer" / shard)
    places = {name: shard for shard, part in shards.items() for name in part}
    (folder / "transformer" / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
    return folder


def changed(source: Path, change: Callable[[dict[str, torch.Tensor]], object], shard: str = SHARDS[0]) -> Path:
    """`source` with `change` done to the tensors of one shard."""
    path = source / "transformer" / shard
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return source


def convert(source: Path, **settings: Any) -> Any:
    return graft(pin_source(str(source)), seed=0, **SHAPE, **settings)


def test_a_sharded_source_becomes_the_model_of_the_whole_one(tiny_source: Path, sharded: Path) -> None:
    whole, parts = convert(tiny_source).state_dict(), convert(sharded).state_dict()
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "transformer" / SHARDS[1]).unlink()
    with pytest.raises(ModelError, match=f"{INDEX} names {SHARDS[1]}, which is not there"):
        convert(sharded)


def test_a_missing_tensor_is_named(sharded: Path) -> None:
    name = next(name for name in load_file(sharded / "transformer" / SHARDS[0]) if name.startswith("layers."))
    changed(sharded, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=rf"1 tensors are missing, first \['dit\.{name}'\]"):
        convert(sharded)


def test_an_unexpected_tensor_is_named(sharded: Path) -> None:
    changed(sharded, lambda tensors: tensors.update(stray=torch.zeros(1)))
    with pytest.raises(ModelError, match=r"1 unexpected tensors, first \['dit\.stray'\]"):
        convert(sharded)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(sharded: Path) -> None:
    name = next(name for name in load_file(sharded / "transformer" / SHARDS[0]) if name.startswith("layers."))
    changed(sharded, lambda tensors: tensors.update({name: torch.zeros(7)}))
    with pytest.raises(ModelError, match=rf"dit\.{name} has shape \[7\], expected \["):
        convert(sharded)


def test_a_tensor_in_two_shards_is_named_with_both(sharded: Path) -> None:
    name, tensor = next(iter(load_file(sharded / "transformer" / SHARDS[0]).items()))
    changed(sharded, lambda tensors: tensors.update({name: tensor}), shard=SHARDS[2])
    with pytest.raises(ModelError, match=f"{name} is in {SHARDS[0]} and in {SHARDS[2]}"):
        convert(sharded)


def test_a_damaged_shard_is_named(sharded: Path) -> None:
    path = sharded / "transformer" / SHARDS[1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=SHARDS[1]):
        convert(sharded)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no \.safetensors weights"):
        index_folder(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nothing_is_left_without_memory_or_in_another_precision(sharded: Path, tmp_path: Path, dtype: str) -> None:
    model = convert(sharded, dtype=dtype)
    save_delta(model, tmp_path / "delta", pin=pin_source(str(sharded)), names=model.new_tensors(), sampler=SAMPLER)
    for built in (model, load_pixel_model(tmp_path / "delta", dtype=dtype)):
        tensors = {**dict(built.named_parameters()), **dict(built.named_buffers())}
        assert [name for name, tensor in tensors.items() if tensor.is_meta] == []
        floating = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
        assert floating == {getattr(torch, dtype)}


def test_a_conversion_holds_one_tensor_at_a_time_in_the_precision_of_the_file(
    sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[weakref.ref[torch.Tensor]] = []

    @contextmanager
    def watched(*arguments: Any, **settings: Any) -> Iterator[Any]:
        with original(*arguments, **settings) as file:
            yield Watched(file)

    class Watched:
        def __init__(self, file: Any) -> None:
            self.file = file

        def get_tensor(self, name: str) -> torch.Tensor:
            assert [ref for ref in read if ref() is not None] == [], name
            tensor = self.file.get_tensor(name)
            read.append(weakref.ref(tensor))
            return tensor

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    original = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", watched)
    model = convert(sharded, dtype="bfloat16")
    assert len(read) == len(model.state_dict()) - len(model.new_tensors())


@pytest.mark.skipif(not LINUX, reason="reads the process's memory map")
def test_weights_in_the_wanted_precision_are_the_files_themselves(sharded: Path) -> None:
    """Memory mapped: the model has no copy of them."""
    model = convert(sharded)
    mapped = [
        tuple(int(end, 16) for end in line.split()[0].split("-"))
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        if line.endswith(".safetensors")
    ]
    copied = {
        name
        for name, tensor in model.state_dict().items()
        if not any(low <= tensor.data_ptr() < high for low, high in mapped)
    }
    assert copied == set(model.new_tensors())
