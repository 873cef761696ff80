"""Replies are written as long as somebody waits for them: streams, and all the ways in which they end."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from event_readers import eventually
from openai import APIConnectionError, APIError, APITimeoutError, InternalServerError, OpenAI
from openai_server import HELLO, Counted, serve_counting

from chat.api.v1 import reading
from model.checkpoint.checkpoint import Checkpoint
from model.engine.scheduler import MAX_RUNNING, MAX_WAITING

ENDLESS = {"model": "tiny", "messages": HELLO, "temperature": 0, "max_tokens": 900}
ROOM = 1 + MAX_WAITING // 2  # of one owner, while the model stands still
LONG = {**ENDLESS, "messages": [{"role": "user", "content": "abc " * 200}]}  # its prompt takes several steps


@pytest.fixture
def v1(tiny_checkpoint: Checkpoint) -> Iterator[Counted]:
    with serve_counting(tiny_checkpoint) as v1:
        v1.network.at = dict.fromkeys(range(265), lambda: time.sleep(0.01))  # 900 tokens take nine seconds
        yield v1


@pytest.fixture
def client(v1: Counted) -> Iterator[OpenAI]:
    with v1.client() as client:
        yield client


def n_replies(v1: Counted) -> int:
    """Return how many replies are being written, or wait for it."""
    return v1.model.engine.n_running + v1.model.engine.n_waiting


def connect(v1: Counted, body: object) -> socket.socket:
    """Send a request over a bare connection."""
    text = json.dumps(body)
    connection = socket.create_connection(("127.0.0.1", int(v1.url.rpartition(":")[2])), timeout=20)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(text)}\r\n\r\n{text}".encode())
    return connection


def fill(v1: Counted, connections: ExitStack, n: int) -> None:
    """Open so many streams on a model that stands still: the first one in its step, the others in line."""
    for number in range(n):
        connections.enter_context(connect(v1, {**ENDLESS, "stream": True}))
        eventually(lambda: n_replies(v1) > number and v1.model.engine.n_running > 0)  # noqa: B023


def test_a_stream_that_is_closed_ends_its_reply(v1: Counted, client: OpenAI) -> None:
    with client.chat.completions.create(**ENDLESS, stream=True) as stream:
        next(stream)
        assert v1.model.engine.n_running == 1
    assert v1.wait_for_ends(1) == ["cancelled"]


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("body", [ENDLESS, LONG], ids=["decode", "prefill"])
def test_a_client_that_vanishes_ends_its_replies(v1: Counted, body: dict[str, object], n: int, stream: bool) -> None:
    v1.runner.hold()
    with connect(v1, {**body, "stream": stream, "n": n}):
        eventually(lambda: n_replies(v1) == n and v1.runner.entered.is_set())
    eventually(lambda: n_replies(v1) == 0)  # before the model takes another step
    assert v1.wait_for_ends(n) == ["cancelled"] * n
    n_steps = len(v1.runner.steps)
    v1.runner.gate.set()
    assert v1.post("/chat/completions", {**ENDLESS, "max_tokens": 1}).status_code == 200
    assert len(v1.runner.steps) == n_steps + 2  # the one in which they left, and that of this answer


def test_a_connection_that_is_reset_ends_its_reply(v1: Counted) -> None:
    connection = connect(v1, {**ENDLESS, "stream": True})
    assert connection.recv(10)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert v1.wait_for_ends(1) == ["cancelled"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_whoever_leaves_the_line_is_never_answered(v1: Counted, stream: bool) -> None:
    v1.runner.hold()
    with ExitStack() as others:
        fill(v1, others, MAX_RUNNING)
        with connect(v1, {**ENDLESS, "stream": stream}):
            eventually(lambda: n_replies(v1) == MAX_RUNNING + 1)
        eventually(lambda: n_replies(v1) == MAX_RUNNING)
    assert v1.wait_for_ends(MAX_RUNNING + 1) == ["cancelled"] * (MAX_RUNNING + 1)


def test_a_client_without_patience_ends_its_reply(v1: Counted) -> None:
    with v1.client(timeout=2) as client, pytest.raises(APITimeoutError):
        client.chat.completions.create(**ENDLESS)
    assert v1.wait_for_ends(1) == ["cancelled"]


def test_those_who_stay_get_their_whole_replies(v1: Counted, client: OpenAI) -> None:
    v1.network.at = dict.fromkeys(range(265), lambda: time.sleep(0.002))  # of up to eight in each step
    alone = client.chat.completions.create(**{**ENDLESS, "max_tokens": 200}).choices[0].message.content
    replies: list[str | None] = []

    def read() -> None:
        with v1.client() as own:
            answer = own.chat.completions.create(**{**ENDLESS, "max_tokens": 200})
            replies.append(answer.choices[0].message.content)

    readers = [threading.Thread(target=read) for _ in range(4)]
    leaving = [connect(v1, {**ENDLESS, "stream": True}) for _ in range(4)]
    for reader in readers:
        reader.start()
    for connection in leaving:
        assert connection.recv(10)
        connection.close()
    for reader in readers:
        reader.join()
    assert replies == [alone] * 4
    assert sorted(map(str, v1.wait_for_ends(9))) == ["cancelled"] * 4 + ["length"] * 5


def test_no_thread_waits_for_a_stream(v1: Counted) -> None:
    v1.runner.hold()
    with ExitStack() as open_streams:
        n_threads = threading.active_count()
        fill(v1, open_streams, ROOM)
        assert threading.active_count() <= n_threads + 5  # of the pool, which prepares prompts
        v1.runner.gate.set()


def test_who_waits_hears_that_the_connection_lives(v1: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PING_SECONDS", 0.05)
    v1.runner.hold()
    body = {**ENDLESS, "stream": True}
    with httpx.stream("POST", f"{v1.url}/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(4)] == [": ping", "", ": ping", ""]
        v1.runner.gate.set()
        assert next(line for line in lines if line.startswith("data: "))


def test_a_stream_is_of_events_that_are_one_line_of_ascii(v1: Counted) -> None:
    v1.network.at = {}
    body = {**ENDLESS, "messages": [{"role": "user", "content": "é\u2028\r\n\x85data: x"}], "max_tokens": 600}
    answer = v1.post("/chat/completions", {**body, "stream": True})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["Cache-Control"], answer.headers["X-Accel-Buffering"]) == ("no-store", "no")
    events = answer.content.decode("ascii").split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == v1.post("/chat/completions", body).json()["choices"][0]["message"]["content"]
    assert "\r" in said  # of the model's own, which counts through all bytes


def test_parley_says_in_mid_stream_that_it_ends(v1: Counted, client: OpenAI) -> None:
    stream = client.chat.completions.create(**ENDLESS, stream=True)
    next(stream)
    v1.bus.close()
    with pytest.raises(APIError) as caught:
        list(stream)
    assert caught.value.code == "shutting_down"
    assert v1.wait_for_ends(1) == ["cancelled"]


def test_parley_says_that_it_ends_instead_of_an_answer(v1: Counted, client: OpenAI) -> None:
    v1.runner.hold()

    def close() -> None:
        eventually(lambda: n_replies(v1) == 1)
        v1.bus.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(InternalServerError) as caught:
        client.chat.completions.create(**ENDLESS)
    closing.join()
    assert (caught.value.status_code, caught.value.code) == (503, "shutting_down")
    with pytest.raises(InternalServerError):  # so do all that come later
        client.chat.completions.create(**ENDLESS)


def test_a_reply_that_fails_in_mid_stream_says_so(v1: Counted, client: OpenAI) -> None:
    v1.network.bad = {60}
    stream = client.completions.create(model="tiny", prompt="!", max_tokens=100, temperature=0, stream=True)
    with pytest.raises(APIError, match="not finite") as caught:
        list(stream)
    assert caught.value.code == "reply_failed"
    with pytest.raises(InternalServerError, match="not finite") as failed:
        client.completions.create(model="tiny", prompt="!", max_tokens=100, temperature=0)
    assert (failed.value.status_code, failed.value.code) == (500, "reply_failed")


def test_the_words_before_a_failure_are_told(v1: Counted) -> None:
    v1.network.bad = {60}
    body = {"model": "tiny", "prompt": "!", "max_tokens": 100, "temperature": 0}
    *words, error = v1.post("/completions", {**body, "stream": True}).text.strip().split("\n\n")
    assert len(words) > 10
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "reply_failed"


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_worker_that_dies_leaves_nobody_waiting(v1: Counted, client: OpenAI, stream: bool) -> None:
    v1.runner.broken = True
    with pytest.raises(APIError, match="The engine has stopped"):
        list(client.chat.completions.create(**ENDLESS, stream=stream))
    with pytest.raises(InternalServerError) as caught:
        client.chat.completions.create(**ENDLESS)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_stopped")


def test_a_full_engine_says_when_to_come_again(v1: Counted, client: OpenAI) -> None:
    v1.runner.hold()
    with ExitStack() as others:
        fill(v1, others, ROOM)
        with pytest.raises(InternalServerError, match="of your replies are waiting already") as caught:
            client.chat.completions.create(**ENDLESS, n=2)
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["Retry-After"]) >= 1
    assert v1.wait_for_ends(ROOM) == ["cancelled"] * ROOM


def test_a_request_is_answered_in_whole_or_not_at_all(v1: Counted) -> None:
    """Two of three replies find room in the line; they are taken out of it again."""
    v1.runner.hold()
    with ExitStack() as others:
        fill(v1, others, ROOM - 2)
        assert v1.post("/chat/completions", {**ENDLESS, "n": 3}).status_code == 503
        assert n_replies(v1) == ROOM - 2
        v1.runner.gate.set()


def test_a_server_that_is_gone_is_an_error_of_the_connection(tiny_checkpoint: Checkpoint) -> None:
    with serve_counting(tiny_checkpoint) as v1:
        client = v1.client()
    with client, pytest.raises(APIConnectionError):
        client.models.list()


def test_a_client_that_does_not_read_does_not_hold_up_the_model(v1: Counted) -> None:
    v1.network.at = {}
    with connect(v1, {**ENDLESS, "n": 4, "stream": True, "logprobs": True, "top_logprobs": 20}) as connection:
        assert v1.wait_for_ends(4) == ["length"] * 4
        assert connection.recv(1_000)  # of far more than buffers hold
    assert v1.post("/chat/completions", {**ENDLESS, "max_tokens": 1}).status_code == 200
