"""Disturb a small conversion again and again, let it run to its end, and count what is not as it must be.

    python -m bench.faults                                  # 100 faults; hours on a busy core, an hour on a free one
    python -m bench.faults --count 10 --kinds "disk full"   # ten of one kind
    python -m bench.faults --work DIR                       # go on where an earlier drill in DIR ended

The embedded source is converted once without disturbance. Then each fault hits one stage at a random moment: a kill of
the whole session, of the stage or of DVC alone, a full disk, a tracking or Prefect server that goes away, two runs at
once, a clock that is off. The pipeline is run again, and every invariant of bench.fault_invariants is checked. Results
are written after each fault. Exit code 1 if anything was violated.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench import fault_invariants as invariants
from bench.fault_images import Violation, check_images
from bench.fault_kinds import ANY, KINDS, LIMIT_S, Hit, Kind, can_mount
from bench.fault_processes import command_line, environment, running, wait_until
from bench.fault_project import REGISTER, Project, mount, unmount
from l2p.errors import ConfigError, L2PError
from l2p.files import read_json, write_json

GRACE_S = 30.0  # in which what a killed process started has to be gone
FINISHED_SHARE = 0.35  # of the faults after which the pipeline runs to its end, not only to the stage that was hit

_RESULTS = "results.json"
_SHOWN = 8  # violations of one fault; the file has all
_TRIES = 3  # to hit a stage before it ends


def main() -> int:
    """Run the drill and print its table."""
    names = [kind.name for kind in KINDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="faults")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, stages and moments")
    parser.add_argument("--kinds", nargs="+", default=names, choices=names, metavar="KIND", help=f"of: {names}")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="hit only these")
    parser.add_argument("--work", type=Path, help="folder of the drill, kept; default: a temporary one")
    arguments = parser.parse_args()
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and mounts are taken down on the way out
    try:
        with workplace(arguments.work) as work:
            return drill(work, arguments)
    except L2PError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


@contextmanager
def workplace(wanted: Path | None) -> Iterator[Path]:
    """The folder of the drill."""
    if wanted is not None:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def drill(work: Path, arguments: argparse.Namespace) -> int:
    """Every fault of the plan that `work` does not know yet; the exit code."""
    project = Project(work, environment(str(work), DVC_SITE_CACHE_DIR=str(work / "site"), HF_HUB_OFFLINE="1"))
    project.build()
    plan = make_plan(arguments.count, arguments.seed, arguments.kinds, arguments.stages or project.stages)
    results = known_results(work / _RESULTS, plan)
    for number, (kind, stage) in enumerate(plan[len(results) :], start=len(results)):
        chance = random.Random(f"{arguments.seed}/{number}")
        result = {"number": number, "kind": kind.name, "stage": stage} | disturb(project, kind, stage, chance)
        results.append(result)
        write_json(work / _RESULTS, results)
        print(line_of(result), flush=True)
    print("\n".join(table(results)))
    return 1 if any(result["violations"] for result in results) else 0


def make_plan(count: int, seed: int, kinds: Iterable[str], stages: list[str]) -> list[tuple[Kind, str]]:
    """Kinds by their shares, stages in turn within a kind, in a random order.

    Raises:
        ConfigError: a kind that was asked for cannot be done here or hits none of the stages.
    """
    chosen = [kind for kind in KINDS if kind.name in set(kinds)]
    chance = random.Random(seed)
    total, plan = sum(kind.share for kind in chosen), []
    for kind in chosen:
        if reason := missing(kind):
            raise ConfigError(f"--kinds: {kind.name!r} needs {reason}. Name the other kinds with --kinds.")
        able = [stage for stage in stages if ANY in kind.stages or stage in kind.stages]
        if not able:
            continue
        chance.shuffle(able)
        amount = max(1, -(-count * kind.share // total))
        plan += [(kind, able[turn % len(able)]) for turn in range(amount)]
    if not plan:
        raise ConfigError(f"--stages: none of {stages} can be hit by the kinds {[kind.name for kind in chosen]}.")
    chance.shuffle(plan)
    return plan[:count]


def missing(kind: Kind) -> str | None:
    """What this machine lacks for a kind of fault."""
    if kind.on_disk_of_its_own and not can_mount():
        return "root, which mounts the file system that is filled"
    if kind.name == "clock off" and shutil.which("faketime") is None:
        return "the program faketime (Debian: `apt-get install faketime`)"
    return None


def known_results(path: Path, plan: list[tuple[Kind, str]]) -> list[dict[str, Any]]:
    """Results of an earlier drill of the same plan.

    Raises:
        ConfigError: they are of another plan.
    """
    if not path.is_file():
        return []
    results: list[dict[str, Any]] = read_json(path, written_by="python -m bench.faults")
    done = [(result["kind"], result["stage"]) for result in results]
    if done != [(kind.name, stage) for kind, stage in plan[: len(done)]]:
        raise ConfigError(f"{path}: results of another plan. Use the same --count, --seed and --kinds, or delete it.")
    return results


def disturb(project: Project, kind: Kind, stage: str, chance: random.Random) -> dict[str, Any]:
    """One fault, the run after it, and what was violated."""
    started = time.monotonic()
    if kind.on_disk_of_its_own:
        mount(project.root)
    try:
        hit = strike(project, kind, stage, chance)
        violations = [*after_fault(project), *recover(project, stage, chance)]
    finally:
        project.close()
        if kind.on_disk_of_its_own:
            unmount(project.root)
    return {
        "landed": hit.landed,
        "told": hit.told,
        "violations": [[violation.invariant, violation.told] for violation in violations],
        "seconds": round(time.monotonic() - started, 1),
    }


def strike(project: Project, kind: Kind, stage: str, chance: random.Random) -> Hit:
    """Lay the project out and disturb it; again if the stage was quicker than the fault."""
    hit = Hit(landed=False, told="")
    for _ in range(_TRIES):
        project.lay_out(stage, registered=chance.random() < 0.7)
        hit = kind.inject(project, stage, chance)
        if hit.landed:
            break
        project.close()
    return hit


def after_fault(project: Project) -> Iterator[Violation]:
    """What must hold at once: nothing half-written under its name, and soon nobody left."""
    mark, serving = str(project.work), project.serving()
    left = lambda: [process for process in running(mark, project.root) if process.pid not in serving]  # noqa: E731
    wait_until(lambda: not left(), seconds=GRACE_S)
    orphans = left()
    yield from invariants.check_processes([command_line(process) for process in orphans])
    for process in orphans:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    yield from invariants.check_whole(project.root, settled=False)


def recover(project: Project, stage: str, chance: random.Random) -> Iterator[Violation]:
    """Run the pipeline again, to its end or to the stage that was hit, and check everything."""
    complete = stage == REGISTER or chance.random() < FINISHED_SHARE
    started = time.monotonic()
    command = project.start(["repro"] if complete else ["repro", stage])
    code = command.wait(LIMIT_S)
    if code != 0:
        yield Violation("no recovery", f"the run after the fault ended with {code}: {command.tail()}")
        return
    if not complete:
        project.seconds[stage] = 0.5 * (project.seconds[stage] + time.monotonic() - started)
    settled = [name for name in project.stages if complete or name == stage]
    yield from invariants.check_whole(project.root, settled=True)
    yield from check_images(project.root, project.images())
    yield from invariants.check_weights(project.root)
    yield from invariants.check_promised(project.root, project.finished)
    yield from invariants.check_lock(project.root, settled)
    yield from invariants.check_registry(project.root, complete=complete)


def table(results: list[dict[str, Any]]) -> list[str]:
    """Kinds of faults down, stages across: faults, and violations where there are any."""
    stages = sorted({result["stage"] for result in results})
    lines = [f"{'fault':<18}{'injected':>10}{'hit':>6}{'recovered':>11}{'violations':>12}  stages"]
    for kind in [kind.name for kind in KINDS] + ["all"]:
        of_kind = [result for result in results if kind in (result["kind"], "all")]
        if of_kind:
            hits = Counter(result["stage"] for result in of_kind)
            where = ", ".join(f"{stage} {hits[stage]}" for stage in stages if hits[stage])
            recovered = sum(all(name != "no recovery" for name, _ in result["violations"]) for result in of_kind)
            counts = len(of_kind), sum(result["landed"] for result in of_kind), recovered
            broken = sum(len(result["violations"]) for result in of_kind)
            lines.append(f"{kind:<18}{counts[0]:>10}{counts[1]:>6}{counts[2]:>11}{broken:>12}  {where}")
    broken_by = Counter(name for result in results for name, _ in result["violations"])
    return lines + [f"violated: {name} {count} times" for name, count in broken_by.most_common()]


def line_of(result: dict[str, Any]) -> str:
    """One fault in a line, and its violations below."""
    state = "ok" if not result["violations"] else f"{len(result['violations'])} VIOLATIONS"
    missed = "" if result["landed"] else " (missed)"
    head = f"{result['number'] + 1:>4} {result['kind']:<17}{result['stage']:<15} {state}{missed}, "
    head += f"{result['seconds']:.0f} s: {result['told']}"
    told = [f"       {name}: {text}" for name, text in result["violations"]]
    more = [f"       and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
    return "\n".join([head, *told[:_SHOWN], *more])


if __name__ == "__main__":
    sys.exit(main())
