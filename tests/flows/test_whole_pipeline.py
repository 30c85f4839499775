"""The real pipeline of this repository, every stage of it, as a Prefect flow on the tiny source."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.judging import read_result
from l2p.files import read_json
from tests.conftest import ROOT, small_params
from tests.flows.test_conversion import start_flow

TIMEOUT_S = 1800


def run_flow(root: Path, home: Path) -> dict[str, str]:
    """Run the flow; returns the state in which each stage ended."""
    with start_flow(root=root, home=home) as process:
        log, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log
    with sqlite3.connect(home / "prefect.db") as database:
        return dict(database.execute("select name, state_name from task_run"))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("l2p", path=str(Path(sys.executable).parent)) is None and shutil.which("l2p") is None,
    reason="needs the installed command `l2p`",
)
def test_a_flow_converts_the_tiny_source_a_second_one_only_verifies_and_an_evaluation_finds_the_same_scores(
    make_project: Callable[[str], Path], tiny_source: Path, tmp_path: Path
) -> None:
    root = make_project((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    shutil.copytree(tiny_source, root / "sources/shapes")
    params = small_params(Path("sources/shapes"))
    (root / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")

    first = run_flow(root, tmp_path / "first")
    assert set(first.values()) == {"Done"}
    summary = read_json(root / "reports/summary.json", written_by="")
    assert summary["model"]["name"] == "shapes-pixel"
    assert "candidate" in summary["model"]["aliases"]
    assert summary["verified"] is True
    assert (root / "reports/index.html").is_file()

    second = run_flow(root, tmp_path / "second")
    assert {name for name, state in second.items() if state == "Done"} == {"register"}
    assert read_json(root / "reports/summary.json", written_by="")["model"] == summary["model"]

    version = f"{summary['model']['name']}/{summary['model']['version']}"
    evaluated = ("--reference", version)
    with start_flow(*evaluated, root=root, home=tmp_path / "third", flow="evaluation") as process:
        log, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log
    result = read_result(root, version)
    for benchmark in result["benchmarks"]:
        for figure in ("source", "pixel", "retention"):
            assert benchmark["measured"][figure] == pytest.approx(benchmark["recorded"][figure]), benchmark
    with sqlite3.connect(tmp_path / "third/prefect.db") as database:
        (table,) = database.execute("select data from artifact where key = 'drift'").fetchone()
    assert [row["benchmark"] for row in json.loads(json.loads(table))] == ["geneval", "dpg"]

    verify = [sys.executable, "-m", "l2p.cli", "verify", version]
    done = subprocess.run(verify, cwd=root, capture_output=True, text=True, check=False)
    assert "broken" not in done.stdout, done.stdout  # the tag of the evaluation is none that verify knows
    assert done.returncode in (0, 1), done.stderr
