"""Owns the prompt set: drawing it from the provider that params.yaml names, its table, and what was left out of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from l2p.config import PromptsParams
from l2p.data.prompting.candidates import (
    COLUMNS,
    Candidate,
    prompt_id,
    prompt_table,
    rejected_table,
    require_plain_ids,
)
from l2p.data.prompting.card import describe_table, draw_card
from l2p.data.prompting.drawing import fill, grammar_stream, sample, world_stream
from l2p.data.prompting.files import read_candidates
from l2p.data.prompting.quality import BLANK, DUPLICATE, Gate
from l2p.errors import DataError, MissingFileError
from l2p.files import atomic_path, write_json

REPORT, REJECTED, CARD = "report.json", "rejected.parquet", "card.png"  # beside the table

__all__ = ["COLUMNS", "PromptSet", "draw_prompts", "prompt_id", "read_prompts", "write_prompts"]


@dataclass(frozen=True)
class PromptSet:
    """Unique prompts (columns prompt_id, text, style, for a taxonomy main_class, fine_class) and what was left out.

    `rejected` has the columns origin, text, style, reason, detail; `num_available` is how many of a file's prompts
    passed; `facts` are further entries of the report.
    """

    table: pd.DataFrame
    rejected: pd.DataFrame
    num_available: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """The prompt-set card: counts by class and length, digest, rejections by reason, and how it was made."""
        reasons = Counter(self.rejected["reason"])
        return {
            **describe_table(self.table),
            "available": self.num_available,
            "blank_lines_removed": reasons[BLANK],
            "duplicates_removed": reasons[DUPLICATE],
            "rejected": {"count": len(self.rejected), "by_reason": dict(reasons.most_common())},
            **self.facts,
        }


def draw_prompts(params: PromptsParams) -> PromptSet:
    """The prompt set that `params` describes; the same for equal parameters and files.

    With a language model it is the same while its answers are kept (`prompts.llm.cache`).

    Raises:
        MissingFileError: a file that the parameters name is not there.
        ConfigError: a parameter, or a file of the taxonomy, makes no sense.
        DataError: an unreadable file, an id that cannot be used, an endpoint that does not answer, or fewer accepted
            prompts than `count`.
    """
    facts: dict[str, Any] = {}
    available = None
    if params.provider == "file":
        path = Path(str(params.path))
        found = read_candidates(path, text_column=params.text_column, id_column=params.id_column, split=params.split)
        gate, accepted, available = sample(params, found, str(path))
    elif params.provider == "taxonomy" and params.taxonomy.expand == "llm":
        from l2p.data.prompting.expansion import expand

        gate = Gate(params.quality, params.count)
        accepted, facts["expansion"] = expand(params, gate)
    else:
        gate = Gate(params.quality, params.count)
        accepted = fill(gate, _stream(params), params.count)
    facts |= {"provider": params.provider, "contamination": gate.contamination()}
    facts["quality"] = params.quality.model_dump(mode="json", exclude={"contamination", "blocklist"})
    return PromptSet(prompt_table(accepted), rejected_table(gate.rejections), available, facts)


def write_prompts(prompts: PromptSet, table: Path) -> None:
    """Write the table as parquet, and beside it rejected.parquet, report.json and card.png, each atomically."""
    for frame, path in ((prompts.rejected, table.with_name(REJECTED)), (prompts.table, table)):
        with atomic_path(path) as partial:
            frame.to_parquet(partial, index=False)
    report = prompts.report()
    draw_card(table.with_name(CARD), report)
    write_json(table.with_name(REPORT), report)


def read_prompts(table: Path) -> pd.DataFrame:
    """Read what `write_prompts` wrote.

    Raises:
        MissingFileError: the stage `prompts` has not run.
        DataError: columns are missing.
    """
    if not table.is_file():
        raise MissingFileError(f"{table}: not found. `l2p prompts` writes it; run that first.")
    prompts = pd.read_parquet(table)
    missing = [name for name in COLUMNS if name not in prompts.columns]
    if missing:
        raise DataError(f"{table}: no column {missing[0]!r}. Delete it and run `l2p prompts` again.")
    require_plain_ids(prompts["prompt_id"], where=str(table))
    return prompts


def _stream(params: PromptsParams) -> Iterator[Candidate]:
    if params.provider == "taxonomy":
        return grammar_stream(params)
    return world_stream(params.provider, params.count, params.seed)
