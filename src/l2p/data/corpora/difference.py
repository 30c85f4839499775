"""Owns what differs between two corpus tables: which images came, went, changed, moved or were described anew."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

NAME, DIGEST = "file_name", "sha256"


@dataclass(frozen=True)
class Difference:
    """Rows by what happened to them; a corpus without change has only `same`.

    Attributes:
        came: rows of the new table whose image is nowhere in the old one.
        went: rows of the old table whose image is nowhere in the new one.
        changed: rows of the new table with a file name of the old one and other bytes.
        moved: the same bytes under another name; rows of the new table with the column `old_name`.
        described: the same file and bytes with another caption, seed or setting; with the column `fields`.
        same: number of images without any difference.
    """

    came: pd.DataFrame
    went: pd.DataFrame
    changed: pd.DataFrame
    moved: pd.DataFrame
    described: pd.DataFrame
    same: int

    def counts(self) -> dict[str, int]:
        """Number of images by what happened to them."""
        kinds = ("came", "went", "changed", "moved", "described")
        return {kind: len(getattr(self, kind)) for kind in kinds} | {"same": self.same}


def compare(old: pd.DataFrame, new: pd.DataFrame) -> Difference:
    """What happened to the images of `old` on the way to `new`; file names are unique in both."""
    old, new = old.set_index(NAME, drop=False), new.set_index(NAME, drop=False)
    shared = new.index.intersection(old.index, sort=False)
    kept = shared[(new.loc[shared, DIGEST] == old.loc[shared, DIGEST]).to_numpy()]
    fields = _changed_fields(old.loc[kept], new.loc[kept])
    described = fields[fields != ""]
    rest_old, rest_new = old.drop(kept), new.drop(kept)
    moved = _moved(rest_old, rest_new)
    rest_old = rest_old.drop(moved["old_name"])
    rest_new = rest_new.drop(moved.index)
    changed = rest_new.index.isin(rest_old.index)
    return Difference(
        came=rest_new[~changed],
        went=rest_old[~rest_old.index.isin(rest_new.index)],
        changed=rest_new[changed],
        moved=moved,
        described=new.loc[described.index].assign(fields=described),
        same=len(kept) - len(described),
    )


def _moved(old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Rows of `new` whose bytes `old` has under another name; of equal images each is used once."""
    number = "number"  # of the images with the same bytes
    left = old.assign(**{number: old.groupby(DIGEST).cumcount(), "old_name": old[NAME]})
    right = new.assign(**{number: new.groupby(DIGEST).cumcount()})
    found = right.merge(left[[DIGEST, number, "old_name"]], on=[DIGEST, number], how="inner")
    return found.drop(columns=number).set_index(NAME, drop=False)


def _changed_fields(old: pd.DataFrame, new: pd.DataFrame) -> pd.Series:
    """Per row the names of the columns, of those both have, whose values differ, joined by commas."""
    columns = [name for name in new.columns if name in old.columns and name not in (NAME, DIGEST)]
    found = pd.Series("", index=new.index, dtype=object)
    for name in columns:
        before, after = old[name].astype(object), new[name].astype(object)
        differs = ~((before == after).fillna(False).astype(bool) | (before.isna() & after.isna()))
        found[differs] = found[differs] + ("," + name)
    return found.str.removeprefix(",")
