"""Owns what must hold of a project whatever befell it; every breach is one violation, named and counted.

Right after a fault nothing may be half-written under its final name and no process may be left. After the next run to
the end, images, digests, weights, DVC's lock and the registry must be what they are without a fault.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from bench.fault_images import Violation
from l2p.config import Layout
from l2p.files import sha256_file
from l2p.quiet import quiet_third_parties

RESULTS = ("data", "models", "reports")
# The same machine promises the same bytes of these, interrupted or not.
PROMISED = (
    Layout.source,
    Layout.prompts,
    Layout.corpus,
    Layout.rejected,
    Layout.manifest,
    Layout.quarantine,
    Layout.embeddings,
    Layout.init,
    Layout.pixel,
)

_GROWING = (".jsonl", ".csv")  # a line at a time: a kill may tear the last
_PRELOAD = ["l2p.stages.register", "diffusers", "dvc.repo", "mlflow"]
_ALWAYS = "always changed"
_SHOWN = 300
_PNG_END = b"IEND\xaeB`\x82"  # Pillow does not miss it


def check_whole(root: Path, *, settled: bool) -> Iterator[Violation]:
    """No file under its final name is half-written; `settled`: nor is a torn last line or a leftover there."""
    for folder in RESULTS:
        for path in sorted((root / folder).rglob("*")):
            name = str(path.relative_to(root))
            if ".partial" in name:
                if settled and path.name.endswith(".partial"):
                    yield Violation("leftover", f"{name} is still there")
            elif path.is_file() and (fault := _unreadable(path, settled=settled)):
                yield Violation("half-written", f"{name}: {fault}")


def check_weights(root: Path) -> Iterator[Violation]:
    """The weights of each delta are those that its card names."""
    for delta in (Layout.init, Layout.pixel):
        card = root / delta / "delta.json"
        if card.is_file():
            wanted = json.loads(card.read_text(encoding="utf-8"))["weights_sha256"]
            if sha256_file(root / delta / "delta.safetensors") != wanted:
                yield Violation("digest", f"{delta}: its weights are not those of its card")


def check_promised(root: Path, undisturbed: Path) -> Iterator[Violation]:
    """What the pipeline promises to the bit is what the undisturbed run wrote."""
    for place in PROMISED:
        found, wanted = contents(root / place), contents(undisturbed / place)
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                state = "missing" if name not in found else "new" if name not in wanted else "other bytes"
                yield Violation("not as undisturbed", f"{place / name}: {state}")


def check_processes(left: list[str]) -> Iterator[Violation]:
    """Nothing of the project still runs."""
    yield from (Violation("orphan", command[:_SHOWN]) for command in left)


def check_lock(root: Path, settled: list[str]) -> Iterator[Violation]:
    """DVC finds nothing to do in the stages that have run since the fault."""
    for stage, told in in_child(_dvc_status, root):
        if stage in settled:
            yield Violation("lock", f"{stage}: {told}")


def check_registry(root: Path, *, complete: bool) -> Iterator[Violation]:
    """Every version has a lineage that holds, and none is there twice; `complete`: the model is registered."""
    for invariant, told in in_child(_registry_faults, root, complete):
        yield Violation(invariant, told)


def contents(place: Path) -> dict[str, str]:
    """Digest of every file of a folder, or of a file."""
    if place.is_file():
        return {".": sha256_file(place)}
    files = (path for path in place.rglob("*") if path.is_file())
    return {path.relative_to(place).as_posix(): sha256_file(path) for path in files}


def in_child(check: Callable[..., list[tuple[str, str]]], root: Path, *arguments: Any) -> list[tuple[str, str]]:
    """What `check` finds with `root` as working directory, in a process that knows no database from before."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(_PRELOAD)  # imported once, not for every check
    receiver, sender = server.Pipe(duplex=False)
    child = server.Process(target=_answer, args=(sender, check, root, arguments))
    child.start()
    sender.close()
    try:
        found: list[tuple[str, str]] = receiver.recv()
    except EOFError:
        found = [("check", f"{check.__name__} ended with {child.exitcode}")]
    child.join()
    return found


def _answer(sender: Any, check: Callable[..., list[tuple[str, str]]], root: Path, arguments: tuple[Any, ...]) -> None:
    try:
        os.chdir(root)
        quiet_third_parties()
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stderr(nowhere):  # progress bars
            found = check(*arguments)
        sender.send(found)
    except BaseException:
        sender.send([("check", traceback.format_exc()[-2000:])])


def _unreadable(path: Path, *, settled: bool) -> str | None:
    """Why a file cannot be read as what its name says, or None."""
    import pyarrow.parquet as parquet
    from safetensors import safe_open

    try:
        if path.suffix in (".json", ".yaml"):
            yaml.safe_load(path.read_bytes()) if path.suffix == ".yaml" else json.loads(path.read_bytes())
        elif path.suffix in _GROWING:
            _read_lines(path, settled=settled)
        elif path.suffix == ".parquet":
            parquet.read_table(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="numpy") as tensors:
                list(tensors.keys())
        elif path.suffix in (".png", ".webp"):
            with Image.open(path) as image:
                image.load()
            if path.suffix == ".png" and not path.read_bytes().endswith(_PNG_END):
                return "its end is missing"
    except Exception as error:  # whatever a reader raises, the file is not whole
        return f"{type(error).__name__} {error}"[:_SHOWN]
    return None


def _read_lines(path: Path, *, settled: bool) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not settled:
        del lines[-1]
    if path.suffix == ".jsonl":
        for line in lines:
            json.loads(line)
    elif lines and not lines[-1].endswith("\n"):
        raise ValueError("its last line is torn")


def _dvc_status() -> list[tuple[str, str]]:
    from dvc.repo import Repo

    with Repo(".") as repo:
        status = repo.status()
    return [(stage, str(changes)[:_SHOWN]) for stage, changes in status.items() if _ALWAYS not in changes]


def _registry_faults(complete: bool) -> list[tuple[str, str]]:
    from l2p.config import load_params
    from l2p.registry.links import State
    from l2p.registry.versions import CANDIDATE, ROOT_TAG, WEIGHTS_TAG, ModelRegistry
    from l2p.stages import register

    params = load_params()
    versions = ModelRegistry(params.register_.tracking_uri).all(params.register_.name)
    found = []
    for version in versions:
        for link in register.verify(params, f"{version.name}/{version.version}"):
            if link.state is not State.HOLDS:
                found.append(("lineage", f"{version}: {link.name} {link.state}: {link.told}"[:_SHOWN]))
    same = Counter((version.tags.get(WEIGHTS_TAG), version.tags.get(ROOT_TAG)) for version in versions)
    found += [("registered twice", f"{count} versions of the same model") for count in same.values() if count > 1]
    if complete and not any(CANDIDATE in version.aliases for version in versions):
        found.append(("lineage", "the pipeline ran to its end and no version is the candidate"))
    return found
