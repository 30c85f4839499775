"""The snippets of docs/pipeline.md run, in the order of the page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from l2p.cli import app
from tests.models.pipeline_parts import lively_delta

PAGE = Path(__file__).parents[2] / "docs" / "pipeline.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def project(tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the page names."""
    monkeypatch.chdir(tmp_path)
    lively_delta(tiny_source, Path("models/pixel"))
    Image.new("RGB", (64, 64), "teal").save("photo.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 32:] = 255
    Image.fromarray(mask).save("mask.png")
    name = "transformer.layers.0.attention.to_v.lora_{}.weight"
    save_file({name.format("A"): torch.randn(4, 64), name.format("B"): torch.randn(64, 4)}, "lora.safetensors")
    return tmp_path


@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.schedulers")
def test_every_snippet_of_the_page_runs(project: Path) -> None:
    pytest.importorskip("peft")
    known: dict[str, object] = {}
    for code in blocks("python"):
        exec(compile(code, PAGE.name, "exec"), known)
    assert len(list(Path("out").glob("step-*.png"))) == 2
    kept = np.asarray(known["patched"])[:, :32]
    np.testing.assert_array_equal(kept, np.asarray(Image.open("photo.png"))[:, :32])
    commands = [shlex.split(line) for line in "".join(blocks("bash")).splitlines()]
    assert len(commands) == 3
    for program, *arguments in commands:
        assert program == "l2p"
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, (arguments, done.exception)
    assert Path("x-4.png").exists()
