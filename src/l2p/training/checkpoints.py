"""Owns resumable checkpoints: one folder per tag, whole or not there at all, the last two kept, damage noticed.

A tag holds weights and optimizer states of the trained parameters, whole and by name, as safetensors of every process
(docs/decisions/0008-checkpoints-by-name.md), state.json, and files.json (the SHA-256 of the others). So another number
of processes or another ZeRO stage can go on from it. A killed training leaves at most a `*.partial` folder, which the
next one removes.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from l2p.errors import DataError, MissingFileError, TrainingError
from l2p.files import atomic_path, read_json, sha256_file, write_json
from l2p.training.engine import Engine
from l2p.training.optimizer import AVERAGE
from l2p.training.state import Progress, first_difference
from l2p.training.zero import WEIGHT

log = logging.getLogger(__name__)

KEPT_TAGS = 2
STATE, DIGESTS, LATEST = "state.json", "files.json", "latest"
BEST = "best"
_PREFIX, _PARTIAL = "step-", ".partial"
_FILE_BYTES = 1 << 30  # a process holds this much in memory while it writes
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Best:
    """The step whose averaged weights had the best value of a metric."""

    metric: str
    value: float
    step: int


class Checkpoints:
    """The checkpoints of one training in one folder."""

    def __init__(self, folder: Path, engine: Engine, *, fingerprint: dict[str, Any]) -> None:
        """`fingerprint` is what the weights depend on; checkpoints made for another one are discarded."""
        self._folder, self._engine, self._fingerprint = folder, engine, fingerprint

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and remove all but the last two; every process must call it.

        Raises:
            TrainingError: it cannot be written, for example because the disk is full; the ones before are as they were.
        """
        state = {"progress": asdict(progress), "fingerprint": self._fingerprint}
        self._write(f"{_PREFIX}{progress.step:06d}", self._engine.shards.kinds, state)
        if self._engine.rank == 0:
            with atomic_path(self._folder / LATEST) as path:
                path.write_text(f"{_PREFIX}{progress.step:06d}", encoding="utf-8")
            for tag in self._tags()[KEPT_TAGS:]:
                shutil.rmtree(self._folder / tag)
        self._engine.wait_for_all()

    def save_best(self, best: Best) -> None:
        """Keep the averaged weights of now as the best so far; every process must call it."""
        kinds = self._engine.shards.kinds
        self._write(BEST, (AVERAGE if AVERAGE in kinds else WEIGHT,), {"best": asdict(best)})

    def best(self, metric: str) -> Best | None:
        """The best so far by `metric`, if there is one and it is undamaged."""
        return self._engine.agree(self._read_best(metric) if self._engine.rank == 0 else None)

    def resume(self) -> Progress:
        """Load the newest undamaged checkpoint of this training; returns where it stood.

        Raises:
            TrainingError: there are checkpoints, but all of them are damaged.
        """
        tag = self._engine.agree(self._choose() if self._engine.rank == 0 else None)
        if tag is None:
            return Progress()
        self._read(tag, self._engine.shards.kinds)
        progress = Progress(**read_json(self._folder / tag / STATE, written_by="l2p train")["progress"])
        self._engine.shards.steps_taken = progress.step
        return progress

    def load_best(self) -> None:
        """Give the model the best averaged weights, in place of what it has; the training ends with it."""
        shards = self._engine.shards
        kind = AVERAGE if AVERAGE in shards.kinds else WEIGHT
        self._read(BEST, (kind,))

    def _write(self, tag: str, kinds: tuple[str, ...], state: dict[str, Any]) -> None:
        """Each process writes its share of the parameters; the folder appears when all are there."""
        engine, partial = self._engine, self._folder / (tag + _PARTIAL)
        if engine.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        engine.wait_for_all()
        problem, digests = None, {}
        for number, tensors in enumerate(self._mine(kinds)):
            path = partial / f"rank{engine.rank:03d}-{number:03d}.safetensors"
            try:
                if problem is None:
                    save_file(tensors, path)
                    digests[path.name] = sha256_file(path)
            except (OSError, SafetensorError) as error:
                problem = f"{path}: cannot be written ({' '.join(str(error).split())})"
        reports = engine.gather((problem, digests))
        problems = [found for found, _ in reports if found]
        if engine.rank == 0 and not problems:
            try:
                write_json(partial / STATE, state)
                everything = {name: digest for _, found in reports for name, digest in found.items()}
                write_json(partial / DIGESTS, everything | {STATE: sha256_file(partial / STATE)})
                _replace(partial, self._folder / tag)
            except OSError as error:
                problems = [f"{partial}: cannot be written ({error})"]
        problems = engine.agree(problems)
        if problems:
            if engine.rank == 0:
                shutil.rmtree(partial, ignore_errors=True)
            raise TrainingError(
                f"{problems[0]}. Free space and run `l2p train` again; older checkpoints are as they were."
            )

    def _mine(self, kinds: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
        """This process's share of what is stored, in portions that fit into memory; every process reads all."""
        engine, portion, size = self._engine, {}, 0
        for index, name in enumerate(engine.shards.names):
            for kind in kinds:
                tensor = engine.shards.read(name, kind)
                if index % engine.world_size == engine.rank:
                    portion[f"{kind}/{name}"] = tensor.detach().cpu().contiguous().clone()
                    size += tensor.numel() * _FLOAT32_BYTES
            if size >= _FILE_BYTES:
                yield portion
                portion, size = {}, 0
        if portion:
            yield portion

    def _read(self, tag: str, kinds: tuple[str, ...]) -> None:
        """Put the tensors of a tag into the optimizer and the model."""
        shards, folder = self._engine.shards, self._folder / tag
        files = [safe_open(path, framework="pt") for path in sorted(folder.glob("rank*.safetensors"))]
        where = {key: file for file in files for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        for name in shards.names:
            for kind in kinds:
                shards.write(name, kind, where[f"{kind}/{name}"].get_tensor(f"{kind}/{name}"))
        shards.update_model()

    def _read_best(self, metric: str) -> Best | None:
        folder = self._folder / BEST
        if not folder.is_dir():
            return None
        if damage := _damage(folder):
            log.warning("%s: damaged (%s); the best is looked for anew.", folder, damage)
            return None
        best = Best(**read_json(folder / STATE, written_by="l2p train")["best"])
        return best if best.metric == metric else None

    def _choose(self) -> str | None:
        for leftover in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        tags = self._tags()
        if not tags:  # the best of a training that is not here any more
            shutil.rmtree(self._folder / BEST, ignore_errors=True)
        damages = []
        for tag in tags:
            damage = _damage(self._folder / tag)
            if damage is None:
                return None if self._discard_foreign(tag) else tag
            damages.append(damage)
            log.warning("%s: damaged checkpoint (%s); using an older one.", self._folder / tag, damage)
        if tags:
            raise TrainingError(
                f"{self._folder}: every checkpoint is damaged ({damages[0]}). Delete the folder to train anew."
            )
        return None

    def _discard_foreign(self, tag: str) -> bool:
        """Remove all checkpoints if the one at `tag` was made for something else."""
        made_for = read_json(self._folder / tag / STATE, written_by="l2p train")["fingerprint"]
        difference = first_difference(made_for, self._fingerprint)
        if difference is None:
            return False
        log.warning("%s: checkpoints discarded, because %s. Training from the start.", self._folder, difference)
        shutil.rmtree(self._folder)
        return True

    def _tags(self) -> list[str]:
        """Newest first."""
        tags = [path.name for path in self._folder.glob(f"{_PREFIX}*") if path.is_dir() and path.suffix != _PARTIAL]
        return sorted(tags, key=lambda tag: int(tag.removeprefix(_PREFIX)), reverse=True)


def _replace(partial: Path, final: Path) -> None:
    if final.exists():  # a damaged one that was passed over, or an older best
        shutil.rmtree(final)
    os.replace(partial, final)


def _damage(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, or None."""
    try:
        digests = read_json(folder / DIGESTS, written_by="l2p train")
    except (MissingFileError, DataError):
        return f"{DIGESTS} is missing or damaged"
    for name, digest in digests.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != digest:
            return f"{name} has other bytes than were written"
        if name.endswith(".safetensors") and not _is_safetensors(folder / name):
            return f"{name} is no safetensors file"
    return None


def _is_safetensors(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt"):
            return True
    except SafetensorError:
        return False
