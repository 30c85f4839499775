"""The language-model path against a real HTTP server that speaks the chat-completions protocol, on this machine."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from l2p.config import LlmParams, Params, PromptsParams, QualityParams, TaxonomyParams, load_params
from l2p.data.prompting.expansion import plan
from l2p.data.prompts import PromptSet, draw_prompts
from l2p.errors import ConfigError, DataError
from l2p.stages import prompts as stage

ROOT = Path(__file__).parents[2]
KEY = "sk-secret-of-the-test"
Reply = tuple[int, dict[str, str], str]


def completion(text: str, **choice: Any) -> Reply:
    message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} | choice
    usage = {"prompt_tokens": 100, "completion_tokens": 40}
    return 200, {}, json.dumps({"object": "chat.completion", "choices": [message], "usage": usage})


def well_behaved(request: dict[str, Any], _number: int) -> Reply:
    """One text a subject, which names the subject and the seed."""
    subjects = re.findall(r"^\d+\. (.*?) \(", request["messages"][-1]["content"], flags=re.MULTILINE)
    return completion(json.dumps([f"A picture of {subject}, seed {request['seed']}." for subject in subjects]))


class Server:
    """Answers POST /v1/chat/completions by `behave(request, number)`; keeps what was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.behave: Callable[[dict[str, Any], int], Reply] = well_behaved
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(request)
                    server.headers.append(dict(self.headers))
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                good = self.path == "/v1/chat/completions"
                status, headers, body = server.behave(request, number) if good else (404, {}, "no such path")
                with server._lock:
                    server._at_once -= 1
                with contextlib.suppress(OSError):  # the client has given up
                    self._send(status, headers, body.encode())

            def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def settings(server: Server, tmp_path: Path) -> dict[str, Any]:
    return {
        "base_url": server.url,
        "model": "writer",
        "prompts_per_request": 3,
        "concurrency": 4,
        "first_wait_s": 0.001,
        "max_wait_s": 5.0,
        "max_requests": 50,
        "cache": str(tmp_path / "answers"),
    }


def params(settings: dict[str, Any], count: int = 12, **quality: Any) -> PromptsParams:
    return PromptsParams(
        provider="taxonomy",
        count=count,
        seed=5,
        taxonomy=TaxonomyParams(expand="llm"),
        llm=LlmParams.model_validate(settings),
        quality=QualityParams.model_validate(quality),
    )


def first_then(first: Reply, times: int = 1) -> Callable[[dict[str, Any], int], Reply]:
    return lambda request, number: first if number < times else well_behaved(request, number)


def expansion(prompts: PromptSet) -> dict[str, Any]:
    return prompts.report()["expansion"]


def test_descriptions_are_asked_for_in_batches_and_each_belongs_to_its_subject(server: Server, settings):
    prompts = draw_prompts(params(settings))
    assert len(server.requests) == 4
    assert len(prompts.table) == 12
    for text, fine_class in zip(prompts.table["text"], prompts.table["fine_class"], strict=True):
        assert text.startswith(f"A picture of {fine_class}, seed ")
    assert expansion(prompts)["answer_tokens"] == 4 * 40
    assert "200 to 350 characters" in server.requests[0]["messages"][0]["content"]


def test_requests_run_concurrently_up_to_the_limit(server: Server, settings):
    together = threading.Barrier(4)

    def wait_for_the_others(request: dict[str, Any], number: int) -> Reply:
        together.wait()  # only passes when four requests are here at once
        return well_behaved(request, number)

    server.behave = wait_for_the_others
    draw_prompts(params(settings, count=24))
    assert server.most_at_once == 4


def test_the_order_of_prompts_does_not_depend_on_which_answer_comes_first(server: Server, settings, tmp_path: Path):
    plain = draw_prompts(params(settings)).table
    server.behave = lambda request, number: (time.sleep(0.05 * (3 - number % 4)), well_behaved(request, number))[1]
    other = draw_prompts(params(settings | {"cache": str(tmp_path / "other")})).table
    pd.testing.assert_frame_equal(plain, other)


def test_a_second_run_asks_nothing_and_gives_the_same(server: Server, settings):
    first = draw_prompts(params(settings))
    asked = len(server.requests)
    second = draw_prompts(params(settings))
    assert len(server.requests) == asked
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.report() == second.report()


def test_another_seed_or_model_asks_anew(server: Server, settings):
    draw_prompts(params(settings))
    draw_prompts(params(settings | {"model": "another"}))
    draw_prompts(params(settings).model_copy(update={"seed": 6}))
    assert len(server.requests) == 12


def test_a_damaged_answer_in_the_cache_is_asked_again(server: Server, settings):
    first = draw_prompts(params(settings)).table
    damaged = sorted(Path(settings["cache"]).rglob("*.json"))[0]
    damaged.write_text('{"request": {}, "ans', encoding="utf-8")
    pd.testing.assert_frame_equal(draw_prompts(params(settings)).table, first)
    assert len(server.requests) == 5


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_a_passing_refusal_is_tried_again(server: Server, settings, status: int):
    server.behave = first_then((status, {}, '{"error": "busy"}'), times=3)
    assert len(draw_prompts(params(settings)).table) == 12
    assert len(server.requests) == 4 + 3


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_rate_limit_is_waited_for_as_long_as_the_endpoint_asks(server: Server, settings, form: str):
    came: list[float] = []

    def limited(request: dict[str, Any], number: int) -> Reply:
        came.append(time.time())
        header = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
        return (429, {"Retry-After": header}, "slow down") if number == 0 else well_behaved(request, number)

    server.behave = limited
    draw_prompts(params(settings | {"concurrency": 1}, count=3))
    assert came[1] - came[0] >= 0.9


def test_a_longer_wait_than_allowed_stops_with_the_number(server: Server, settings):
    server.behave = lambda *_: (429, {"Retry-After": "3600"}, "come back tomorrow")
    with pytest.raises(DataError, match=r"asks to wait 3600 s, more than prompts\.llm\.max_wait_s = 5"):
        draw_prompts(params(settings))


@pytest.mark.parametrize("body", ["<html>busy</html>", "{}", '{"choices": []}', "[]", '{"choices": [{"message": {}}]}'])
def test_a_reply_that_is_no_chat_completion_is_tried_again(server: Server, settings, body: str):
    server.behave = first_then((200, {}, body))
    assert len(draw_prompts(params(settings)).table) == 12
    assert len(server.requests) == 5


def test_an_endpoint_that_stays_ill_stops_the_run_and_says_what_to_do(server: Server, settings):
    server.behave = lambda *_: (503, {}, "down for repair")
    with pytest.raises(DataError, match=r"no usable reply in 2 tries; the last: HTTP 503, 'down for repair'.*again"):
        draw_prompts(params(settings | {"max_attempts": 2}))


def test_a_slow_answer_is_given_up_and_asked_again(server: Server, settings):
    server.behave = lambda request, number: (time.sleep(1.5 if number == 0 else 0), well_behaved(request, number))[1]
    prompts = draw_prompts(params(settings | {"timeout_s": 0.5, "concurrency": 1}, count=3))
    assert len(prompts.table) == 3
    assert len(server.requests) == 2


def test_nobody_at_the_address_is_an_error_with_the_address(server: Server, settings):
    server.close()
    with pytest.raises(DataError, match=r"chat/completions: no usable reply in 2 tries; the last: ConnectError"):
        draw_prompts(params(settings | {"max_attempts": 2}))


@pytest.mark.parametrize(("status", "hint"), [(400, "max_tokens"), (401, "api_key_env"), (404, "base_url")])
def test_a_mistake_in_the_parameters_stops_at_once_with_a_hint(server: Server, settings, status: int, hint: str):
    server.behave = lambda *_: (status, {}, "no")
    with pytest.raises(DataError, match=f"HTTP {status}, 'no': .*{hint}"):
        draw_prompts(params(settings | {"concurrency": 1}))
    assert len(server.requests) == 1


def test_the_failure_that_stopped_the_others_is_the_one_that_is_told(server: Server, settings):
    server.behave = lambda request, number: (401, {}, "no") if number == 3 else (503, {"Retry-After": "4"}, "busy")
    with pytest.raises(DataError, match="HTTP 401"):
        draw_prompts(params(settings))
    assert len(server.requests) == 4


def test_the_key_comes_from_the_environment_and_is_written_nowhere(
    server: Server, settings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WRITER_KEY", KEY)
    with_key = settings | {"api_key_env": "WRITER_KEY"}
    draw_prompts(params(with_key))
    assert {header["Authorization"] for header in server.headers} == {f"Bearer {KEY}"}
    assert not [path for path in Path(settings["cache"]).rglob("*.json") if KEY in path.read_text(encoding="utf-8")]
    server.behave = lambda *_: (401, {}, f"key {KEY} is not valid")
    with pytest.raises(DataError, match=r"key \*\*\* is not valid") as caught:
        draw_prompts(params(with_key | {"model": "another"}))
    assert KEY not in str(caught.value)


def test_a_key_that_is_not_set_is_named_before_anything_is_asked(server: Server, settings, monkeypatch):
    monkeypatch.delenv("WRITER_KEY", raising=False)
    with pytest.raises(ConfigError, match="environment variable WRITER_KEY is not set"):
        draw_prompts(params(settings | {"api_key_env": "WRITER_KEY"}))
    assert not server.requests


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http://"])
def test_an_address_that_is_none_is_refused(settings, url: str):
    with pytest.raises(ConfigError, match=r"prompts\.llm\.base_url"):
        draw_prompts(params(settings | {"base_url": url}))


NONSENSE = [
    completion("I cannot help with that."),
    completion('["only one"]'),
    completion('["a", "b", 3]'),
    completion('["cut, "off'),
    completion('["a", "b", "c"]', finish_reason="length"),
    completion(""),
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_rejected_with_its_reason_and_made_up_for(server: Server, settings, nonsense: Reply):
    server.behave = first_then(nonsense)
    prompts = draw_prompts(params(settings | {"concurrency": 1}))
    assert len(prompts.table) == 12
    assert prompts.rejected["reason"].tolist() == ["unusable_answer"] * 3
    assert all(prompts.rejected["origin"].str.contains(" > "))
    assert len(server.requests) == 5


@pytest.mark.parametrize(
    "form", ["```json\n{}\n```", "<think>[hm]</think>\n{}", 'Here you are: {{"descriptions": {}}}', "{}"]
)
def test_an_array_is_found_in_what_models_wrap_it_in(server: Server, settings, form: str):
    texts = json.dumps(["first text", "second text", "third text"])
    server.behave = lambda *_: completion(form.format(texts))
    assert len(draw_prompts(params(settings, count=3)).table) == 3


def test_a_model_that_only_writes_nonsense_stops_the_run(server: Server, settings):
    server.behave = lambda *_: completion("la la la")
    with pytest.raises(DataError, match=r"3 rounds gave no usable prompt; the last: unusable_answer, no JSON array"):
        draw_prompts(params(settings))
    assert len(server.requests) == 12


def test_what_the_quality_rules_reject_is_asked_again_with_other_subjects(server: Server, settings):
    prompts = draw_prompts(params(settings, blocklist=["portrait", "harbour"], max_length_chars=48))
    assert len(prompts.table) == 12
    assert prompts.table["text"].is_unique
    assert set(prompts.rejected["reason"]) <= {"blocklist", "too_long"}
    assert len(prompts.rejected) > 0


def test_the_limit_counts_every_try_and_is_never_exceeded(server: Server, settings):
    server.behave = lambda request, number: (500, {}, "") if number % 2 else well_behaved(request, number)
    with pytest.raises(DataError, match=r"max_requests = 6 are used up.* of prompts\.count = 60 .*answers so far"):
        draw_prompts(params(settings | {"max_requests": 6, "concurrency": 2, "max_attempts": 20}, count=60))
    assert len(server.requests) == 6


def test_a_run_that_failed_goes_on_where_it_stopped(server: Server, settings):
    whole = draw_prompts(params(settings)).table
    server.requests.clear()
    elsewhere = settings | {"cache": settings["cache"] + "-again", "concurrency": 1}
    server.behave = lambda request, number: well_behaved(request, number) if number < 2 else (400, {}, "broken")
    with pytest.raises(DataError, match="HTTP 400"):
        draw_prompts(params(elsewhere))
    server.behave = well_behaved
    pd.testing.assert_frame_equal(draw_prompts(params(elsewhere)).table, whole)
    assert len(server.requests) == 2 + 1 + 2


def project(folder: Path, settings: dict[str, Any], count: int) -> Params:
    """A params.yaml in `folder` that expands the taxonomy at the server."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw["prompts"] |= {"provider": "taxonomy", "count": count, "seed": 5}
    raw["prompts"]["taxonomy"]["expand"] = "llm"
    raw["prompts"]["llm"] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params(folder / "params.yaml")


def test_a_killed_run_resumes_without_asking_again_for_what_it_has(server: Server, settings, tmp_path: Path):
    project(tmp_path, settings | {"concurrency": 2}, count=60)
    command = [sys.executable, "-m", "l2p.cli", "prompts"]
    server.behave = lambda request, number: (time.sleep(0.2), well_behaved(request, number))[1]
    running = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(list(Path(settings["cache"]).rglob("*.json"))) < 6:
        assert running.poll() is None, running.stderr
        time.sleep(0.02)
    running.kill()
    running.wait()
    assert not (tmp_path / "data" / "prompts" / "prompts.parquet").exists()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    table = pd.read_parquet(tmp_path / "data" / "prompts" / "prompts.parquet")
    assert len(table) == 60
    assert len(server.requests) <= 20 + 2  # at most those under way at the kill are asked twice
    asked = {json.dumps(request, sort_keys=True) for request in server.requests}
    assert len(asked) == 20


def test_a_dry_run_says_requests_and_tokens_and_asks_nothing(server: Server, settings, tmp_path: Path, capsys):
    found = project(tmp_path, settings, count=60)
    stage.run(found, dry_run=True)
    said = capsys.readouterr().out
    assert "20 requests to writer for 60 prompts, 0 of them answered already" in said
    assert re.search(r"about [\d,]+ prompt tokens and 5,250 answer tokens", said)
    assert "hard limit: 50 requests" in said
    assert not server.requests
    stage.run(project(tmp_path, settings | {"max_requests": 10}, count=60), dry_run=True)
    assert "limit is too low" in capsys.readouterr().out


def test_a_dry_run_without_a_language_model_says_so(capsys):
    stage.run(load_params(ROOT / "params.yaml"), dry_run=True)
    assert "0 requests: provider shapes" in capsys.readouterr().out


def test_the_plan_depends_on_the_parameters_alone(settings):
    one, same = plan(params(settings)), plan(params(settings | {"base_url": "http://elsewhere/v1", "concurrency": 1}))
    assert [next(one).request.digest for _ in range(5)] == [next(same).request.digest for _ in range(5)]
