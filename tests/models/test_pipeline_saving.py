"""A whole pipeline is saved and loaded by diffusers alone, bit for bit, and nothing is filled in silently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import l2p
from l2p.errors import L2PError, ModelError
from l2p.models.pipeline import L2PPipeline, load_pixel_pipeline
from l2p.models.pixel_transformer import PixelTransformer
from tests.models.pipeline_parts import lively_delta

ROOT = Path(__file__).parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"
DRAW: dict[str, Any] = {"height": 32, "width": 48, "output_type": "latent"}

DRAW_AND_SAVE = """
import torch
pipeline = DiffusionPipeline.from_pretrained("saved")
pipeline.set_progress_bar_config(disable=True)
image = pipeline("a photo of a red circle", height=32, width=48, generator=torch.Generator().manual_seed(1),
    output_type="latent").images
torch.save(image, "image.pt")
print(type(pipeline).__module__, type(pipeline).__name__, type(pipeline.transformer).__name__)
"""


@pytest.fixture(scope="module")
def pipeline(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> L2PPipeline:
    loaded = load_pixel_pipeline(lively_delta(tiny_source, tmp_path_factory.mktemp("delta")))
    loaded.register_to_config(num_inference_steps=3, guidance_scale=1.5)
    return loaded


@pytest.fixture(scope="module")
def saved(pipeline: L2PPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the saved pipeline; do not write into it."""
    folder = tmp_path_factory.mktemp("whole") / "saved"
    pipeline.save_pretrained(folder)
    return folder


def draw(pipeline: Any) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline("a photo of a red circle", generator=torch.Generator().manual_seed(1), **DRAW).images


def python(code: str, folder: Path) -> str:
    """What a new interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# round trips


def test_the_index_names_this_package_and_no_file_of_it(saved: Path) -> None:
    index = json.loads((saved / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "L2PPipeline"
    assert index["transformer"] == ["l2p", "PixelTransformer"]
    assert index["text_encoder"] == ["transformers", "Qwen3Model"]
    assert (index["num_inference_steps"], index["guidance_scale"]) == (3, 1.5)
    assert not list(saved.rglob("*.py"))


@pytest.mark.parametrize("load", [L2PPipeline.from_pretrained, DiffusionPipeline.from_pretrained, load_pixel_pipeline])
def test_a_saved_pipeline_draws_the_same_image_with_the_same_defaults(
    load: Any, saved: Path, pipeline: L2PPipeline
) -> None:
    loaded = load(saved)
    assert type(loaded) is L2PPipeline
    assert torch.equal(draw(loaded), draw(pipeline))
    assert (loaded.num_timesteps, loaded.guidance_scale) == (3, 1.5)
    for name, tensor in pipeline.transformer.state_dict().items():
        assert torch.equal(tensor, loaded.transformer.state_dict()[name]), name


def test_weights_in_many_files_and_in_bfloat16_load_bit_for_bit(pipeline: L2PPipeline, tmp_path: Path) -> None:
    model = PixelTransformer(**{k: v for k, v in pipeline.transformer.config.items() if not k.startswith("_")})
    model.load_state_dict(pipeline.transformer.state_dict())
    model.to(torch.bfloat16).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    loaded = PixelTransformer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert not any(tensor.is_meta for tensor in loaded.state_dict().values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name


def test_a_pipeline_without_text_parts_and_defaults_is_saved_too(pipeline: L2PPipeline, tmp_path: Path) -> None:
    L2PPipeline(pipeline.transformer, pipeline.scheduler).save_pretrained(tmp_path / "bare")
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "bare")
    assert loaded.text_encoder is None
    assert loaded.config.guidance_scale is None


# in another process


@pytest.mark.parametrize(
    "imports",
    [
        "import l2p\nfrom diffusers import DiffusionPipeline",
        "from diffusers import DiffusionPipeline\nimport l2p",
        "import l2p, torch, transformers, diffusers\nDiffusionPipeline = diffusers.DiffusionPipeline",
    ],
)
def test_diffusers_loads_it_after_nothing_but_the_import_of_this_package(
    imports: str, saved: Path, pipeline: L2PPipeline, tmp_path: Path
) -> None:
    (tmp_path / "saved").symlink_to(saved)
    assert python(imports + DRAW_AND_SAVE, tmp_path).split() == ["l2p", "L2PPipeline", "PixelTransformer"]
    torch.testing.assert_close(torch.load(tmp_path / "image.pt"), draw(pipeline), atol=1e-5, rtol=1e-5)


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys, l2p; print([name for name in ('torch', 'diffusers', 'l2p.models') if name in sys.modules])"
    assert python(code, tmp_path).strip() == "[]"


def test_importing_diffusers_later_stays_as_light_as_it_is(tmp_path: Path) -> None:
    code = (
        "import sys, l2p, diffusers; print('l2p.models' in sys.modules, type(diffusers).__name__, "
        "type(diffusers.__spec__.loader).__name__, diffusers.__version__ != '', hasattr(diffusers, 'Nothing'))"
    )
    assert python(code, tmp_path).split() == ["False", "_LazyModule", "SourceFileLoader", "True", "False"]


def test_the_hook_leaves_a_missing_diffusers_missing(tmp_path: Path) -> None:
    code = (
        "import sys, l2p\n"
        "sys.path[:] = [path for path in sys.path if 'site-packages' not in path]\n"
        "try:\n    import diffusers\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    )
    assert python(code, tmp_path).strip() == "No module named 'diffusers'"


# this package's public names


def test_public_names_are_found_and_listed() -> None:
    assert l2p.L2PPipeline is L2PPipeline
    assert l2p.PixelTransformer is PixelTransformer
    assert l2p.load_pixel_pipeline is load_pixel_pipeline
    assert {"L2PPipeline", "PixelTransformer", "load_pixel_pipeline", "__version__"} <= set(dir(l2p))
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = l2p.Nothing


# damage


def change_weights(saved: Path, folder: Path, change: Any) -> Path:
    """A copy of the saved transformer with other tensors."""
    copy = Path(shutil.copytree(saved / "transformer", folder / "transformer"))
    tensors = load_file(copy / WEIGHTS)
    change(tensors)
    save_file(tensors, copy / WEIGHTS, metadata={"format": "pt"})
    return copy


def test_a_missing_or_unexpected_tensor_is_refused_by_name(saved: Path, tmp_path: Path) -> None:
    def remove(tensors: dict[str, Any]) -> None:
        del tensors["head.out_conv.bias"]

    def add(tensors: dict[str, Any]) -> None:
        tensors["head.extra.bias"] = torch.zeros(3)

    with pytest.raises(ModelError, match=r"1 missing tensors, first \['head\.out_conv\.bias'\]"):
        PixelTransformer.from_pretrained(change_weights(saved, tmp_path / "a", remove))
    with pytest.raises(ModelError, match=r"1 unexpected tensors, first \['head\.extra\.bias'\]"):
        PixelTransformer.from_pretrained(change_weights(saved, tmp_path / "b", add))


def test_a_tensor_of_another_shape_is_refused_even_on_request(saved: Path, tmp_path: Path) -> None:
    def widen(tensors: dict[str, Any]) -> None:
        tensors["head.out_conv.bias"] = torch.zeros(4)

    folder = change_weights(saved, tmp_path, widen)
    with pytest.raises((RuntimeError, ValueError), match="out_conv"):
        PixelTransformer.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"mismatched tensors.*out_conv"):
        PixelTransformer.from_pretrained(folder, ignore_mismatched_sizes=True, low_cpu_mem_usage=False)


def test_pickled_weights_are_not_read(saved: Path, pipeline: L2PPipeline, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    (copy / "transformer" / WEIGHTS).unlink()
    torch.save(pipeline.transformer.state_dict(), copy / "transformer" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelError, match=r"copy: diffusers cannot load it .*safetensors"):
        load_pixel_pipeline(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_class": "NoTransformer2DModel"}, "transformer class 'NoTransformer2DModel' has no adapter"),
        ({"source_config": {}}, "copy: diffusers cannot load it .*axes_lens"),
        ({"patch_size": 32}, "copy: diffusers cannot load it .*expected shape"),
    ],
)
def test_a_configuration_that_does_not_fit_is_one_error(
    change: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    config = copy / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | change), encoding="utf-8")
    with pytest.raises(L2PError, match=message):
        load_pixel_pipeline(copy)


def test_a_damaged_or_foreign_folder_is_one_error(saved: Path, tiny_source: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "copy"))
    weights = copy / "transformer" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ModelError, match="copy: diffusers cannot load it"):
        load_pixel_pipeline(copy)
    with pytest.raises(ModelError, match="a ZImagePipeline, not a pixel pipeline"):
        load_pixel_pipeline(tiny_source)
    with pytest.raises(ModelError, match="a ZImageTransformer2DModel: expected a PixelTransformer"):
        L2PPipeline.from_pretrained(tiny_source)
