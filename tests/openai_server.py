"""The API for OpenAI's clients on an engine that the test holds in its hands, over a real connection."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fake_runner import END, Counting, FakeRunner
from fastapi import FastAPI
from openai import OpenAI
from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.v1.server import create_v1
from chat.bus import Bus
from chat.context import ContextBuilder
from chat.identity import Identity
from chat.loaded_model import LoadedModel
from chat.model_host import ModelHost
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.sequence import Limits

N_CTX = 1_000
HELLO = [{"role": "user", "content": "hello"}]


class Known:
    """Middleware that takes everybody for one owner: the X-Owner that a request names, or ada."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            owner = dict(scope["headers"]).get(b"x-owner", b"ada").decode()
            scope["identity"] = Identity(owner, owner, is_admin=False)
        await self._app(scope, receive, send)


@dataclass(frozen=True)
class V1:
    """A server of /v1, and what stands behind it."""

    url: str
    model: LoadedModel
    bus: Bus

    def client(self, **options: Any) -> OpenAI:
        """Return the unmodified client; it asks once only, so that each error is seen."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="any", **{"max_retries": 0, "timeout": 60, **options})

    def post(self, path: str, body: object, owner: str = "ada") -> httpx.Response:
        """Send a body that the client would refuse to send: JSON, or a text as it is."""
        content = body if isinstance(body, str) else json.dumps(body)  # httpx refuses NaN and half of a pair
        headers = {"Content-Type": "application/json", "X-Owner": owner}
        return httpx.post(f"{self.url}/v1{path}", content=content, headers=headers, timeout=60)

    def wait_until_idle(self) -> None:
        """Wait until the engine has nothing to do."""
        deadline = time.monotonic() + 20
        while self.model.engine.n_running or self.model.engine.n_waiting:
            assert time.monotonic() < deadline, "it goes on, though nobody waits for it"
            time.sleep(0.005)


@contextmanager
def serve_v1(model: LoadedModel) -> Iterator[V1]:
    """Serve a model to OpenAI's clients, in a thread."""
    with closing(ModelHost(lambda name, bar: nullcontext(model))) as host:
        host.load(model.name)
        host.wait()
        app, bus = FastAPI(), Bus()
        app.add_middleware(Known)
        app.mount("/v1", create_v1(host, bus))
        with serve(app) as url:
            yield V1(url, model, bus)


@contextmanager
def serve(app: FastAPI) -> Iterator[str]:
    """Serve an application on loopback, in a thread, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=3))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def load(checkpoint: Checkpoint, engine: Engine) -> LoadedModel:
    """Return the model that an engine computes, of so small a context as the engine's tests have."""
    builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, N_CTX)
    return LoadedModel("tiny", "0123456789abcdef", engine, builder, checkpoint.sampling_params, checkpoint.bos_id)


@dataclass(frozen=True)
class Counted(V1):
    """A server whose model counts, so that "abc" goes on as "defg…", and that stands still when it is told to."""

    runner: FakeRunner
    network: Counting
    ended: list[str | None]  # why each reply that has ended did

    def wait_for_ends(self, n: int) -> list[str | None]:
        """Wait until so many replies have ended; returns why they did."""
        deadline = time.monotonic() + 20
        while len(self.ended) < n:
            assert time.monotonic() < deadline, f"only {self.ended} have ended"
            time.sleep(0.005)
        return self.ended


@contextmanager
def serve_counting(checkpoint: Checkpoint) -> Iterator[Counted]:
    """Serve a model that counts."""
    network = Counting(checkpoint.tokenizer.n_vocab)
    runner = FakeRunner(network, n_blocks=1_200)
    ended: list[str | None] = []
    with closing(Engine(runner, checkpoint.tokenizer, Limits(N_CTX, frozenset({END})))) as engine:
        engine.call_at_end(lambda owner, generation: ended.append(generation.finish_reason))
        with serve_v1(load(checkpoint, engine)) as v1:
            yield Counted(v1.url, v1.model, v1.bus, runner, network, ended)
        runner.gate.set()
