"""Owns a run of the synthesis: what is kept, what is drawn, and what is drawn again because a check refused it.

Whatever interrupts it, the next run ends with the bytes of one that was never interrupted: batches follow from what is
still to be drawn, an image that was damaged is drawn again in its old batch, and rejections are remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from l2p.config import SynthesizeParams
from l2p.data.journal import (
    IDENTITY,
    JOURNAL,
    Journal,
    Key,
    Row,
    add_to_journal,
    key_of,
    read_journal,
    write_journal,
)
from l2p.data.synthesis.crew import Crew
from l2p.data.synthesis.engines import make_crew
from l2p.data.synthesis.painter import SourceSettings, stored_embeddings
from l2p.data.synthesis.planning import Batch, form_batches, plan_images, with_attempt
from l2p.data.synthesis.records import corpus_table, record
from l2p.data.synthesis.rejection import Rejections, delete_all_but
from l2p.data.synthesis.room import room_on_disk
from l2p.data.synthesis.worker import Job
from l2p.errors import DataError
from l2p.files import atomic_path, sha256_file
from l2p.models.source import SourcePin

TABLE = "metadata.parquet"
_HASH_THREADS = 2
_TEXT_CHARACTERS = 60

Check = Callable[[pd.DataFrame, Path], dict[str, list[str]]]


@dataclass(frozen=True)
class Places:
    """Folders of a synthesis: images and their table, prompt embeddings, rejected images and their table."""

    corpus: Path
    embeddings: Path
    rejected: Path


@dataclass(frozen=True)
class Synthesis:
    """What a run did: images drawn, kept from before, and drawn again after a check; `rejected` is of all runs."""

    drawn: int
    kept: int
    redrawn: int = 0
    rejected: int = 0


def synthesize(
    prompts: pd.DataFrame,
    params: SynthesizeParams,
    *,
    pin: SourcePin,
    places: Places,
    check: Check | None = None,
    check_settings: Mapping[str, Any] | None = None,
) -> Synthesis:
    """Draw every planned image that is not there yet and write the corpus table.

    Args:
        prompts: columns prompt_id, text, style.
        params: how the source draws.
        pin: the source; verified before the first image is drawn.
        places: folders. Whatever does not belong to this corpus is deleted from that of the images and the rejected.
        check: names the images of a corpus table and its folder that should be drawn again, with reasons.
        check_settings: what the check's answers depend on; when it changes, all images are at their first attempt.

    Raises:
        SourceError: the source differs from its pin.
        DataError: an id that could not be a file name, embeddings of other prompts, images that are not finite, no
            worker left, or a full disk. What was drawn is kept.
    """
    settings = {"max_redraws": params.max_redraws, **((check_settings or {}) if check else {})}
    run = _Run(prompts, params, pin, places)
    with room_on_disk(places.corpus, run.progress), run.crew() as crew:
        run.resume(settings)
        kept = run.count_drawn()
        drawn = run.draw(crew, "drawing")
        redrawn = 0
        while again := run.faults(check):
            run.reject(again)
            redrawn += run.draw(crew, "redrawing")
        run.require_finite()
        run.finish()
    return Synthesis(drawn, kept, redrawn, run.num_rejected)


class _Run:
    """One run over a plan: the journal so far, and what is whole."""

    def __init__(self, prompts: pd.DataFrame, params: SynthesizeParams, pin: SourcePin, places: Places) -> None:
        self._params, self._pin, self._places = params, pin, places
        self._first = plan_images(prompts, params, pin.digest)
        self._texts: dict[str, str] = dict(zip(prompts["prompt_id"], prompts["text"], strict=True))
        self._rejections = Rejections(places.rejected, places.corpus)
        self._journal: Journal = {}
        self._whole: set[Key] = set()

    @property
    def num_rejected(self) -> int:
        """Rejected attempts, those of earlier runs included."""
        return len(self._rejections)

    def plan(self) -> list[Row]:
        """Every image at the attempt it is at."""
        return [
            with_attempt(row, attempt, self._params.seed) if (attempt := self._rejections.attempt(name)) else row
            for row in self._first
            for name in [row["file_name"]]
        ]

    def progress(self) -> tuple[int, int]:
        """Images that are drawn, and all."""
        return self.count_drawn(), len(self._first)

    def count_drawn(self) -> int:
        """Images that are drawn."""
        return sum(key_of(row) in self._whole for row in self.plan())

    def resume(self, check: Mapping[str, Any]) -> None:
        """Take over what is whole and drawn as planned; delete everything else."""
        corpus = self._places.corpus
        corpus.mkdir(parents=True, exist_ok=True)
        self._rejections.resume(self._first, self._params.seed, check)
        self._journal = read_journal(corpus)
        plan = self.plan()
        candidates = [row for row in plan if self._drawn_as_planned(row)]
        with ThreadPoolExecutor(_HASH_THREADS) as pool:
            whole = pool.map(self._is_whole, candidates)
            watched = tqdm(whole, total=len(candidates), desc="checking images", unit="image", disable=None)
            self._whole = {key_of(row) for row, intact in zip(candidates, watched, strict=True) if intact}
        write_journal(corpus, self._journal, [*map(key_of, candidates), *self._rejected_keys()])
        delete_all_but(corpus, {JOURNAL, *(name for name, _ in self._whole)})

    def draw(self, crew: Crew, title: str) -> int:
        """Draw what is not there; returns how many images that were."""
        pending = [row for row in self.plan() if key_of(row) not in self._whole]
        if not pending:
            return 0
        stored_embeddings(self._places.embeddings, self._pin, self._params.precision, self._texts)
        allowed = self._params.max_failed_share * len(self._first)
        failed = 0
        total, done = len(self._first), len(self._first) - len(pending)
        with tqdm(total=total, initial=done, desc=title, unit="image", disable=None) as progress:
            for drawn in crew.draw(self._batches(pending)):
                add_to_journal(self._journal, drawn)
                self._whole |= {(name, drawn.row(name)["attempt"]) for name in drawn.sha256}
                failed += len(drawn.faults)
                if drawn.faults and failed > allowed:
                    raise DataError(self._not_finite([drawn.row(name) for name in drawn.faults], failed))
                progress.update(len(drawn.sha256))
        return len(pending)

    def faults(self, check: Check | None) -> dict[str, list[str]]:
        """Images that are to be drawn again, with reasons: those that may still be."""
        plan, most = self.plan(), self._params.max_redraws
        if not most:
            return {}
        found = {row["file_name"]: [fault] for row in plan if (fault := self._fault(row))}
        if check is not None:
            for name, reasons in check(self._table(plan), self._places.corpus).items():
                found.setdefault(name, []).extend(reasons)
        left = {row["file_name"] for row in plan if row["attempt"] < most}
        return {name: reasons for name, reasons in found.items() if name in left}

    def reject(self, faults: Mapping[str, Sequence[str]]) -> None:
        """Keep these images among the rejected; they are then at their next attempt."""
        rows = [row for row in self.plan() if row["file_name"] in faults]
        self._rejections.add([record(row, self._journal) for row in rows], faults)

    def require_finite(self) -> None:
        """Refuse a corpus in which an image is no picture after its last attempt."""
        failed = [row for row in self.plan() if self._fault(row)]
        if failed:
            raise DataError(self._not_finite(failed, len(failed)))

    def finish(self) -> None:
        """Write table and journal, in the order of the plan, and delete what is left over."""
        corpus, plan = self._places.corpus, self.plan()
        write_journal(corpus, self._journal, [*map(key_of, plan), *self._rejected_keys()])
        with atomic_path(corpus / TABLE) as partial:
            self._table(plan).to_parquet(partial, index=False)
        delete_all_but(corpus, {JOURNAL, TABLE, *(row["file_name"] for row in plan)})

    def crew(self) -> Crew:
        """Who draws, as the parameters say; nobody is started yet."""
        params, places = self._params, self._places
        source = SourceSettings(self._pin, params.precision, params.shift, params.compile)
        job = Job(source, places.corpus.absolute(), places.embeddings.absolute(), params.threads)
        return make_crew(job, params)

    def _batches(self, pending: Sequence[Row]) -> list[Batch]:
        """Old batches of images that were damaged since, then new ones."""
        old: dict[str, tuple[tuple[Row, ...], set[str]]] = {}
        new = []
        for row in pending:
            drawn = self._journal.get(key_of(row))
            if drawn is not None and self._drawn_as_planned(row) and self._has_embeddings(drawn.rows):
                old.setdefault(drawn.batch, (drawn.rows, set()))[1].add(row["file_name"])
            else:
                new.append(row)
        repaired = [Batch(rows, frozenset(names)) for rows, names in old.values()]
        return [*repaired, *form_batches(new, self._params.batch_size)]

    def _table(self, plan: Iterable[Row]) -> pd.DataFrame:
        return corpus_table(record(row, self._journal) for row in plan)

    def _drawn_as_planned(self, row: Row) -> bool:
        drawn = self._journal.get(key_of(row))
        if drawn is None:
            return False
        found = drawn.row(row["file_name"])
        return all(found[name] == row[name] for name in IDENTITY)

    def _has_embeddings(self, rows: Iterable[Row]) -> bool:
        return all(self._texts.get(row["prompt_id"]) == row["text"] for row in rows)

    def _is_whole(self, row: Row) -> bool:
        """Whether the file is there as it was drawn; what was no picture is tried once more in each run."""
        name = row["file_name"]
        if self._fault(row):
            return False
        path = self._places.corpus / name
        return path.is_file() and sha256_file(path) == self._journal[key_of(row)].sha256[name]

    def _fault(self, row: Row) -> str | None:
        return self._journal[key_of(row)].faults.get(row["file_name"])

    def _rejected_keys(self) -> list[Key]:
        return [key for key in self._rejections.attempts() if key in self._journal]

    def _not_finite(self, rows: Sequence[Row], count: int) -> str:
        row = rows[0]
        more = f"; so are {count - 1} others" if count > 1 else ""
        return (
            f"prompt {row['prompt_id']} ({row['text'][:_TEXT_CHARACTERS]!r}), seed {row['seed']}, attempt "
            f"{row['attempt'] + 1} of {self._params.max_redraws + 1}: the source put out values that are not finite"
            f"{more}. Set synthesize.dtype to float32, or let more fresh seeds be tried (synthesize.max_redraws)."
        )
