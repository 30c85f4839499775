"""The local transformers path, with a tiny randomly initialised chat model saved to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from l2p.config import LlmParams, PromptsParams, TaxonomyParams
from l2p.data.prompting.chat import AnswerCache, Budget, Request
from l2p.data.prompting.local_chat import LocalChat
from l2p.data.prompts import draw_prompts
from l2p.errors import DataError, MissingFileError

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
WORDS = ["[UNK]", "[PAD]", "[EOS]", "a", "photo", "of", "the", "red", "fox", "owl", "under", "pale", "light", "water"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "tiny"
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", chat_template=TEMPLATE
    )
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        eos_token_id=2,
        pad_token_id=1,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def params(model: Path, cache: Path, **settings: Any) -> PromptsParams:
    llm = {"kind": "local", "model": str(model), "cache": str(cache), "max_tokens": 64, "concurrency": 4, **settings}
    return PromptsParams(
        provider="taxonomy",
        count=6,
        seed=1,
        taxonomy=TaxonomyParams(expand="llm"),
        llm=LlmParams.model_validate({"prompts_per_request": 1} | llm),
    )


def test_a_local_model_writes_a_prompt_set_and_the_same_again(model: Path, tmp_path: Path):
    first = draw_prompts(params(model, tmp_path / "one"))
    second = draw_prompts(params(model, tmp_path / "two"))
    pd.testing.assert_frame_equal(first.table, second.table)
    assert len(first.table) == 6
    assert set(" ".join(first.table["text"]).split()) <= set(WORDS)
    assert first.report()["expansion"]["kind"] == "local"


def test_a_kept_answer_is_not_written_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = draw_prompts(params(model, tmp_path)).table
    monkeypatch.setattr(LocalChat, "_generate", lambda *_: pytest.fail("the model was asked"))
    pd.testing.assert_frame_equal(draw_prompts(params(model, tmp_path)).table, first)


def test_an_interrupted_batch_is_written_as_in_an_uninterrupted_run(model: Path, tmp_path: Path):
    whole = draw_prompts(params(model, tmp_path)).table
    for lost in sorted(tmp_path.rglob("*.json"))[::3]:
        lost.unlink()
    pd.testing.assert_frame_equal(draw_prompts(params(model, tmp_path)).table, whole)


def test_answers_come_in_the_order_of_the_requests(model: Path, tmp_path: Path):
    settings = params(model, tmp_path).llm
    texts = ["a red fox", "a photo of the water", "the owl", "pale light", "water"]
    requests = [Request({"messages": [{"role": "user", "content": text}]}) for text in texts]
    chat = LocalChat(settings, AnswerCache(tmp_path), Budget(10))
    assert len(list(chat.answers(requests))) == len(texts)
    kept = [AnswerCache(tmp_path).get(request) for request in requests]
    assert kept == list(LocalChat(settings, AnswerCache(tmp_path), Budget(10)).answers(requests))


def test_the_random_state_of_the_program_is_left_alone(model: Path, tmp_path: Path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw_prompts(params(model, tmp_path))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_that_cannot_write_json_is_refused_with_what_it_wrote(model: Path, tmp_path: Path):
    with pytest.raises(DataError, match="3 rounds gave no usable prompt; the last: unusable_answer"):
        draw_prompts(params(model, tmp_path, prompts_per_request=2))


def test_a_folder_without_a_model_is_named(tmp_path: Path):
    with pytest.raises(MissingFileError, match=r"prompts\.llm\.model = .*absent': no config\.json there"):
        draw_prompts(params(tmp_path / "absent", tmp_path))


def test_a_damaged_model_is_named(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="transformers cannot load it"):
        draw_prompts(params(tmp_path, tmp_path / "answers"))


def test_a_model_without_a_chat_template_is_refused(model: Path, tmp_path: Path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.chat_template = None
    Qwen3ForCausalLM.from_pretrained(model).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(DataError, match="no chat template"):
        draw_prompts(params(tmp_path / "bare", tmp_path / "answers"))
