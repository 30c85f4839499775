"""The result page: one file that needs nothing, says the verdict, and shows a bounded number of rejected images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from l2p.config import Layout, ValidateParams, load_params
from l2p.data.checking.page import write_page
from l2p.data.checking.thumbnails import MAX_THUMBNAILS, choose
from l2p.data.validation import validate_corpus
from l2p.errors import DataError
from l2p.stages import validate as stage
from tests.data.corpora import Corpus

BLACK = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path / "corpus", 12)


def page_of(corpus: Corpus, rejected: Path, **limits: Any) -> str:
    lenient = {"min_accepted_share": 0.1, "max_duplicate_share": 1.0, "min_class_kept_share": None}
    chosen = ValidateParams(**corpus.params.validation.model_dump() | lenient | limits)
    validation = validate_corpus(corpus.table, chosen, corpus.params.synthesize)
    path = corpus.folder.parent / "reports" / "index.html"
    write_page(validation, chosen, corpus=corpus.folder, rejected=rejected, path=path)
    return path.read_text(encoding="utf-8")


def shown(page: str, section: str) -> list[tuple[str, str]]:
    """Reason and name of every image of a section."""
    part = page.split(f'<section id="{section}">')[1].split("</section>")[0]
    return re.findall(r'class="reason">([^<]*)<.*?class="name">([^<]*)<', part, re.DOTALL)


def test_the_page_loads_nothing_and_shows_rejected_images_with_their_reasons(corpus: Corpus):
    corpus.redraw(2, BLACK)
    corpus.path(4).write_bytes(corpus.path(4).read_bytes()[:90])
    page = page_of(corpus, corpus.folder.parent / "rejected")
    assert not re.search(r"https?://|<script|@import|url\(", page)
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert 'The corpus is <span class="good">accepted</span>' in page
    assert [reason for reason, _ in shown(page, "quarantine")] == ["low contrast", "not decodable, sha256 differs"]
    assert page.count("data:image/png;base64") == 1
    assert "no picture" in page
    assert "10 of 12 images may be trained on; 2 are in quarantine" in page


def test_a_corpus_that_failed_says_so_with_every_problem(corpus: Corpus):
    corpus.redraw(2, BLACK)
    page = page_of(corpus, corpus.folder.parent / "rejected", min_accepted_share=1.0)
    assert 'The corpus is <span class="bad">not accepted</span>' in page
    assert "91.7% of 12 images accepted, validate.min_accepted_share is 100.0% (low contrast 1)" in page


def test_prompts_are_text_and_never_markup(corpus: Corpus):
    corpus.redraw(2, BLACK)
    corpus.rows.loc[2, ["text", "style"]] = ["<script>alert('x')</script>", "<b>class</b>"]
    corpus.save()
    page = page_of(corpus, corpus.folder.parent / "rejected", agreement="none")
    assert "<script>" not in page
    assert "<b>class" not in page
    assert "&lt;script&gt;" in page


def rejected_folder(corpus: Corpus) -> Path:
    folder = corpus.folder.parent / "rejected"
    rows = corpus.rows.iloc[[3, 3, 5]].assign(
        file_name=["00/a-0.png", "00/a-1.png", "00/b-0.png"],
        attempt=[0, 1, 0],
        reason=["not as its prompt says", "not as its prompt says, noise", "low contrast"],
    )
    (folder / "00").mkdir(parents=True)
    for name in rows["file_name"]:
        (folder / name).write_bytes(corpus.path(3).read_bytes())
    rows.to_parquet(folder / "metadata.parquet", index=False)
    return folder


def test_images_that_were_drawn_again_are_shown_with_attempt_and_reason(corpus: Corpus):
    page = page_of(corpus, rejected_folder(corpus))
    assert shown(page, "redrawn") == [
        ("not as its prompt says", "00/a-0.png, attempt 0"),
        ("not as its prompt says, noise", "00/a-1.png, attempt 1"),
        ("low contrast", "00/b-0.png, attempt 0"),
    ]
    assert '<b>3</b><span class="soft small">rejected and drawn again</span>' in page


def test_a_damaged_table_of_redrawn_images_is_named(corpus: Corpus):
    table = rejected_folder(corpus) / "metadata.parquet"
    table.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"rejected/metadata\.parquet: not a parquet file.*l2p synthesize"):
        page_of(corpus, table.parent)
    corpus.rows.drop(columns="attempt").assign(reason="noise").to_parquet(table)
    with pytest.raises(DataError, match=r"rejected/metadata\.parquet: no column 'attempt'"):
        page_of(corpus, table.parent)


def test_of_many_rejected_images_a_few_of_each_reason_are_shown_and_the_rest_counted():
    reasons = ["blank"] * 5000 + ["noise"] * 3 + ["unsafe"]
    chosen = choose(reasons, MAX_THUMBNAILS)
    assert len(chosen) == MAX_THUMBNAILS
    assert chosen == sorted(chosen)
    assert {5000, 5001, 5002, 5003} <= set(chosen)
    assert choose(reasons[-4:], MAX_THUMBNAILS) == [0, 1, 2, 3]


def test_a_page_does_not_grow_with_the_corpus(tmp_path: Path):
    corpus = Corpus(tmp_path / "large", 230)
    for index in range(228):
        corpus.rows.loc[index, "sha256"] = "0" * 64
    corpus.save()
    page = page_of(corpus, tmp_path / "rejected", min_accepted_share=0.001)
    assert page.count("data:image/png;base64") == MAX_THUMBNAILS
    assert "28 more are not shown" in page


def test_the_stage_prints_one_line_and_writes_all_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    corpus = Corpus(Layout.corpus, 30)
    corpus.redraw(2, np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8))
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    limits = params.validation.model_copy(update={"min_class_kept_share": None, "severity": {"noise": "warn"}})
    stage.run(params.model_copy(update={"validation": limits}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(
        r"29 images accepted, 1 in quarantine \(reasons: not as its prompt says 1\); warnings: noise 1", lines[0]
    )
    assert {path.name for path in Layout.validation.iterdir()} == {
        "index.html",
        "result.json",
        "great_expectations.json",
    }
    first = {path: path.read_bytes() for path in (Layout.manifest, Layout.validation / "index.html")}
    stage.run(params.model_copy(update={"validation": limits}))
    assert all(path.read_bytes() == content for path, content in first.items())
    assert list(pd.read_parquet(Layout.quarantine).columns[-2:]) == ["reason", "detail"]
