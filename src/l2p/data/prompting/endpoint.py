"""Owns talking to an OpenAI-compatible endpoint: concurrency, retries, and errors that say what to do.

Retried: lost connections, timeouts, 408, 409, 429 (after the Retry-After that the endpoint asks for), 5xx, and replies
that are no chat completion. Everything else is a mistake in the parameters and stops at once. The key comes from the
environment and is written nowhere.
"""

from __future__ import annotations

import email.utils
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import tenacity
from tqdm.auto import tqdm

from l2p.config import LlmParams
from l2p.data.prompting.chat import Answer, AnswerCache, Budget, Request
from l2p.errors import ConfigError, DataError, L2PError

RETRIED_STATUS = {408, 409, 429}
EXCERPT_CHARS = 200

_HINTS = {
    400: "the endpoint does not take this request; check prompts.llm.model, max_tokens and temperature",
    401: "the key is missing or wrong; check the variable that prompts.llm.api_key_env names",
    403: "the key may not use this model; check prompts.llm.model",
    404: "check prompts.llm.base_url (with /v1 at its end) and prompts.llm.model",
}


class Retriable(Exception):
    """A failure that may pass; `wait_s` is how long the endpoint asks to wait."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s


class Endpoint:
    """A chat model behind HTTP."""

    def __init__(self, params: LlmParams, cache: AnswerCache, budget: Budget) -> None:
        self._params, self._cache, self._budget = params, cache, budget
        self._url = f"{_base_url(params)}/chat/completions"
        self._key = _key(params)
        self._stopped = threading.Event()
        self._failure: L2PError | None = None

    def answers(self, requests: list[Request]) -> Iterator[Answer]:
        """One answer a request, in order; `concurrency` requests are under way at once.

        Raises:
            DataError: the endpoint refuses, or does not answer in `max_attempts` tries.
            LimitReached: `max_requests` are used up.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with httpx.Client(timeout=self._params.timeout_s, headers=headers) as client:
            pool = ThreadPoolExecutor(self._params.concurrency)
            try:
                found = pool.map(lambda request: self._answer(client, request), requests)
                yield from tqdm(found, total=len(requests), desc="language model", unit="request", disable=None)
            except L2PError as error:
                raise self._failure or error from None  # the first failure, not that of those whom it stopped
            finally:
                self._stopped.set()  # wakes those that wait for another try
                pool.shutdown(cancel_futures=True)
                self._stopped = threading.Event()

    def _answer(self, client: httpx.Client, request: Request) -> Answer:
        known = self._cache.get(request)
        if known is not None:
            self._budget.spend()
            return known
        try:
            answer = self._retrying(client, request)
        except L2PError as error:
            if not self._stopped.is_set():
                self._failure = error
            self._stopped.set()
            raise
        self._cache.put(request, answer)
        return answer

    def _retrying(self, client: httpx.Client, request: Request) -> Answer:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Retriable),
            stop=tenacity.stop_after_attempt(self._params.max_attempts),
            wait=self._wait_s,
            sleep=tenacity.sleep_using_event(self._stopped),
            reraise=True,
        )
        try:
            return retrying(self._attempt, client, request)
        except Retriable as error:
            raise DataError(
                f"{self._url}: no usable reply in {self._params.max_attempts} tries; the last: {error}. Answers so far "
                f"are kept in {self._params.cache}: run `l2p prompts` again when the endpoint is well."
            ) from error

    def _wait_s(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait_s if isinstance(error, Retriable) else None
        if asked is None:
            doubling = tenacity.wait_random_exponential(self._params.first_wait_s, max=self._params.max_wait_s)
            return float(doubling(state))
        if asked > self._params.max_wait_s:
            raise DataError(
                f"{self._url}: asks to wait {asked:.0f} s, more than prompts.llm.max_wait_s = "
                f"{self._params.max_wait_s:g}. Run `l2p prompts` again later; answers so far are kept."
            )
        return asked

    def _attempt(self, client: httpx.Client, request: Request) -> Answer:
        if self._stopped.is_set():
            raise DataError("stopped, because another request failed")
        self._budget.spend()
        try:
            reply = client.post(self._url, json=request.body)
        except httpx.TransportError as error:  # timeouts too
            raise Retriable(f"{type(error).__name__} ({error})") from error
        if reply.status_code in RETRIED_STATUS or reply.status_code >= 500:
            raise Retriable(self._describe(reply), _retry_after_s(reply))
        if reply.status_code != 200:
            hint = _HINTS.get(reply.status_code, "check prompts.llm")
            raise DataError(f"{self._url}: {self._describe(reply)}: {hint}.")
        return self._read(reply)

    def _read(self, reply: httpx.Response) -> Answer:
        try:
            body = reply.json()
            choice = body["choices"][0]
            text, usage = choice["message"]["content"], body.get("usage") or {}
            if not isinstance(text, str):
                raise TypeError("the content is no text")
            return Answer(text, choice.get("finish_reason") == "length", *_tokens(usage))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Retriable(f"no chat completion: {self._describe(reply)}") from error

    def _describe(self, reply: httpx.Response) -> str:
        excerpt = " ".join(reply.text.split())[:EXCERPT_CHARS]
        excerpt = excerpt.replace(self._key, "***") if self._key else excerpt
        return f"HTTP {reply.status_code}, {excerpt!r}"


def _tokens(usage: dict[str, Any]) -> tuple[int | None, int | None]:
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, answer = (count if isinstance(count, int) else None for count in counts)
    return prompt, answer


def _retry_after_s(reply: httpx.Response) -> float | None:
    """Seconds, from either form of the header; None where it is missing or makes no sense."""
    header = reply.headers.get("retry-after")
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _base_url(params: LlmParams) -> str:
    url = (params.base_url or "").rstrip("/")
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"prompts.llm.base_url = {params.base_url!r}: expected an address, http://... or https://...")
    return url


def _key(params: LlmParams) -> str | None:
    if params.api_key_env is None:
        return None
    key = os.environ.get(params.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"prompts.llm.api_key_env: the environment variable {params.api_key_env} is not set. Export it, or set "
            "api_key_env to null for an endpoint without a key."
        )
    return key
