"""A model is loaded behind those who chat with another, and what becomes of it is told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from conftest import ScriptedEngine
from event_readers import eventually

from chat.context import ContextBuilder
from chat.errors import ModelNotReady, NotPossible
from chat.loaded_model import LoadedModel
from chat.model_host import ModelHost
from chat.progress import ProgressBar
from model.engine.engine import Engine
from model.errors import CheckpointError
from model.sampling_params import SamplingParams


class Shelf:
    """Models as they are opened: each waits until the test lets it come, and tells when it has been closed."""

    def __init__(self) -> None:
        self.gates: dict[str, threading.Event] = {}
        self.engines: dict[str, ScriptedEngine] = {}
        self.closed: list[str] = []
        self.failures: dict[str, Exception] = {}

    def let(self, name: str) -> None:
        self.gates.setdefault(name, threading.Event()).set()

    @contextmanager
    def open(self, name: str, bar: ProgressBar) -> Iterator[LoadedModel]:
        with bar(f"Loading {name}", "tensors") as progress:
            progress(1, 2)
            assert self.gates.setdefault(name, threading.Event()).wait(20)
            progress(2, 2)
        if name in self.failures:
            raise self.failures[name]
        engine = self.engines[name] = ScriptedEngine()
        engine.n_running = engine.n_waiting = 0
        yield LoadedModel(name, "", cast(Engine, engine), cast(ContextBuilder, None), SamplingParams())
        self.closed.append(name)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def host(shelf: Shelf) -> Iterator[ModelHost]:
    host = ModelHost(shelf.open)
    yield host
    for gate in shelf.gates.values():
        gate.set()
    host.close()


def look(host: ModelHost) -> tuple[Any, ...]:
    status, _ = host.look()
    return status.state, status.name, status.next, status.error


def test_there_is_no_model_before_one_is_loaded(host: ModelHost) -> None:
    with pytest.raises(ModelNotReady, match=r"^The model is still being loaded: try again in a moment\.$"):
        host.model()


def test_what_is_loaded_tells_how_far_it_is(host: ModelHost, shelf: Shelf) -> None:
    host.load("small")
    eventually(lambda: host.look()[0].done == 1)
    status, model = host.look()
    assert (status.state, status.next, status.label, status.total, model) == (
        "loading",
        "small",
        "Loading small",
        2,
        None,
    )
    shelf.let("small")
    assert host.wait().name == "small"
    assert look(host) == ("ready", "small", None, None)


def test_who_listens_hears_of_each_change(host: ModelHost, shelf: Shelf) -> None:
    heard: list[str | None] = []
    with host.listening(lambda: heard.append(host.look()[0].next)):
        host.load("small")
        shelf.let("small")
        host.wait()
    assert heard[0] == "small"
    assert heard[-1] is None
    n_heard = len(heard)
    host.load("large")
    assert len(heard) == n_heard


def test_the_old_model_serves_until_the_new_one_is_ready(host: ModelHost, shelf: Shelf) -> None:
    shelf.let("small")
    host.load("small")
    host.wait()
    host.load("large")
    assert look(host) == ("ready", "small", "large", None)
    assert host.model().name == "small"
    shelf.let("large")
    assert host.wait().name == "large"
    eventually(lambda: shelf.closed == ["small"])


def test_the_old_model_is_closed_only_when_it_has_written_its_last_reply(host: ModelHost, shelf: Shelf) -> None:
    shelf.let("small")
    host.load("small")
    host.wait()
    shelf.engines["small"].n_running = 1
    shelf.let("large")
    host.load("large")
    eventually(lambda: host.model().name == "large")
    assert shelf.closed == []
    shelf.engines["small"].n_running = 0
    eventually(lambda: shelf.closed == ["small"])


def test_a_second_model_waits_for_the_first(host: ModelHost) -> None:
    host.load("small")
    with pytest.raises(NotPossible, match=r"^The model small is being loaded: wait until it is here\.$"):
        host.load("large")


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (CheckpointError("small.gguf: expected a GGUF file"), "small.gguf: expected a GGUF file"),
        (OSError("no space"), "no space"),
        (RuntimeError("a fault"), "The model small could not be loaded; Parley's log says why."),
    ],
)
def test_why_a_model_is_not_there_is_told(host: ModelHost, shelf: Shelf, failure: Exception, reason: str) -> None:
    shelf.failures["small"] = failure
    shelf.let("small")
    host.load("small")
    with pytest.raises(ModelNotReady) as error:
        host.wait()
    assert str(error.value) == reason
    assert look(host) == ("failed", "small", None, reason)


def test_where_a_model_is_on_this_machine_is_not_told(
    host: ModelHost, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    path = "/home/ada/models/small.gguf"
    shelf.failures[path] = CheckpointError(f"{path}: expected a GGUF file")
    shelf.let(path)
    host.load("~/models/small.gguf")
    with pytest.raises(ModelNotReady, match=r"^small: expected a GGUF file$"):
        host.wait()


def test_a_model_that_fails_leaves_the_old_one_in_use(host: ModelHost, shelf: Shelf) -> None:
    shelf.failures["large"] = CheckpointError("large: no")
    for name in ("small", "large"):
        shelf.let(name)
        host.load(name)
        host.wait()
    assert host.model().name == "small"
    assert look(host) == ("ready", "small", None, "large: no")


def test_another_model_can_be_loaded_after_a_failure(host: ModelHost, shelf: Shelf) -> None:
    shelf.failures["small"] = CheckpointError("no")
    for name in ("small", "large"):
        shelf.let(name)
        host.load(name)
        try:
            host.wait()
        except ModelNotReady:
            assert name == "small"
    assert look(host) == ("ready", "large", None, None)


def test_what_is_being_loaded_at_the_end_is_given_up(host: ModelHost, shelf: Shelf) -> None:
    host.load("small")
    host.close()
    shelf.let("small")
    with pytest.raises(ModelNotReady):
        host.wait()
    assert shelf.engines == {}


def test_nothing_is_loaded_after_the_end(host: ModelHost, shelf: Shelf) -> None:
    host.close()
    host.load("small")
    assert host.look()[0].next is None
    assert not shelf.gates
