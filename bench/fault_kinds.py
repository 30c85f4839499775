"""Owns the faults of the drill: each starts a stage, does its harm at a random moment, and tells what it did."""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import fault_servers
from bench.fault_processes import Command
from bench.fault_project import Project, clear

ANY, TRACKED = "any", ("train", "register")
LIMIT_S = 1800.0

_LOOK_EVERY_S = 0.05
_CLOCK_DAYS = 400


@dataclass(frozen=True)
class Hit:
    """What a fault did: `landed` is false when the stage had ended before the fault came."""

    landed: bool
    told: str


@dataclass(frozen=True)
class Kind:
    """One kind of fault: how often among a hundred, which stages it can hit, and the fault itself."""

    name: str
    share: int
    stages: tuple[str, ...]
    inject: Callable[[Project, str, random.Random], Hit]
    on_disk_of_its_own: bool = False


def kill_session(project: Project, stage: str, chance: random.Random) -> Hit:
    """SIGKILL to DVC and all that it started at once."""
    command = project.start(["repro", "--single-item", stage])
    when = await_moment(project, stage, command, chance)
    landed = command.runs
    command.kill_group()
    return Hit(landed, f"killed {when}")


def kill_stage(project: Project, stage: str, chance: random.Random) -> Hit:
    """SIGKILL to the innermost process alone; DVC sees its stage fail."""
    command = project.start(["repro", "--single-item", stage])
    when = await_moment(project, stage, command, chance)
    landed = command.kill_innermost()
    code = command.wait(LIMIT_S)
    return Hit(landed and code != 0, f"killed {when}; dvc ended with {code}")


def kill_dvc(project: Project, stage: str, chance: random.Random) -> Hit:
    """SIGKILL to DVC alone; the stage has lost its parent."""
    command = project.start(["repro", "--single-item", stage])
    when = await_moment(project, stage, command, chance)
    landed = command.runs
    command.kill_outermost()
    return Hit(landed, f"killed {when}")


def fill_disk(project: Project, stage: str, chance: random.Random) -> Hit:
    """Leave the file system a few bytes, and give the room back when the stage has ended."""
    command = project.start(["repro", "--single-item", stage])
    when = await_moment(project, stage, command, chance)
    room = chance.choice((0, 0, 4096, chance.randrange(1 << 16), chance.randrange(1 << 20)))
    ballast = project.root / ".git/ballast"
    with ballast.open("wb") as stream:
        free = shutil.disk_usage(project.root).free
        if free > room:
            os.posix_fallocate(stream.fileno(), 0, free - room)
    code = command.wait(LIMIT_S)
    ballast.unlink()
    return Hit(code != 0, f"{room} bytes left {when}; dvc ended with {code}")


def no_tracking(project: Project, stage: str, chance: random.Random) -> Hit:
    """The tracking server is away from the start; the address is corrected afterwards."""
    address = f"http://{fault_servers.HOST}:{fault_servers.free_port()}"
    before = (project.root / "params.yaml").read_bytes()
    project.change_params("register", tracking_uri=address)
    command = project.start(["repro", "--single-item", stage])
    code = command.wait(LIMIT_S)
    (project.root / "params.yaml").write_bytes(before)
    return Hit(code != 0, f"nobody at the tracking address; dvc ended with {code}")


def kill_tracking(project: Project, stage: str, chance: random.Random) -> Hit:
    """MLflow's server is killed while the stage works with it, and comes back before the next run."""
    folder = project.work / "tracking"
    clear(folder)
    server = fault_servers.mlflow_server(folder, project.environment)
    project.servers.append(server)
    server.start()
    project.change_params("register", tracking_uri=server.address)
    command = project.start(["repro", "--single-item", stage])
    when = await_moment(project, stage, command, chance)
    server.kill()
    landed = command.runs
    code = command.wait(LIMIT_S)
    server.start()
    return Hit(landed, f"server killed {when}; dvc ended with {code}")


def kill_prefect(project: Project, stage: str, chance: random.Random) -> Hit:
    """Prefect's server is killed while a flow runs, and comes back before the next run."""
    folder = project.work / "prefect"
    clear(folder)
    server = fault_servers.prefect_server(folder, project.environment)
    project.servers.append(server)
    server.start()
    command = start_flow(project, stage, PREFECT_API_URL=f"{server.address}/api", PREFECT_HOME=str(folder))
    when = await_moment(project, stage, command, chance)
    server.kill()
    landed = command.runs
    code = command.wait(60.0)  # without its server a flow may wait long; whoever runs it gives up
    ended = "killed after a minute" if code is None else f"ended with {code}"
    return Hit(landed, f"server killed {when}; the flow {ended}")


def two_repros(project: Project, stage: str, chance: random.Random) -> Hit:
    """Two `dvc repro` of the same stage at once."""
    first = project.start(["repro", "--single-item", stage])
    time.sleep(chance.uniform(0, project.seconds[stage]) if chance.random() < 0.5 else chance.uniform(0, 0.5))
    landed = first.runs
    second = project.start(["repro", "--single-item", stage])
    codes = first.wait(LIMIT_S), second.wait(LIMIT_S)
    return Hit(landed, f"they ended with {codes[0]} and {codes[1]}")


def two_flows(project: Project, stage: str, chance: random.Random) -> Hit:
    """Two flows on the same project at once."""
    homes = [project.work / f"home-{number}" for number in (1, 2)]
    for home in homes:
        clear(home)
    first = start_flow(project, stage, PREFECT_HOME=str(homes[0]))
    time.sleep(chance.uniform(0, 5.0))
    landed = first.runs
    second = start_flow(project, stage, PREFECT_HOME=str(homes[1]))
    codes = first.wait(LIMIT_S), second.wait(LIMIT_S)
    return Hit(landed, f"they ended with {codes[0]} and {codes[1]}")


def skew_clock(project: Project, stage: str, chance: random.Random) -> Hit:
    """Killed, and gone on with under a clock that is days off; killed once more at times."""
    first = kill_session(project, stage, chance)
    days = chance.uniform(-_CLOCK_DAYS, _CLOCK_DAYS / 10)
    command = project.start(["repro", "--single-item", stage], around=["faketime", "-f", f"{days:+.3f}d"])
    if chance.random() < 0.5:
        when = await_moment(project, stage, command, chance)
        command.kill_group()
        return Hit(first.landed, f"{first.told}, then under a clock {days:+.1f} days off killed {when}")
    code = command.wait(LIMIT_S)
    return Hit(first.landed, f"{first.told}, then under a clock {days:+.1f} days off dvc ended with {code}")


def start_flow(project: Project, stage: str, **variables: str) -> Command:
    """The conversion as a flow, up to `stage`."""
    return Command.start(
        [sys.executable, "-m", "flows.conversion", "--root", str(project.root), "--target", stage],
        folder=project.work,
        environment={**project.environment, **variables},
        log=project.work / "project.log",
    )


def await_moment(project: Project, stage: str, command: Command, chance: random.Random) -> str:
    """Wait for a random moment: of the whole run, or soon after the stage has begun to write; tells which."""
    started, expected = time.monotonic(), project.seconds[stage]
    if chance.random() < 0.5:
        sleep_while_running(command, chance.uniform(0, expected))
        return f"after {time.monotonic() - started:.1f} s of about {expected:.0f} s"
    before = newest(project)
    while command.runs and newest(project) <= before:
        time.sleep(_LOOK_EVERY_S)
    wait = chance.uniform(0, chance.choice((0.05, 0.5, 0.3 * expected)))
    sleep_while_running(command, wait)
    return f"{wait:.2f} s after its first write, {time.monotonic() - started:.1f} s of about {expected:.0f} s"


def sleep_while_running(command: Command, seconds: float) -> None:
    """Sleep, but not beyond the end of `command`."""
    end = time.monotonic() + seconds
    while command.runs and time.monotonic() < end:
        time.sleep(min(_LOOK_EVERY_S, max(0.0, end - time.monotonic())))


def newest(project: Project) -> int:
    """When the results were last changed, in nanoseconds; a file that has just gone does not count."""
    found = [0]
    for folder in ("data", "models", "reports", "mlruns"):
        for parent, _, names in os.walk(project.root / folder):
            for name in (".", *names):
                path = Path(parent, name)
                found.append(path.stat().st_mtime_ns if path.exists() else 0)
    return max(found)


def can_mount() -> bool:
    """Whether this user may mount a file system of its own to fill."""
    return os.geteuid() == 0 and shutil.which("mount") is not None


KINDS = (
    Kind("kill the session", 30, (ANY,), kill_session),
    Kind("kill the stage", 20, (ANY,), kill_stage),
    Kind("kill dvc alone", 12, (ANY,), kill_dvc),
    Kind("disk full", 14, (ANY,), fill_disk, on_disk_of_its_own=True),
    Kind("tracking away", 4, TRACKED, no_tracking),
    Kind("tracking killed", 4, TRACKED, kill_tracking),
    Kind("prefect killed", 3, ("synthesize", "train", "geneval@pixel"), kill_prefect),
    Kind("two repros", 5, ("synthesize", "train", "geneval@source", "register"), two_repros),
    Kind("two flows", 2, ("synthesize", "train"), two_flows),
    Kind("clock off", 6, ("synthesize", "train", "validate", "dpg@source", "register", "report"), skew_clock),
)
