"""What Prometheus is told: read as Prometheus reads it."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from conftest import Server
from event_readers import SECONDS, eventually
from fake_runner import END, Counting, FakeRunner
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from chat.api.errors import register_errors
from chat.api.health import health_routes
from chat.api.identity import current_identity
from chat.api.metrics import LAG_SECONDS, Metrics, metrics_routes
from chat.context import ContextBuilder
from chat.identity import Identity
from chat.loaded_model import LoadedModel
from chat.model_host import ModelHost
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.sequence import Limits
from model.sampling_params import SamplingParams

LLAMA_CPP = [  # of its server, each with "llamacpp:" before it
    "prompt_tokens_total",
    "prompt_seconds_total",
    "tokens_predicted_total",
    "tokens_predicted_seconds_total",
    "n_busy_slots_per_decode",
    "prompt_tokens_seconds",
    "predicted_tokens_seconds",
    "kv_cache_usage_ratio",
    "requests_processing",
    "requests_deferred",
]


def read(text: str) -> dict[str, float]:
    """Return the samples of a text by their names with their labels' values."""
    families = text_string_to_metric_families(text)
    samples = [sample for family in families for sample in family.samples]
    return {" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples}


@contextmanager
def host_of(engine: Engine) -> Iterator[ModelHost]:
    """A host of a model, which it has not loaded yet."""
    model = LoadedModel("tiny", "", engine, cast(ContextBuilder, None), SamplingParams())
    with closing(ModelHost(lambda name, bar: nullcontext(model))) as host:
        yield host


@pytest.fixture
def host(tiny_engine: Engine) -> Iterator[ModelHost]:
    with host_of(tiny_engine) as host:
        yield host


@pytest.fixture
def metrics(host: ModelHost, tmp_path: Path) -> Metrics:
    return Metrics(host, tmp_path / "parley.db")


def test_they_have_the_names_of_llama_cpp(metrics: Metrics) -> None:
    samples = read(metrics.text().decode())
    assert {f"parley_{name}" for name in LLAMA_CPP} <= samples.keys()
    assert all(name.startswith("parley_") for name in samples)


def test_replies_are_counted(metrics: Metrics, host: ModelHost, tiny_engine: Engine) -> None:
    host.load("tiny")
    host.wait()
    params = SamplingParams(max_tokens=5, min_tokens=5, temperature=0)
    for _ in range(2):
        for _ in tiny_engine.submit(list(range(3, 43)), params, owner="ada"):
            pass
    eventually(lambda: read(metrics.text().decode()).get("parley_replies_total length") == 2)
    samples = read(metrics.text().decode())
    cached = samples["parley_prompt_tokens_cached_total"]
    assert cached > 0
    assert samples["parley_prompt_tokens_total"] == 80 - cached
    assert samples["parley_tokens_predicted_total"] == 10
    for name in ("prompt_seconds_total", "tokens_predicted_seconds_total", "prompt_tokens_seconds"):
        assert samples[f"parley_{name}"] > 0
    assert samples["parley_time_to_first_token_seconds_count"] == samples["parley_queue_seconds_count"] == 2
    assert samples["parley_n_busy_slots_per_decode"] == 1
    assert samples["parley_kv_cache_usage_ratio"] == 0
    seconds = samples["parley_tokens_predicted_seconds_total"]
    assert samples["parley_predicted_tokens_seconds"] == pytest.approx(10 / seconds)


def test_what_goes_on_is_told(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    network = Counting(tiny_checkpoint.tokenizer.n_vocab)
    runner, may_go_on = FakeRunner(network), threading.Event()
    limits = Limits(tiny_checkpoint.config.n_ctx, frozenset({END}))
    with closing(Engine(runner, tiny_checkpoint.tokenizer, limits)) as engine, host_of(engine) as host:
        metrics = Metrics(host, tmp_path / "parley.db")
        host.load("tiny")
        host.wait()
        runner.hold()
        replies = [engine.submit([3, 4, 5], SamplingParams(temperature=0), owner="ada") for _ in range(20)]
        network.at[7] = lambda: may_go_on.wait(SECONDS)  # the first reply's third step, when the others have begun
        runner.gate.set()
        eventually(lambda: read(metrics.text().decode())["parley_requests_processing"] == 16)
        eventually(lambda: read(metrics.text().decode())["parley_n_busy_slots_per_decode"] > 1)
        samples = read(metrics.text().decode())
        assert samples["parley_requests_deferred"] == 4
        assert 0 < samples["parley_kv_cache_usage_ratio"] <= 1
        for reply in replies:
            reply.cancel()
        may_go_on.set()
        eventually(lambda: read(metrics.text().decode()).get("parley_replies_total cancelled") == 20)
        samples = read(metrics.text().decode())
        assert samples["parley_requests_processing"] == samples["parley_kv_cache_usage_ratio"] == 0


def test_the_write_ahead_log_is_measured(metrics: Metrics, tmp_path: Path) -> None:
    assert read(metrics.text().decode())["parley_wal_bytes"] == 0
    (tmp_path / "parley.db-wal").write_bytes(b"x" * 4096)
    assert read(metrics.text().decode())["parley_wal_bytes"] == 4096


def test_an_event_loop_that_is_held_up_is_told_of(metrics: Metrics) -> None:
    async def hold_up() -> None:
        async with metrics.lifespan(FastAPI()):
            await asyncio.sleep(0.01)
            time.sleep(LAG_SECONDS + 0.3)
            await asyncio.sleep(LAG_SECONDS / 2)

    asyncio.run(hold_up())
    samples = read(metrics.text().decode())
    assert samples["parley_event_loop_lag_seconds_count"] >= 1
    assert samples["parley_event_loop_lag_seconds_sum"] > 0.25


@pytest.mark.parametrize(
    ("identity", "status"),
    [
        (Identity("ada", "Ada", is_admin=True), 200),
        (Identity("bob", "Bob", is_admin=False), 403),
        (Identity("bob", "Bob", is_admin=False, scopes=frozenset({"metrics"})), 200),  # the gate lets no other in
    ],
)
def test_they_are_for_administrators_and_their_programs(metrics: Metrics, identity: Identity, status: int) -> None:
    app = FastAPI()
    register_errors(app)
    app.dependency_overrides[current_identity] = lambda: identity
    app.include_router(metrics_routes(metrics))
    answer = TestClient(app).get("/metrics")
    assert answer.status_code == status
    assert status != 200 or answer.headers["Content-Type"].startswith("text/plain; version=")


# Health


def test_health_tells_whether_replies_can_be_written(host: ModelHost, tiny_engine: Engine) -> None:
    app = FastAPI()
    app.include_router(health_routes(host))
    client = TestClient(app)

    def look() -> tuple[int, Any, str | None]:
        answer = client.get("/health")
        assert client.head("/health").status_code == answer.status_code
        assert client.head("/health").text == ""
        return answer.status_code, answer.json()["status"], answer.headers.get("Retry-After")

    assert look() == (503, "loading", "1")
    host.load("tiny")
    host.wait()
    assert look() == (200, "ok", None)
    tiny_engine.close()
    assert look() == (503, "error", "1")


def test_health_tells_of_a_model_that_cannot_be_loaded() -> None:
    def fail(name: str, bar: object) -> Any:
        raise OSError("no such file")

    with closing(ModelHost(fail)) as host:
        app = FastAPI()
        app.include_router(health_routes(host))
        host.load("none")
        eventually(lambda: host.look()[0].state == "failed")
        answer = TestClient(app).get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "error"})


def test_the_real_server_tells(start_server: Callable[..., Server], tiny_path: Path) -> None:
    server = start_server(tiny_path)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        chat = client.post("/api/conversations", json={}).json()["id"]
        client.post(f"/api/conversations/{chat}/messages", json={"content": "hello", "params": {"max_tokens": 4}})

        def samples() -> dict[str, float]:
            return read(client.get("/metrics").raise_for_status().text)

        eventually(lambda: samples().get("parley_time_to_first_token_seconds_count") == 1)
        assert samples()["parley_http_requests_total /api 202"] == 1
        assert samples()["parley_wal_bytes"] > 0
        assert samples()["parley_process_resident_memory_bytes"] > 1e8
        assert client.get("/metrics", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
