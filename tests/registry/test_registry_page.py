"""docs/registry.md, executed: its Python and its command lines, with real servers that answer its curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from l2p.config import Params
from l2p.stages import register
from tests.conftest import ROOT
from tests.registry.servers import free_port, running

PAGE = (ROOT / "docs/registry.md").read_text(encoding="utf-8")
PORT = "5001"


def blocks(language: str, *, holding: str) -> str:
    """The one block of code that has `holding` in it."""
    (found,) = [block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.S) if holding in block]
    return found


def run(script: str, *, shell: bool) -> str:
    command = ["bash", "-euo", "pipefail", "-c", script] if shell else [sys.executable, "-c", script]
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": programs, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


@pytest.fixture
def registered(project: Path, params: Params) -> Path:
    register.run(params)
    return project


@pytest.mark.slow
def test_the_python_of_the_page_draws(registered: Path) -> None:
    run(blocks("python", holding="from_registry"), shell=False)
    assert size_of("circle.png") == (64, 64)
    run(blocks("python", holding="pyfunc"), shell=False)
    assert size_of("image-0.png") == size_of("image-1.png") == (64, 64)


@pytest.mark.slow
def test_the_command_lines_of_the_page_work(registered: Path) -> None:
    generate = "l2p generate"
    run(blocks("bash", holding=generate), shell=True)
    assert size_of("circle.png") == (64, 64)
    assert "champion is shapes-pixel/1" in run(blocks("bash", holding="l2p promote").splitlines()[0], shell=True)
    assert "licence" in run(blocks("bash", holding="l2p lineage"), shell=True)
    assert "links hold" in run(blocks("bash", holding="l2p verify"), shell=True)


@pytest.fixture
def served(registered: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """Port of a server that a line of the page starts."""
    port = free_port()
    script = f"exec env {blocks('bash', holding=request.param).replace(PORT, str(port)).strip()}"
    programs = f"export PATH={Path(sys.executable).parent}:$PATH OMP_NUM_THREADS=1; "
    url = f"http://127.0.0.1:{port}/ping"
    with running(["bash", "-c", programs + script], url=url, log=registered / "server.log", cwd=registered):
        yield port


BAD = [
    (
        {"dataframe_records": [{"prompt": "a dog"}], "params": {"num_steps": 3000}},
        "num_steps = 3000: expected 1 to 200.",
    ),
    ({"dataframe_records": [{"prompt": "a dog", "height_px": 9000, "width_px": 9000}]}, "9000x9000 pixels: at most"),
    ({"dataframe_records": [{"prompt": "a dog", "height_px": 63, "width_px": 64}]}, "must be multiples of 16"),
    ({"dataframe_records": [{"prompt": "x" * 2001}]}, "a prompt of 2001 characters: at most 2000"),
    ({"dataframe_records": [{"prompt": "x"}] * 65}, "65 rows: expected 1 to 64"),
    ({"dataframe_records": [{"prompt": ""}]}, "an empty prompt"),
    ({"dataframe_records": [{"prompt": "x", "seed": -1}]}, "seed = -1"),
    ({"dataframe_records": [{"seed": 1}]}, "missing inputs ['prompt']"),
    ({"dataframe_records": [{"prompt": "x", "seed": "y"}]}, "Failed to convert column seed"),
]


@pytest.mark.slow
@pytest.mark.parametrize("served", ["l2p serve", "mlflow models serve"], indirect=True)
def test_the_curl_of_the_page_is_answered_with_a_png_and_a_bad_request_with_a_sentence(served: int) -> None:
    run(blocks("bash", holding="curl").replace(PORT, str(served)), shell=True)
    assert size_of("circle.png") == (64, 64)
    url = f"http://127.0.0.1:{served}"
    for body, told in BAD:
        answer = httpx.post(f"{url}/invocations", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 400, told
        assert told in json.loads(answer.text)["message"]
        assert "Traceback" not in answer.text
    assert httpx.get(f"{url}/ping", trust_env=False).status_code == 200
    run(blocks("bash", holding="curl").replace(PORT, str(served)), shell=True)
