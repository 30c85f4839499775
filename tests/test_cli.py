"""The command line: starts at once, tells a user's mistake in one line, and has a page of help for every command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from l2p.cli import app
from l2p.commands.explain import describe
from l2p.commands.stages import STAGES
from l2p.config import load_params
from l2p.files import write_json

ROOT = Path(__file__).parents[1]
MODELS = ["generate", "export", "import", "lineage", "verify", "reproduce", "promote", "rollback"]
COMMANDS = [*STAGES, *MODELS, "corpus", "sources", "preset", "summary", "explain", "doctor"]
HEAVY = {"torch", "mlflow", "prefect", "great_expectations", "deepspeed", "diffusers", "transformers", "pandas", "dvc"}


def l2p(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COLUMNS": "120"}
    command = [sys.executable, "-m", "l2p.cli", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )


def test_importing_the_command_line_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, l2p.cli; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & HEAVY == set()


def test_help_answers_within_a_second_of_work_and_names_every_command(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = l2p("--help", folder=tmp_path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    lines = [line.strip("│ ") for line in done.stdout.splitlines()]
    for command in COMMANDS:
        assert sum(line.split(" ")[0] == command for line in lines) == 1, command


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0, result.output
    assert command in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prompts"], "params.yaml: not found"),
        (["--params", "other.yaml", "train"], "other.yaml: not found"),
        (["bogus"], "No such command 'bogus'"),
        (["geneval"], "Missing option '--model'"),
        (["geneval", "--model", "both"], "'both' is not one of 'source', 'pixel'"),
        (["generate", "a circle"], "Missing option '--out'"),
        (["generate", "a circle", "--out", "x.jpg"], "--out x.jpg: expected a file name that ends in .png"),
        (["summary"], "reports/summary.json: not found. `dvc repro` writes it"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = l2p(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_a_stage_without_its_inputs_names_the_stage_to_run_first(workspace: Path) -> None:
    done = l2p("synthesize", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: models/source.json: not found. `l2p source` writes it; run that first."]


def test_a_model_that_is_not_there_is_named(workspace: Path) -> None:
    done = l2p("generate", "a circle", "--out", "x.png", "--model", "models/none", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.startswith("error: models/none: no such folder")


def test_a_full_disk_is_one_line(workspace: Path) -> None:
    (workspace / "models").mkdir()
    (workspace / "models" / "source.json.partial").symlink_to("/dev/full")
    done = l2p("source", folder=workspace)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the disk is full")
    assert done.stderr.count("\n") == 1


def test_a_file_in_the_way_of_a_folder_is_one_line(workspace: Path) -> None:
    (workspace / "models").write_text("not a folder", encoding="utf-8")
    done = l2p("source", folder=workspace)
    assert done.returncode == 2
    assert done.stderr == "error: models: a file is where a folder should be; move it away.\n"


def test_a_folder_that_may_not_be_written_is_one_line(workspace: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (workspace / "models").mkdir(mode=0o500)
    done = l2p("source", folder=workspace)
    assert done.returncode == 2
    assert "no permission" in done.stderr


def test_generate_draws_as_many_images_as_asked(workspace: Path, tiny_delta: Path) -> None:
    options = ["--model", str(tiny_delta), "--count", "2", "--seed", "3", "--steps", "1"]
    done = l2p("generate", "a photo of a red circle", "--out", "made/x.png", *options, folder=workspace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["made/x-1.png", "made/x-2.png"]
    assert done.stderr == ""
    first, second = ((workspace / name).read_bytes() for name in done.stdout.split())
    assert first != second


def test_explain_describes_every_parameter(workspace: Path) -> None:
    done = l2p("explain", folder=workspace)
    assert done.returncode == 0
    for field, _, _ in describe(load_params()):
        assert field.split(".")[-1] in done.stdout, field


def test_explain_refuses_an_unknown_section(workspace: Path) -> None:
    done = l2p("explain", "tran", folder=workspace)
    assert done.returncode == 2
    assert "no section `tran`" in done.stderr


FIGURES = {
    "geneval": {
        "source": 0.9,
        "pixel": 0.85,
        "retention": 0.944,
        "interval": [0.91, 0.97],
        "tags": {"colors": {"source": 0.93, "pixel": 0.88}},
    },
    "dpg": {"source": 95.0, "pixel": 0.0, "retention": None, "interval": None, "categories": {}},
    "efficiency": {
        "rows": [
            {"resolution_px": 64, "model": "source", "denoise_step_ms": 8.0, "decode_ms": 9.5, "peak_memory_mb": 20.0},
            {"resolution_px": 64, "model": "pixel", "denoise_step_ms": 8.6, "decode_ms": None, "peak_memory_mb": 7.0},
        ]
    },
    "model": {"name": "shapes-pixel", "version": 3, "aliases": ["candidate", "champion"]},
    "verified": True,
}


def test_summary_shows_scores_speed_report_and_model(tmp_path: Path) -> None:
    write_json(tmp_path / "reports" / "summary.json", FIGURES)
    done = l2p("summary", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["GenEval", "0.900", "0.850", "0.944", "0.910", "..", "0.970"] in rows
    assert ["colors", "0.930", "0.880"] in rows
    assert ["DPG-Bench", "95.0", "0.0", "none", "none"] in rows
    assert ["source", "64", "px", "8.0", "ms", "9.5", "ms", "20", "MB"] in rows
    assert ["report", "reports/index.html"] in rows
    assert "shapes-pixel version 3 (@candidate, @champion), verified" in done.stdout


def test_doctor_fails_when_something_required_is_broken(workspace: Path) -> None:
    (workspace / "params.yaml").write_text("train: {}\n", encoding="utf-8")
    done = l2p("doctor", folder=workspace)
    assert done.returncode == 1
    assert "broken" in done.stdout
    assert "params.yaml" in done.stdout


def test_doctor_tells_stack_machine_and_project(workspace: Path) -> None:
    done = l2p("doctor", folder=workspace)
    assert done.returncode == 0, done.stdout
    for word in ("python", "torch", "accelerator", "memory", "disk", "git", "dvc", "mlflow", "source"):
        assert word in done.stdout
