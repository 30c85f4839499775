"""The failure drill: its invariants catch what they are for, and its faults hit real projects."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench import fault_invariants as invariants
from bench import fault_kinds, faults
from bench.fault_images import Violation, check_images
from bench.fault_kinds import Hit
from bench.fault_processes import Command, command_line, environment, running, wait_until
from bench.fault_project import Project
from l2p.config import Layout
from l2p.errors import ConfigError
from l2p.files import sha256_file

# A pipeline of one stage that takes a moment and writes a file line by line, then another under its final name.
PIPELINE = """
stages:
  train:
    cmd: >-
      {python} -c "import time, pathlib; [time.sleep(0.1) for _ in range(20)];
      pathlib.Path('reports').mkdir(exist_ok=True); pathlib.Path('reports/x.json').write_text('[1]')"
    outs: [reports/x.json]
"""


def named(found: Iterator[Violation]) -> list[str]:
    return [violation.invariant for violation in found]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A project with three images."""
    folder, rows = tmp_path / Layout.corpus, []
    for index in range(3):
        name = f"00000/{index:06d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index * 40, np.uint8)).save(folder / name)
        rows.append({"file_name": name, "sha256": sha256_file(folder / name)})
    pd.DataFrame(rows).to_parquet(folder / "metadata.parquet")
    batches = [
        {"rows": [{"file_name": row["file_name"], "attempt": 0}], "sha256": {row["file_name"]: row["sha256"]}}
        for row in rows
    ]
    (folder / "journal.jsonl").write_text("".join(json.dumps(batch) + "\n" for batch in batches), encoding="utf-8")
    return tmp_path


def test_an_undamaged_corpus_violates_nothing(corpus: Path) -> None:
    assert named(check_images(corpus, 3)) == []
    assert named(invariants.check_whole(corpus, settled=True)) == []


def test_a_lost_image_is_counted(corpus: Path) -> None:
    (corpus / Layout.corpus / "00000/000001.png").unlink()
    assert named(check_images(corpus, 3)) == ["lost image", "lost image"]  # journal and table name it


def test_an_image_missing_from_everywhere_is_counted(corpus: Path) -> None:
    assert named(check_images(corpus, 4)) == ["lost image"]


def test_an_image_that_nobody_names_is_counted(corpus: Path) -> None:
    shutil.copy(corpus / Layout.corpus / "00000/000001.png", corpus / Layout.corpus / "00000/000009.png")
    assert named(check_images(corpus, 3)) == ["stray image", "stray image"]


def test_a_line_twice_in_the_journal_is_counted(corpus: Path) -> None:
    journal = corpus / Layout.corpus / "journal.jsonl"
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    journal.write_text("".join([*lines, lines[0]]), encoding="utf-8")
    assert named(check_images(corpus, 3)) == ["duplicated image"]


def test_changed_bytes_of_an_image_are_counted(corpus: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(corpus / Layout.corpus / "00000/000002.png")
    assert named(check_images(corpus, 3)) == ["digest"]


@pytest.mark.parametrize(
    "name", ["00000/000000.png", "metadata.parquet", "summary.json", "delta.safetensors", "judgements.jsonl"]
)
def test_a_truncated_file_is_counted(corpus: Path, tiny_delta: Path, name: str) -> None:
    path = corpus / Layout.corpus / name
    if path.suffix == ".safetensors":
        shutil.copy(tiny_delta / name, path)
    elif not path.exists():
        path.write_text('{"images": 3}\n{"images": 4}\n'[: None if path.suffix == ".jsonl" else 14], encoding="utf-8")
    assert named(invariants.check_whole(corpus, settled=True)) == []
    path.write_bytes(path.read_bytes()[:-9])
    assert named(invariants.check_whole(corpus, settled=True)) == ["half-written"]


def test_what_a_stopped_write_leaves_is_counted_only_after_the_next_run(corpus: Path) -> None:
    (corpus / Layout.corpus / "metadata.parquet.partial").write_bytes(b"PAR1")
    assert named(invariants.check_whole(corpus, settled=False)) == []
    assert named(invariants.check_whole(corpus, settled=True)) == ["leftover"]


def test_results_other_than_the_undisturbed_ones_are_counted(
    corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = tmp_path_factory.mktemp("undisturbed") / "project"
    shutil.copytree(corpus, undisturbed)
    assert named(invariants.check_promised(corpus, undisturbed)) == []
    (corpus / Layout.corpus / "00000/000000.png").write_bytes(b"other")
    (corpus / Layout.corpus / "more.txt").write_text("new")
    found = list(invariants.check_promised(corpus, undisturbed))
    assert [violation.told.rpartition(": ")[2] for violation in found] == ["other bytes", "new"]


def test_a_process_that_hides_in_a_session_of_its_own_is_found(tmp_path: Path) -> None:
    mark = str(tmp_path)
    hidden = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    command = Command.start(
        [sys.executable, "-c", hidden], folder=Path("/"), environment=environment(mark), log=tmp_path / "log"
    )
    assert command.wait(60) == 0
    (orphan,) = running(mark, tmp_path)
    assert named(invariants.check_processes([command_line(orphan)])) == ["orphan"]
    orphan.kill()
    assert wait_until(lambda: not running(mark, tmp_path), seconds=10)


@pytest.fixture
def slow_project(tmp_path: Path) -> Project:
    """A DVC project of one stage of two seconds."""
    project = Project(tmp_path, environment(str(tmp_path), DVC_SITE_CACHE_DIR=str(tmp_path / "site")))
    project.root.mkdir()
    subprocess.run(["git", "init", "--quiet"], cwd=project.root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=project.root, check=True)
    (project.root / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable), encoding="utf-8")
    project.seconds["train"] = 4.0
    return project


def told(project: Project) -> list[str]:
    return [command_line(process) for process in running(str(project.work), project.root)]


def await_stage(project: Project, *_: object) -> str:
    """Wait until DVC has started the stage."""
    assert wait_until(lambda: any("pathlib" in line for line in told(project)), seconds=60)
    return "in the stage"


@pytest.mark.parametrize("inject", [fault_kinds.kill_session, fault_kinds.kill_stage])
def test_a_killed_run_leaves_nobody_and_the_next_one_succeeds(
    slow_project: Project, inject: Callable[..., Hit], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_kinds, "await_moment", await_stage)
    hit = inject(slow_project, "train", random.Random(0))
    assert hit.landed
    assert not (slow_project.root / "reports/x.json").exists()
    assert named(faults.after_fault(slow_project)) == []
    assert slow_project.start(["repro", "train"]).wait(60) == 0
    assert (slow_project.root / "reports/x.json").is_file()


def test_an_orphan_is_counted_and_ended(slow_project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC's stage lives on when DVC alone is killed, unless it looks after itself as those of this package do."""
    monkeypatch.setattr(faults, "GRACE_S", 0.2)
    command = slow_project.start(["repro", "train"])
    await_stage(slow_project)
    command.kill_outermost()
    assert "orphan" in named(faults.after_fault(slow_project))
    assert not running(str(slow_project.work), slow_project.root)


def test_a_plan_hits_every_stage_and_is_the_same_for_the_same_seed() -> None:
    stages = ["synthesize", "train", "register", "report"]
    names = [kind.name for kind in fault_kinds.KINDS if faults.missing(kind) is None]
    plan = faults.make_plan(50, 1, names, stages)
    assert plan == faults.make_plan(50, 1, names, stages)
    assert plan != faults.make_plan(50, 2, names, stages)
    assert {stage for kind, stage in plan if kind.name == "kill the session"} == set(stages)
    assert len(plan) == 50


def test_a_plan_that_hits_nothing_says_so() -> None:
    with pytest.raises(ConfigError, match=r"--stages: none of \['report'\] can be hit by the kinds \['two flows'\]"):
        faults.make_plan(5, 0, ["two flows"], ["report"])


def test_results_of_another_plan_are_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{"kind": "two flows", "stage": "train"}]), encoding="utf-8")
    with pytest.raises(ConfigError, match="another plan"):
        faults.known_results(path, faults.make_plan(5, 0, ["kill the stage"], ["train"]))


def test_the_table_counts_faults_and_violations_by_kind() -> None:
    common = {"kind": "kill the stage", "landed": True}
    results = [
        common | {"stage": "train", "violations": []},
        common | {"stage": "report", "violations": [["no recovery", "x"], ["orphan", "y"]]},
    ]
    lines = faults.table(results)
    assert lines[1].split() == ["kill", "the", "stage", "2", "2", "1", "2", "report", "1,", "train", "1"]
    assert lines[-2:] == ["violated: no recovery 1 times", "violated: orphan 1 times"]
