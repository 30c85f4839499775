"""Owns the expansion of the taxonomy by a language model: what is asked, how answers are read, and rounds until full.

Requests are planned from the seed alone. A round asks for as many descriptions as are still missing; what is rejected
is made up for in the next round with new subjects.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from l2p.config import LlmParams, PromptsParams
from l2p.data.prompting.candidates import Candidate
from l2p.data.prompting.chat import CHARS_PER_TOKEN, Answer, AnswerCache, Budget, Chat, LimitReached, Request
from l2p.data.prompting.drawing import candidate_of, too_few
from l2p.data.prompting.quality import UNUSABLE_ANSWER, Gate
from l2p.data.taxonomy.grammar import hints
from l2p.data.taxonomy.hierarchy import Subject, load_taxonomy
from l2p.errors import DataError

MAX_EMPTY_ROUNDS = 3  # in a row without one accepted prompt
EXCERPT_CHARS = 120

_TASK = """You write captions of pictures, from which a model will paint them. For each of the {number} subjects \
below, write one description of {shortest} to {longest} characters{language}. Say what is seen: the subject, what it \
does, where it is, materials and colours, light, and how the picture is composed. Use each subject's notes freely. No \
names of living artists, no brands, no comments, and no two descriptions that begin alike.
Answer with a JSON array of {number} strings in the order of the subjects, and with nothing else."""


@dataclass(frozen=True)
class Planned:
    """A request and the subjects that it asks about."""

    request: Request
    subjects: tuple[Subject, ...]


def plan(params: PromptsParams) -> Iterator[Planned]:
    """Endless requests; the one at a place depends on the parameters and its place alone."""
    model = _model_name(params.llm)
    subjects = load_taxonomy(params.taxonomy.path).subjects(params.seed)
    number = 0
    while True:
        group = tuple(islice(subjects, params.llm.prompts_per_request))
        body = {
            "model": model,
            "messages": _messages(params, group, random.Random(f"{params.seed}/hints/{number}")),
            "temperature": params.llm.temperature,
            "max_tokens": params.llm.max_tokens,
            "seed": int.from_bytes(hashlib.sha256(f"{params.seed}/{number}".encode()).digest()[:4], "big") >> 1,
        }
        yield Planned(Request(body), group)
        number += 1


def expand(params: PromptsParams, gate: Gate) -> tuple[list[Candidate], dict[str, Any]]:
    """Ask until `count` descriptions have passed `gate`.

    Returns:
        The accepted descriptions, and the number of requests and tokens.

    Raises:
        DataError: the model fails, `max_requests` are used up, or nothing it writes is accepted.
    """
    budget, planned = Budget(params.llm.max_requests), plan(params)
    chat = _chat(params.llm, budget)
    accepted: list[Candidate] = []
    answers: list[Answer] = []
    empty_rounds = 0
    while len(accepted) < params.count:
        before = len(accepted)
        wanted = math.ceil((params.count - before) / params.llm.prompts_per_request)
        group = list(islice(planned, min(wanted, max(budget.left, 1))))
        try:
            for item, answer in zip(group, chat.answers([item.request for item in group]), strict=True):
                answers.append(answer)
                accepted += _accepted(item, answer, gate, params.count - len(accepted))
        except LimitReached as error:
            raise LimitReached(
                f"{str(error).rstrip('.')}: {too_few(gate, len(accepted), params.count)} "
                f"Or raise max_requests: answers so far are kept in {params.llm.cache}."
            ) from error
        empty_rounds = empty_rounds + 1 if len(accepted) == before else 0
        if empty_rounds == MAX_EMPTY_ROUNDS:
            raise _nothing_usable(gate, accepted, params)
    return accepted, _figures(params, budget, answers)


def estimate(params: PromptsParams) -> dict[str, int]:
    """Requests and tokens if every description is accepted, how many answers are kept already, and the hard limits."""
    number = math.ceil(params.count / params.llm.prompts_per_request)
    requests = [item.request for item in islice(plan(params), number)]
    cache = AnswerCache(Path(params.llm.cache))
    asked = math.ceil(sum(request.num_chars for request in requests) / CHARS_PER_TOKEN)
    return {
        "requests": number,
        "answered already": sum(cache.get(request) is not None for request in requests),
        "prompt tokens": asked,
        "answer tokens": math.ceil(
            number * params.llm.prompts_per_request * params.taxonomy.max_length_chars / CHARS_PER_TOKEN
        ),
        "max_requests": params.llm.max_requests,
        "most answer tokens": params.llm.max_requests * params.llm.max_tokens,
    }


def descriptions(answer: Answer, number: int) -> list[str]:
    """The descriptions in an answer: a JSON array of `number` texts; for one, the bare text will do.

    Raises:
        ValueError: it is something else; the message says what.
    """
    if answer.cut_off:
        raise ValueError("cut off at max_tokens")
    text = re.sub(r"<think>.*?</think>", "", answer.text, flags=re.DOTALL).strip()
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        if number == 1 and text:
            return [" ".join(text.strip('"').split())]
        raise ValueError("no JSON array")
    found = json.loads(text[start : end + 1])
    if len(found) != number or not all(isinstance(item, str) for item in found):
        raise ValueError(f"{len(found)} entries, {number} texts wanted")
    return [" ".join(item.split()) for item in found]


def _accepted(item: Planned, answer: Answer, gate: Gate, room: int) -> list[Candidate]:
    """Those descriptions of one answer that pass, at most `room`; if it cannot be read, each subject is a rejection."""
    try:
        texts = descriptions(answer, len(item.subjects))
    except (ValueError, RecursionError) as error:
        excerpt = " ".join(answer.text.split())[:EXCERPT_CHARS]
        for subject in item.subjects:
            gate.reject(candidate_of(subject, ""), UNUSABLE_ANSWER, f"{error}: {excerpt!r}")
        return []
    kept: list[Candidate] = []
    for subject, text in zip(item.subjects, texts, strict=True):
        candidate = candidate_of(subject, text)
        if len(kept) < room and gate.admit(candidate):
            kept.append(candidate)
    return kept


def _messages(params: PromptsParams, subjects: tuple[Subject, ...], rng: random.Random) -> list[dict[str, str]]:
    language = params.quality.language
    task = _TASK.format(
        number=len(subjects),
        shortest=params.taxonomy.min_length_chars,
        longest=params.taxonomy.max_length_chars,
        language=f", in the language with ISO code {language}" if language not in (None, "en") else " in English",
    )
    lines = [
        f"{number}. {subject.fine_class} ({subject.main_class}, {subject.subclass}). Notes: "
        + "; ".join(hints(rng, subject.main_class).values())
        for number, subject in enumerate(subjects, start=1)
    ]
    return [{"role": "system", "content": task}, {"role": "user", "content": "\n".join(lines)}]


def _chat(params: LlmParams, budget: Budget) -> Chat:
    cache = AnswerCache(Path(params.cache))
    if params.kind == "local":
        from l2p.data.prompting.local_chat import LocalChat

        return LocalChat(params, cache, budget)
    from l2p.data.prompting.endpoint import Endpoint

    return Endpoint(params, cache, budget)


def _model_name(params: LlmParams) -> str:
    if params.kind == "local":
        from l2p.data.prompting.local_chat import identity

        return identity(Path(str(params.model)))
    return str(params.model)


def _nothing_usable(gate: Gate, accepted: list[Candidate], params: PromptsParams) -> DataError:
    last = gate.rejections[-1]
    return DataError(
        f"prompts.llm.model = {params.llm.model!r}: {MAX_EMPTY_ROUNDS} rounds gave no usable prompt; the last: "
        f"{last.reason}, {last.detail}; {too_few(gate, len(accepted), params.count)} Or take another model."
    )


def _figures(params: PromptsParams, budget: Budget, answers: list[Answer]) -> dict[str, Any]:
    return {
        "model": params.llm.model,
        "kind": params.llm.kind,
        "answers": len(answers),
        "requests_counted": budget.spent,
        "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in answers),
        "answer_tokens": sum(answer.answer_tokens or 0 for answer in answers),
    }
