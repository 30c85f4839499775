"""Owns the other machines of a training: DeepSpeed's hostfile, and starting and ending their part over ssh."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from l2p.errors import ConfigError, MissingFileError, TrainingError

NODE_RANK = "L2P_NODE_RANK"  # set on the machines that the first one starts
_LINE = re.compile(r"(?P<name>\S+)\s+slots=(?P<slots>\d+)")
_PASSED_ON = ("NCCL_", "GLOO_", "MASTER_PORT", "OMP_NUM_THREADS", "PYTHONPATH")  # beginnings of variables
_PATIENCE_S = 30
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Host:
    """One machine and how many processes it runs."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """Machines in their order; lines are `NAME slots=N`, `#` starts a comment.

    Raises:
        MissingFileError: no such file.
        ConfigError: a line is something else, names a machine twice, or there is none.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: not found. train.hostfile names it: one line `NAME slots=N` per machine.")
    hosts: list[Host] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        found = _LINE.fullmatch(text)
        if found is None or not int(found["slots"]):
            raise ConfigError(f"{path}:{number}: {text!r}: expected `NAME slots=N`, as `worker-1 slots=8`.")
        if found["name"] in {host.name for host in hosts}:
            raise ConfigError(f"{path}:{number}: {found['name']} is named twice. Give it one line with all its slots.")
        hosts.append(Host(found["name"], int(found["slots"])))
    if not hosts:
        raise ConfigError(f"{path}: names no machine. Write one line `NAME slots=N` per machine.")
    return hosts


def run_on(hosts: list[Host], command: list[str]) -> None:
    """Run `command` in this folder on every machine, on the first one here, with L2P_NODE_RANK; return when all end.

    Raises:
        TrainingError: one ended with an error; the others are stopped first.
        ConfigError: there is no ssh.
    """
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, host in enumerate(hosts):
            processes.append(_start(number, host, command))
        _wait(hosts, processes)
    finally:
        _stop(processes)


def _start(number: int, host: Host, command: list[str]) -> subprocess.Popen[bytes]:
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    variables[NODE_RANK] = str(number)
    line = command
    if number:
        words = ["env", *(f"{name}={value}" for name, value in sorted(variables.items())), *command]
        # a terminal of its own (-tt), so that the machine's part ends when this end of the line does
        options = ["-tt", "-o", "BatchMode=yes"]
        line = ["ssh", *options, host.name, f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(words)}"]
    try:
        return subprocess.Popen(
            line, env=os.environ | variables, stdin=subprocess.PIPE if number else None, start_new_session=True
        )
    except OSError as error:
        raise ConfigError(f"ssh cannot be started ({error}). Install it, or use train.rendezvous.") from error


def _wait(hosts: list[Host], processes: list[subprocess.Popen[bytes]]) -> None:
    while any(process.poll() is None for process in processes):
        _check(hosts, processes)
        time.sleep(_LOOK_EVERY_S)
    _check(hosts, processes)


def _check(hosts: list[Host], processes: list[subprocess.Popen[bytes]]) -> None:
    for host, process in zip(hosts, processes, strict=True):
        if code := process.poll():
            raise TrainingError(f"{host.name}: its part of the training ended with code {code}; see its lines above.")


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    for process in processes:
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
