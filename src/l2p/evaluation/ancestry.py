"""Owns the lineage tree that the report shows: what the pixel model came from, with short digests.

It shows what the files say of themselves; `register` is what hashes every byte again and proves it.
"""

from __future__ import annotations

from dataclasses import dataclass

from l2p.config import Layout
from l2p.files import read_json, sha256_json
from l2p.models.source import SourcePin
from l2p.registry.lineage import file_input, folder_inputs

_SHORT = 12


@dataclass(frozen=True)
class Node:
    """One input of the model and what it was made from; `again` if the tree shows it in full elsewhere."""

    name: str
    detail: str
    digest: str
    inputs: tuple[Node, ...] = ()
    again: bool = False

    @property
    def short(self) -> str:
        """First digits of the digest."""
        return self.digest[:_SHORT]

    def reference(self) -> Node:
        """This node, shown a second time without its inputs."""
        return Node(self.name, self.detail, self.digest, again=True)


def lineage_tree() -> Node:
    """The tree of `models/pixel`.

    Raises:
        LineageError: an input is missing.
    """
    pin = SourcePin.load(Layout.source)
    revision = f" at {pin.revision[:_SHORT]}" if pin.revision else ""
    source = Node("source", f"{pin.pipeline_class}, {pin.path}{revision}", pin.digest)
    prompts = _prompts()
    corpus = _corpus((source, prompts))
    checks = read_json(Layout.validation / "result.json", written_by="l2p validate")
    accepted = f"{checks['accepted']:,} images accepted, {checks['rejected']:,} in quarantine"
    manifest = Node("manifest", accepted, file_input(Layout.manifest, written_by="validate"), (corpus,))
    digest = sha256_json(folder_inputs(Layout.embeddings, written_by="embed"))
    embeddings = Node("embeddings", "of the prompts", digest, (source.reference(), prompts.reference()))
    digest = sha256_json(folder_inputs(Layout.init, written_by="convert"))
    init = Node("init", *_init(digest, source, manifest, embeddings))
    digest = sha256_json(folder_inputs(Layout.pixel, written_by="train"))
    return Node("pixel model", "a delta on the source", digest, (manifest, embeddings, init))


def _init(digest: str, source: Node, manifest: Node, embeddings: Node) -> tuple[str, str, tuple[Node, ...]]:
    """A fitted start was calibrated on the corpus (decision 0003), a random one knows the source alone."""
    if read_json(Layout.init / "config.json", written_by="l2p convert")["linear_readout"]:
        return "the graft, fitted", digest, (source.reference(), manifest.reference(), embeddings.reference())
    return "the graft, untrained", digest, (source.reference(),)


def _prompts() -> Node:
    count = read_json(Layout.prompts / "report.json", written_by="l2p prompts")["count"]
    return Node("prompts", f"{count:,} prompts", file_input(Layout.prompts_table, written_by="prompts"))


def _corpus(inputs: tuple[Node, ...]) -> Node:
    """The same digest as in the registry: over all (file name, sha256) pairs."""
    import pandas as pd

    rows = pd.read_parquet(Layout.corpus_table, columns=["file_name", "sha256", "height_px", "width_px"])
    rows = rows.sort_values("file_name")
    pairs = [list(pair) for pair in rows[["file_name", "sha256"]].itertuples(index=False, name=None)]
    size = f"{rows['width_px'].iloc[0]} × {rows['height_px'].iloc[0]} px"
    return Node("corpus", f"{len(pairs):,} images of {size}, drawn by the source", sha256_json(pairs), inputs)
