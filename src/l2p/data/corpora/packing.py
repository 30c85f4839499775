"""Owns packing a corpus into tar shards for object stores, and their index.

A shard follows WebDataset: the members of an image share their name up to the first dot, KEY.png (the bytes of the
corpus), KEY.json (its row) and KEY.txt (its caption); KEY is the row's number. Beside it lies a card with the place of
every image, for range requests. The same corpus gives the same bytes. index.json is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from l2p.data.corpora.exporting import plain_rows
from l2p.data.corpora.names import OWN_FILES, PARTIAL, files_in
from l2p.data.corpora.placing import copy_file
from l2p.errors import DataError
from l2p.files import atomic_path, read_json, sha256_file, sha256_json, write_json

INDEX = "index.json"
FORMAT = "l2p corpus shards"
VERSION = 1
_MODE = 0o644
_STEM = "corpus-"


@dataclass(frozen=True)
class PackedImage:
    """Where an image lies in its shard."""

    file_name: str
    member: str
    offset_bytes: int
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Packing:
    """What a run did: shards written now, and shards kept from before."""

    written: int
    kept: int
    total_bytes: int


def pack_corpus(table: pd.DataFrame, corpus: Path, out: Path, *, images_per_shard: int) -> Packing:
    """Write the shards that are not there yet, the corpus's own files, and the index.

    Raises:
        DataError: an image is missing or changed, or `out` holds files of others.
    """
    require_pack_folder(out)
    (out / INDEX).unlink(missing_ok=True)
    starts = range(0, len(table), images_per_shard)
    entries, kept = [], 0
    for number, start in enumerate(tqdm(starts, desc="packing", unit="shard", disable=None)):
        rows = table.iloc[start : start + images_per_shard]
        path = out / shard_name(number)
        content = sha256_json([start, list(plain_rows(rows))])
        card = _finished(path, content)
        kept += card is not None
        card = card or _write_shard(path, rows, corpus, content)
        entries.append({"name": path.name, **{key: card[key] for key in ("images", "bytes", "sha256")}})
    own = {name: _copy_own(corpus / name, out / name) for name in OWN_FILES if (corpus / name).is_file()}
    _delete_stale(out, {entry["name"] for entry in entries})
    header = {"format": FORMAT, "version": VERSION, "images": len(table), "images_per_shard": images_per_shard}
    write_json(out / INDEX, {**header, "shards": entries, "files": own})
    return Packing(len(entries) - kept, kept, sum(entry["bytes"] for entry in entries))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{_STEM}{number:06d}.tar"


def card_path(shard: Path) -> Path:
    """File that names the images of a shard."""
    return shard.with_suffix(".json")


def is_pack_file(name: str) -> bool:
    """Whether a file of a pack has this name."""
    name = name.removesuffix(PARTIAL)
    number = Path(name).stem.removeprefix(_STEM)
    shard = name.startswith(_STEM) and number.isdigit() and Path(name).suffix in (".tar", ".json")
    return name == INDEX or name in OWN_FILES or shard


def require_pack_folder(out: Path) -> None:
    """Refuse a folder that holds anything else than a pack.

    Raises:
        DataError: names the first such file.
    """
    others = sorted(name for name in files_in(out) if not is_pack_file(name)) if out.is_dir() else []
    if others:
        raise DataError(f"{out}: holds {others[0]}, which is no part of a pack. Choose another folder, or empty it.")


def _finished(path: Path, content: str) -> dict[str, Any] | None:
    """Card of the shard if it holds these very rows, whole."""
    if not path.is_file() or not card_path(path).is_file():
        return None
    card: dict[str, Any] = read_json(card_path(path), written_by="l2p corpus pack")
    same = isinstance(card, dict) and card.get("content") == content and path.stat().st_size == card.get("bytes")
    return card if same and sha256_file(path) == card.get("sha256") else None


def _write_shard(path: Path, rows: pd.DataFrame, corpus: Path, content: str) -> dict[str, Any]:
    card_path(path).unlink(missing_ok=True)  # a card never speaks of another shard than the one beside it
    with atomic_path(path) as partial, tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        images = [
            _add_image(tar, number, row, corpus) for number, row in zip(rows.index, plain_rows(rows), strict=True)
        ]
    whole = {"images": len(images), "bytes": path.stat().st_size, "sha256": sha256_file(path), "content": content}
    card = {**whole, "members": [asdict(image) for image in images]}
    write_json(card_path(path), card)
    return card


def _add_image(tar: tarfile.TarFile, number: int, row: dict[str, Any], corpus: Path) -> PackedImage:
    name, key = str(row["file_name"]), f"{number:08d}"
    path = corpus / name
    if not path.is_file():
        raise DataError(f"{path}: missing, but in the table. `l2p corpus verify` lists all such images.")
    data = path.read_bytes()
    member = key + path.suffix.lower()
    _require_digest(data, row, path)
    offset = _add(tar, member, data)
    _add(tar, f"{key}.json", json.dumps(row, ensure_ascii=False).encode())
    _add(tar, f"{key}.txt", str(row["text"]).encode())
    return PackedImage(name, member, offset, len(data), row["sha256"])


def _require_digest(data: bytes, row: dict[str, Any], path: Path) -> None:
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise DataError(f"{path}: changed since it was drawn. `l2p corpus verify` lists all such images.")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member without owner and time; returns where its data begin."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), _MODE
    tar.addfile(info, io.BytesIO(data))
    return tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _copy_own(source: Path, target: Path) -> dict[str, Any]:
    copy_file(source, target)
    return {"bytes": target.stat().st_size, "sha256": sha256_file(target)}


def _delete_stale(out: Path, shards: set[str]) -> None:
    keep: set[str] = {INDEX, *OWN_FILES, *shards, *(card_path(Path(name)).name for name in shards)}
    for name in files_in(out) - keep:
        (out / name).unlink()
