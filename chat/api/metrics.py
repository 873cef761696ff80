"""GET /metrics: what Prometheus wants to know, by the names that llama.cpp's server has for it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from starlette.exceptions import HTTPException

from chat.api.identity import current_identity
from chat.identity import Identity
from chat.model_host import ModelHost
from model.engine.engine import Engine
from model.engine.generation import Generation

LAG_SECONDS = 0.5  # between two looks at how late the event loop is
SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
ROUTES = ("/api", "/v1", "/widget", "/widget.js", "/page", "/assets", "/health", "/metrics", "/login", "/logout")


class Metrics:
    """Counts what requests and replies come to."""

    def __init__(self, host: ModelHost, database: Path) -> None:
        """Watch the models of a host, and the write-ahead log of a database."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # series that tell when the others began
        self._registry = CollectorRegistry()
        self._host = host
        self._wal = database.with_name(f"{database.name}-wal")
        ProcessCollector(namespace="parley", registry=self._registry)
        self._make_counters()
        self._make_histograms()
        self._make_gauges()
        host.call_at_end(self._count_reply)

    def text(self) -> bytes:
        """Return all of them in Prometheus's own format."""
        return generate_latest(self._registry)

    def count_request(self, path: str, status: int) -> None:
        """Count an answer; the status is 0 if the client left before there was one."""
        root = f"/{path.split('/')[1]}" if path.startswith("/") else ""
        self._requests.labels(root if root in ROUTES else "other", status).inc()

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Measure how late the event loop is, as long as an application lives."""
        watching = asyncio.create_task(self._watch_loop())
        try:
            yield
        finally:
            watching.cancel()

    async def _watch_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            self._lag.observe(max(0.0, loop.time() - due))

    def _count_reply(self, owner: str, generation: Generation) -> None:
        usage = generation.usage
        assert usage is not None, "a generation that has ended has its usage"
        self._replies.labels(generation.finish_reason).inc()
        self._queue.observe(usage.queue_ms / 1000)
        self._cached.inc(usage.cached_tokens)
        if usage.ttft_ms is None:  # it never came to a token, and who knows how far it was
            return
        self._ttft.observe(usage.ttft_ms / 1000)
        self._read.inc(usage.prompt_tokens - usage.cached_tokens)
        self._read_seconds.inc(usage.prefill_ms / 1000)
        self._written.inc(usage.completion_tokens)
        self._written_seconds.inc(usage.decode_ms / 1000)

    def _make_counters(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, namespace="parley", registry=self._registry)

        self._requests = counter("http_requests", "Answers to HTTP requests.", "route", "status")
        self._replies = counter("replies", "Replies that have ended; cancelled ones were aborted.", "finish_reason")
        self._read = counter("prompt_tokens", "Tokens of prompts that the model has read.")
        self._cached = counter("prompt_tokens_cached", "Tokens of prompts that were in the cache.")
        self._read_seconds = counter("prompt_seconds", "Seconds from the start of replies to their first tokens.")
        self._written = counter("tokens_predicted", "Tokens that the model has written.")
        self._written_seconds = counter("tokens_predicted_seconds", "Seconds from first tokens to the ends of replies.")

    def _make_histograms(self) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, namespace="parley", registry=self._registry, buckets=buckets)

        self._ttft = histogram(
            "time_to_first_token_seconds", "From the request for a reply to its first token.", SECONDS
        )
        self._queue = histogram("queue_seconds", "From the request for a reply to its start.", SECONDS)
        self._lag = histogram("event_loop_lag_seconds", "How late the event loop was.", LAGS)

    def _make_gauges(self) -> None:
        def gauge(name: str, text: str, read: Callable[[], float]) -> None:
            Gauge(name, text, namespace="parley", registry=self._registry).set_function(read)

        def of_engine(read: Callable[[Engine], float]) -> Callable[[], float]:
            return lambda: read(model.engine) if (model := self._host.look()[1]) else 0

        gauge("requests_processing", "Replies that are being written.", of_engine(lambda engine: engine.n_running))
        gauge("requests_deferred", "Replies that wait for their turn.", of_engine(lambda engine: engine.n_waiting))
        gauge(
            "kv_cache_usage_ratio",
            "Share of the cache that replies hold.",
            of_engine(lambda engine: engine.cache_usage),
        )
        gauge(
            "n_busy_slots_per_decode",
            "Replies in a step, the mean of all steps.",
            of_engine(lambda engine: engine.n_busy / max(1, engine.n_steps)),
        )
        gauge("prompt_tokens_seconds", "Tokens of prompts read in a second, the mean of all replies.", self._read_rate)
        gauge("predicted_tokens_seconds", "Tokens written in a second, the mean of all replies.", self._write_rate)
        gauge("wal_bytes", "Length of the database's write-ahead log.", self._wal_bytes)

    def _read_rate(self) -> float:
        return _value(self._read) / max(1e-9, _value(self._read_seconds))

    def _write_rate(self) -> float:
        return _value(self._written) / max(1e-9, _value(self._written_seconds))

    def _wal_bytes(self) -> float:
        try:
            return self._wal.stat().st_size
        except OSError:  # there is none
            return 0


def metrics_routes(metrics: Metrics) -> APIRouter:
    """Return the route that tells them: to administrators, and to keys with the scope `metrics`."""
    routes = APIRouter()

    @routes.get("/metrics")
    def read(identity: Annotated[Identity, Depends(current_identity)]) -> Response:
        if identity.scopes is None and not identity.is_admin:  # the gate looks at the scopes of keys
            raise HTTPException(403, "Only an administrator may do this.")
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    return routes


def _value(counter: Counter) -> float:
    return next(sample.value for family in counter.collect() for sample in family.samples)
