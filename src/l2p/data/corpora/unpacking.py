"""Owns restoring a corpus from its shards, byte for byte: every digest is checked, every odd member refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from l2p.data.corpora.names import OWN_FILES, TABLE, check_table
from l2p.data.corpora.packing import FORMAT, INDEX, VERSION, card_path, is_pack_file
from l2p.data.corpora.placing import copy_file, delete_others, find_whole, put_bytes, require_own
from l2p.data.corpus import read_table
from l2p.errors import DataError, MissingFileError
from l2p.files import read_json, sha256_file

_REPACK = "Fetch the pack again, or run `l2p corpus pack` again."


def unpack_corpus(pack: Path, out: Path) -> int:
    """Write the images that are not there yet, then the table; returns how many were written.

    Raises:
        MissingFileError: no index, or a shard that it names is not there.
        DataError: a shard, card or table is damaged or odd, or `out` holds something else.
    """
    index = read_index(pack)
    table = read_table(pack / TABLE, written_by="l2p corpus pack").reset_index(drop=True)
    check_table(table, str(pack / TABLE))
    if len(table) != index["images"]:
        raise DataError(f"{pack / INDEX}: {index['images']} images, but {TABLE} has {len(table)}. {_REPACK}")
    planned = dict(zip(table["file_name"], table["sha256"], strict=True))
    own = {name: entry["sha256"] for name, entry in index["files"].items()}
    whole = find_whole(out, planned | own) if out.is_dir() else set()
    if out.is_dir():
        require_own(out, planned, whole, advice="Move it away or choose another folder with --out.")
        delete_others(out, whole)
    written, start = 0, 0
    for entry in tqdm(index["shards"], desc="unpacking", unit="shard", disable=None):
        rows = table.iloc[start : start + entry["images"]]
        start += len(rows)
        if not set(rows["file_name"]) <= whole:
            written += _unpack_shard(pack / entry["name"], entry, rows, out, whole)
    for name in sorted(own, key=lambda name: name == TABLE):  # the table last
        copy_file(pack / name, out / name)
    return written


def read_index(pack: Path) -> dict[str, Any]:
    """Index of a pack; its own files and the form of its entries are checked, its shards are not read.

    Raises:
        MissingFileError: there is none.
        DataError: it is another's, names odd files, or the corpus's own files differ from it.
    """
    if not (pack / INDEX).is_file():
        raise MissingFileError(f"{pack / INDEX}: not found. `l2p corpus pack` writes it last; run that to its end.")
    index = read_json(pack / INDEX, written_by="l2p corpus pack")
    if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("version") != VERSION:
        raise DataError(f"{pack / INDEX}: not the index of a pack of version {VERSION}.")
    try:
        shards = [(entry["name"], int(entry["images"]), entry["sha256"]) for entry in index["shards"]]
        own = {name: entry["sha256"] for name, entry in index["files"].items()}
        int(index["images"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{pack / INDEX}: damaged ({error!r}). {_REPACK}") from error
    odd = [name for name, _, _ in shards if not (isinstance(name, str) and is_pack_file(name))]
    odd += [name for name in own if name not in OWN_FILES]
    if odd or TABLE not in own:
        raise DataError(f"{pack / INDEX}: names {odd[0] if odd else 'no ' + TABLE}; no pack has that. {_REPACK}")
    for name, digest in own.items():
        _require_file(pack / name, digest)
    return index


def _unpack_shard(shard: Path, entry: dict[str, Any], rows: pd.DataFrame, out: Path, whole: set[str]) -> int:
    _require_file(shard, entry["sha256"])
    members = _members(shard, rows)
    written = 0
    try:
        with tarfile.open(shard, "r:") as tar:
            for info in tar:
                _check_member(info, members, shard)
                row = members.get(info.name)
                if row is not None and row[0] not in whole:
                    stream = tar.extractfile(info) or io.BytesIO()
                    put_bytes(out, row[0], stream.read(), sha256=row[1], origin=f"{shard}, member {info.name}")
                    written += 1
                members[info.name] = None  # a second member of this name is refused
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a readable tar file ({error}). {_REPACK}") from error
    absent = next((row[0] for row in members.values() if row is not None), None)
    if absent is not None:
        raise DataError(f"{shard}: {absent} is not in it, though its card says so. {_REPACK}")
    return written


def _members(shard: Path, rows: pd.DataFrame) -> dict[str, tuple[str, str] | None]:
    """Member name -> (file name, SHA-256) of the images that the table wants of this shard."""
    card = read_json(card_path(shard), written_by="l2p corpus pack")
    try:
        found = [(entry["member"], (entry["file_name"], entry["sha256"])) for entry in card["members"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{card_path(shard)}: damaged ({error!r}). {_REPACK}") from error
    if [row for _, row in found] != list(zip(rows["file_name"], rows["sha256"], strict=True)):
        raise DataError(f"{card_path(shard)}: names other images than {TABLE}. {_REPACK}")
    members: dict[str, tuple[str, str] | None] = dict(found)
    if len(members) != len(found):
        raise DataError(f"{card_path(shard)}: two images are in one member. {_REPACK}")
    return members


def _check_member(info: tarfile.TarInfo, members: dict[str, tuple[str, str] | None], shard: Path) -> None:
    """Refuse links, devices, folders, and any name that is not an image of the card, its row or its caption."""
    key, _, ending = info.name.partition(".")
    expected = info.name in members if ending not in ("json", "txt") else key.isdigit()
    if not info.isreg() or not expected or (info.name in members and members[info.name] is None):
        kind = "a file" if info.isreg() else "no plain file"
        raise DataError(f"{shard}: odd member {info.name!r} ({kind}); `l2p corpus pack` writes none like it. {_REPACK}")


def _require_file(path: Path, digest: str) -> None:
    if not path.is_file():
        raise MissingFileError(f"{path}: not there, but the index names it. {_REPACK}")
    if sha256_file(path) != digest:
        raise DataError(f"{path}: its sha256 is not the one in the index. {_REPACK}")
