"""Owns resumable checkpoints: one folder per tag, whole or not there at all, the last two kept, damage noticed.

A tag holds DeepSpeed's files, ema.safetensors, state.json and files.json (the SHA-256 of the others). A killed training
leaves at most a `*.partial` folder, which the next one removes.
"""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from l2p.errors import DataError, MissingFileError, TrainingError
from l2p.files import atomic_path, read_json, sha256_file, write_json
from l2p.training.engine import Engine
from l2p.training.state import Ema, Progress, first_difference

log = logging.getLogger(__name__)

KEPT_TAGS = 2
STATE, DIGESTS, AVERAGES, LATEST = "state.json", "files.json", "ema.safetensors", "latest"
_PREFIX, _PARTIAL = "step-", ".partial"
_SCRIPTS = "zero_to_*.py"  # DeepSpeed leaves converters behind that drop frozen parameters without a word


class Checkpoints:
    """The checkpoints of one training in one folder."""

    def __init__(self, folder: Path, engine: Engine, *, fingerprint: dict[str, Any]) -> None:
        """`fingerprint` is what the weights depend on; checkpoints made for another one are discarded."""
        self._folder, self._engine, self._fingerprint = folder, engine, fingerprint

    def save(self, progress: Progress, ema: Ema | None) -> None:
        """Write a checkpoint and remove all but the last two; every process must call it, rank 0 with the averages."""
        tag = f"{_PREFIX}{progress.step:06d}"
        partial = self._folder / (tag + _PARTIAL)
        if self._engine.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self._engine.save(self._folder, partial.name)
        if ema is not None:
            ema.save(partial / AVERAGES)
            write_json(partial / STATE, {"progress": asdict(progress), "fingerprint": self._fingerprint})
            names = sorted(path.name for path in partial.iterdir())
            write_json(partial / DIGESTS, {name: sha256_file(partial / name) for name in names})
            self._publish(partial, self._folder / tag)
        self._engine.wait_for_all()

    def resume(self, ema: Ema | None) -> Progress:
        """Load the newest undamaged checkpoint of this training into engine and averages; returns where it stood.

        Raises:
            TrainingError: there are checkpoints, but all of them are damaged.
        """
        tag = self._engine.agree(self._choose() if self._engine.rank == 0 else None)
        if tag is None:
            return Progress()
        self._engine.load(self._folder, tag)
        if ema is not None:
            ema.load(self._folder / tag / AVERAGES)
        state = read_json(self._folder / tag / STATE, written_by="l2p train")
        return Progress(**state["progress"])

    def _choose(self) -> str | None:
        for leftover in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        tags = self._tags()
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

    def _publish(self, partial: Path, final: Path) -> None:
        if final.exists():  # a damaged one that was passed over
            shutil.rmtree(final)
        os.replace(partial, final)
        with atomic_path(self._folder / LATEST) as path:
            path.write_text(final.name, encoding="utf-8")
        for tag in self._tags()[KEPT_TAGS:]:
            shutil.rmtree(self._folder / tag)
        for script in self._folder.glob(_SCRIPTS):
            script.unlink()

    def _tags(self) -> list[str]:
        """Newest first."""
        tags = [path.name for path in self._folder.glob(f"{_PREFIX}*") if path.is_dir() and path.suffix != _PARTIAL]
        return sorted(tags, key=lambda tag: int(tag.removeprefix(_PREFIX)), reverse=True)


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
    return None
