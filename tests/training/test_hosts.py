"""Several machines: the hostfile, and starting the others over ssh (here a script of that name)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from l2p.config import Layout
from l2p.errors import ConfigError, MissingFileError
from l2p.stages.train import run
from l2p.training.hosts import Host, read_hostfile
from tests.conftest import ROOT
from tests.training.conftest import with_train

# Runs the line here, as the machine would: arguments are -tt -o BatchMode=yes NAME SCRIPT.
SSH = '#!/bin/sh\necho "started on $4" >> ssh.log\nexec sh -c "$5"\n'


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run uninstalled; the processes share the cores."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(probe.getsockname()[1]))


def train_alone() -> dict[str, torch.Tensor]:
    run(with_train())
    weights = load_file(Layout.pixel / "delta.safetensors")
    for path in sorted(Layout.checkpoints.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return weights


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_hostfile_lists_machines_with_their_slots(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# two of ours\nnode-1 slots=8\n\nnode-2   slots=8  # the new one\n")
    assert read_hostfile(file) == [Host("node-1", 8), Host("node-2", 8)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("node-1", "hosts:1: 'node-1': expected"),
        ("node-1 slots=0", "hosts:1: 'node-1 slots=0': expected"),
        ("a slots=1\na slots=2", "hosts:2: a is named twice"),
        ("# nobody", "names no machine"),
    ],
)
def test_a_wrong_line_of_a_hostfile_is_named(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_hostfile(file)


def test_a_hostfile_that_is_missing_or_contradicts_the_rest_is_told(project: Path) -> None:
    with pytest.raises(MissingFileError, match="hosts: not found"):
        run(with_train(hostfile="hosts", num_machines=2))
    Path("hosts").write_text("localhost slots=1\n")
    with pytest.raises(ConfigError, match=r"1 machines, but train\.num_machines = 2"):
        run(with_train(hostfile="hosts", num_machines=2))
    Path("hosts").write_text("localhost slots=1\nother slots=4\n")
    with pytest.raises(ConfigError, match=r"other has slots=4, but train\.num_processes = 1"):
        run(with_train(hostfile="hosts", num_machines=2))


def test_the_first_machine_of_a_hostfile_starts_the_others(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = train_alone()
    folder = project / "bin"
    folder.mkdir()
    (folder / "ssh").write_text(SSH)
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    Path("hosts").write_text("localhost slots=1\nsecond slots=1\n")
    run(with_train(hostfile="hosts", num_machines=2, num_processes=1))
    assert Path("ssh.log").read_text() == "started on second\n"
    assert_close(load_file(Layout.pixel / "delta.safetensors"), alone)


@pytest.mark.slow
def test_machines_meet_at_a_rendezvous(project: Path) -> None:
    alone = train_alone()
    with_train(rendezvous=f"localhost:{os.environ['MASTER_PORT']}", num_machines=2)
    lines = [[sys.executable, "-m", "l2p.cli", "train"] for _ in range(2)]
    machines = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for line in lines]
    told = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], told
    assert sorted("this machine's share" in text for text in told) == [False, True]
    assert_close(load_file(Layout.pixel / "delta.safetensors"), alone)
