"""Shards of a corpus: the same bytes back, resumed after a kill, and no odd member let through."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from l2p.config import Layout
from l2p.data.corpora.names import read_corpus
from l2p.data.corpora.packing import INDEX, Packing, card_path, pack_corpus
from l2p.data.corpora.unpacking import unpack_corpus
from l2p.errors import DataError, MissingFileError
from l2p.files import read_json, sha256_file, write_json
from tests.conftest import ROOT
from tests.data.corpora import Corpus
from tests.data.test_corpus_commands import contents, l2p

# Packs, but dies by SIGKILL while it writes the fifth image.
DIE_IN_SECOND_SHARD = """
import os, signal
from pathlib import Path
from l2p.data.corpora import packing
from l2p.data.corpora.names import read_corpus

add, added = packing._add_image, []

def add_or_die(*arguments):
    added.append(arguments)
    if len(added) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(*arguments)

packing._add_image = add_or_die
folder = Path("data/corpus")
packing.pack_corpus(read_corpus(folder), folder, Path("pack"), images_per_shard=3)
"""
PACK = Path("pack")


@pytest.fixture
def project(workspace: Path) -> Corpus:
    """A project, already the working directory, with a corpus of eight images and a journal."""
    corpus = Corpus(workspace / Layout.corpus, 8)
    (corpus.folder / "journal.jsonl").write_text('{"file_name": "00000/000000.png"}\n', encoding="utf-8")
    return corpus


def pack() -> Packing:
    return pack_corpus(read_corpus(Layout.corpus), Layout.corpus, PACK, images_per_shard=3)


def test_a_corpus_comes_out_of_its_shards_byte_for_byte(project: Corpus):
    before = contents(Layout.corpus)
    assert "8 images in 3 shards" in l2p("pack", "pack", "--images-per-shard", "3").stdout
    shutil.rmtree(Layout.corpus)
    assert l2p("unpack", "pack").stdout.startswith("data/corpus: 8 images written")
    assert contents(Layout.corpus) == before
    assert l2p("verify").exit_code == 0


def test_a_shard_holds_image_row_and_caption_under_one_key(project: Corpus):
    pack()
    row = project.rows.iloc[4]
    with tarfile.open(PACK / "corpus-000001.tar") as tar:
        assert tar.getnames()[3:6] == ["00000004.png", "00000004.json", "00000004.txt"]
        assert tar.extractfile("00000004.png").read() == project.path(4).read_bytes()
        assert json.load(tar.extractfile("00000004.json")) == row.to_dict()
        assert tar.extractfile("00000004.txt").read().decode() == row["text"]


def test_hugging_face_reads_the_shards_as_a_webdataset(project: Corpus, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    pack()
    loaded = datasets.load_dataset(
        "webdataset", data_files="pack/*.tar", split="train", cache_dir=str(Path("cache").absolute())
    )
    assert loaded["txt"][:] == project.rows["text"].tolist()
    assert [row["sha256"] for row in loaded["json"]] == project.rows["sha256"].tolist()
    assert loaded[0]["png"].size == (64, 64)


def test_the_card_of_a_shard_says_where_each_image_lies(project: Corpus):
    pack()
    shard = PACK / "corpus-000002.tar"
    for entry, index in zip(read_json(card_path(shard), written_by="pack")["members"], (6, 7), strict=True):
        with shard.open("rb") as stream:
            stream.seek(entry["offset_bytes"])
            assert stream.read(entry["size_bytes"]) == project.path(index).read_bytes()


def test_packing_twice_gives_the_same_bytes_and_keeps_what_is_there(project: Corpus):
    assert pack() == Packing(3, 0, total_bytes=sum(path.stat().st_size for path in PACK.glob("*.tar")))
    whole, inode = contents(PACK), (PACK / "corpus-000000.tar").stat().st_ino
    assert pack().kept == 3
    assert (contents(PACK), (PACK / "corpus-000000.tar").stat().st_ino) == (whole, inode)
    shutil.rmtree(PACK)
    pack()
    assert contents(PACK) == whole


def test_a_packing_that_was_killed_goes_on_with_the_next_shard(project: Corpus):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    killed = subprocess.run(
        [sys.executable, "-c", DIE_IN_SECOND_SHARD], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert {path.name for path in PACK.iterdir()} == {
        "corpus-000000.tar",
        "corpus-000000.json",
        "corpus-000001.tar.partial",
    }
    with pytest.raises(MissingFileError, match=r"index\.json: not found. `l2p corpus pack` writes it last"):
        unpack_corpus(PACK, Path("out"))
    done = pack()
    assert (done.written, done.kept) == (2, 1)
    assert not list(PACK.glob("*.partial"))
    unpack_corpus(PACK, Path("out"))
    assert contents(Path("out")) == contents(Layout.corpus)


def test_a_changed_caption_writes_its_shard_anew_and_a_smaller_corpus_leaves_no_old_shard(project: Corpus):
    pack()
    project.rows.loc[0, "text"] = "another"
    project.rows = project.rows.head(6)
    project.save()
    done = pack()
    assert (done.written, done.kept) == (1, 1)
    assert sorted(path.name for path in PACK.glob("*.tar")) == ["corpus-000000.tar", "corpus-000001.tar"]


def test_an_interrupted_unpacking_goes_on(project: Corpus):
    pack()
    unpack_corpus(PACK, Path("out"))
    Path("out/metadata.parquet").unlink()
    Path("out/00000/000004.png").unlink()
    Path("out/00000/000005.png.partial").write_bytes(b"torn")
    kept = Path("out/00000/000000.png").stat().st_ino
    assert unpack_corpus(PACK, Path("out")) == 1
    assert contents(Path("out")) == contents(Layout.corpus)
    assert Path("out/00000/000000.png").stat().st_ino == kept


def test_unpacking_never_mixes_with_another_corpus(project: Corpus):
    pack()
    project.redraw(2, 255 - project_pixels(project, 2))
    with pytest.raises(DataError, match=r"data/corpus: not free: .* has other bytes than planned"):
        unpack_corpus(PACK, Layout.corpus)


def project_pixels(project: Corpus, index: int):
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(project.path(index)))


def test_a_pack_folder_holds_nothing_else(project: Corpus):
    PACK.mkdir()
    (PACK / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"pack: holds thesis\.txt, which is no part of a pack"):
        pack()


def test_an_image_that_changed_is_not_packed(project: Corpus):
    project.path(4).write_bytes(b"other")
    with pytest.raises(DataError, match=r"000004\.png: changed since it was drawn"):
        pack()
    assert not (PACK / INDEX).exists()
    project.path(4).unlink()
    with pytest.raises(DataError, match=r"000004\.png: missing, but in the table"):
        pack()


def rewrite(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Change the members of the second shard, and its digest in card and index so that only the members are odd."""
    shard = PACK / "corpus-000001.tar"
    with tarfile.open(shard) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]
    change(members)
    with tarfile.open(shard, "w") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    index = read_json(PACK / INDEX, written_by="pack")
    index["shards"][1]["sha256"] = sha256_file(shard)
    write_json(PACK / INDEX, index)


def add(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[list], None]:
    def change(members: list) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        members.append((info, b"" if link else b"content"))

    return change


def replace_first(members: list) -> None:
    members[0] = (members[0][0], b"other bytes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("../../evil.png"), r"odd member '\.\./\.\./evil\.png'"),
        (add("/etc/evil.png"), r"odd member '/etc/evil\.png'"),
        (add("../x.txt"), r"odd member '\.\./x\.txt'"),
        (add("00000003.png", tarfile.SYMTYPE, "/etc/passwd"), r"odd member .* \(no plain file\)"),
        (add("00000003.png", tarfile.LNKTYPE, "00000004.png"), r"odd member .* \(no plain file\)"),
        (add("00000003.txt", tarfile.FIFOTYPE), r"odd member .* \(no plain file\)"),
        (add("00000003.png"), r"odd member '00000003\.png'"),
        (replace_first, r"member 00000003\.png: its bytes changed or are damaged"),
        (lambda members: members.pop(0), r"000003\.png is not in it, though its card says so"),
    ],
)
def test_an_odd_member_is_refused(project: Corpus, change: Callable[[list], None], message: str):
    pack()
    rewrite(change)
    with pytest.raises(DataError, match=message):
        unpack_corpus(PACK, Path("out/corpus"))
    assert not Path("out/corpus/metadata.parquet").exists()
    assert not Path("evil.png").exists()


def test_a_damaged_or_missing_shard_is_named(project: Corpus):
    pack()
    os.truncate(PACK / "corpus-000001.tar", 3000)
    with pytest.raises(DataError, match=r"corpus-000001\.tar: its sha256 is not the one in the index"):
        unpack_corpus(PACK, Path("out"))
    (PACK / "corpus-000001.tar").unlink()
    with pytest.raises(MissingFileError, match=r"corpus-000001\.tar: not there, but the index names it"):
        unpack_corpus(PACK, Path("out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "not the index of a pack of version 1"),
        (
            {"shards": [{"name": "../../x.tar", "images": 8, "sha256": "0"}]},
            r"names \.\./\.\./x\.tar; no pack has that",
        ),
        ({"files": {"../x": {"sha256": "0"}}}, r"names \.\./x; no pack has that"),
        ({"files": {}}, "names no metadata.parquet"),
        ({"shards": 3}, "damaged"),
        ({"images": 9}, "9 images, but metadata.parquet has 8"),
    ],
)
def test_a_strange_index_is_refused(project: Corpus, change: dict, message: str):
    pack()
    write_json(PACK / INDEX, read_json(PACK / INDEX, written_by="pack") | change)
    with pytest.raises(DataError, match=message):
        unpack_corpus(PACK, Path("out"))


def test_a_card_that_names_other_files_than_the_table_is_refused(project: Corpus):
    pack()
    card = card_path(PACK / "corpus-000000.tar")
    content = read_json(card, written_by="pack")
    content["members"][0]["file_name"] = "../../evil.png"
    write_json(card, content)
    with pytest.raises(DataError, match=r"corpus-000000\.json: names other images than metadata\.parquet"):
        unpack_corpus(PACK, Path("out"))


def test_a_linked_folder_does_not_lead_the_unpacking_elsewhere(project: Corpus):
    pack()
    Path("elsewhere").mkdir()
    Path("out").mkdir()
    Path("out/00000").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(DataError, match=r"out: not free: 00000"):
        unpack_corpus(PACK, Path("out"))
    assert not list(Path("elsewhere").iterdir())
