"""The page "Evaluate any model" names commands and options that exist, and its first command runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from l2p.cli import app
from l2p.evaluation.judges import OBJECT_JUDGES, QUESTION_JUDGES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def options_of(words: list[str]) -> tuple[set[str], str]:
    """Options of the command that `words` call, and its name."""
    command = typer.main.get_command(app)
    path = []
    for word in words:
        if not hasattr(command, "commands"):
            break
        command = command.commands[word]
        path.append(word)
    return {option for parameter in command.params for option in parameter.opts}, " ".join(path)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_and_option_of_the_page_exists(line: str):
    program, *words = shlex.split(line)
    assert program == "l2p"
    known, _ = options_of(words)
    assert {word for word in words if word.startswith("--")} <= known


def test_every_judge_is_on_the_page():
    assert all(f"`{name}`" in PAGE for name in {*OBJECT_JUDGES, *QUESTION_JUDGES})


def test_the_first_command_of_the_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "shapes").symlink_to(ROOT / "sources" / "shapes")
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(COMMANDS[0])[1:]
    arguments[arguments.index("--subset") + 1] = "0.02"  # one prompt of each task
    done = CliRunner().invoke(app, [*arguments, "--images-per-prompt", "1"])
    assert done.exit_code == 0, done.output
    assert "wrote evaluations/sources-shapes/geneval" in done.stdout
    assert (tmp_path / "evaluations" / "sources-shapes" / "geneval" / "scores.json").is_file()
