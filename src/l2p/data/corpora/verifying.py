"""Owns holding a corpus folder against its table: images that are missing, changed, or nobody's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from l2p.data.corpora.names import OWN_FILES, files_in
from l2p.data.corpora.placing import digests


@dataclass(frozen=True)
class Verification:
    """Names of files, in the order of the table or of the alphabet."""

    intact: int
    missing: list[str]
    changed: list[str]
    extra: list[str]

    @property
    def success(self) -> bool:
        """Whether table and folder agree."""
        return not (self.missing or self.changed or self.extra)


def verify_corpus(table: pd.DataFrame, folder: Path) -> Verification:
    """Compute the SHA-256 of every image anew and look for files that no row names."""
    names, promised = table["file_name"].tolist(), table["sha256"].tolist()
    found = tqdm(digests([folder / name for name in names]), total=len(names), unit="image", disable=None)
    missing, changed = [], []
    for name, digest, expected in zip(names, found, promised, strict=True):
        if digest is None:
            missing.append(name)
        elif digest != expected:
            changed.append(name)
    extra = sorted(files_in(folder) - set(names) - set(OWN_FILES))
    return Verification(len(names) - len(missing) - len(changed), missing, changed, extra)
