import pickle
from collections.abc import Iterator

import pytest
from bench_openers import Clumsy, refuse

from model.bench.worker import Worker, peak_memory
from model.errors import ModelError


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    with Worker("clumsy", Clumsy) as worker:
        yield worker


def test_a_call_returns_the_answer_whatever_libraries_print(worker: Worker) -> None:
    assert worker.call("add", 1, 2) == 3
    assert worker.start_up > 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (("refuse",), "clumsy: no such file"),
        (("divide", 1, 0), "clumsy: ZeroDivisionError: division by zero"),
        (("fly",), "clumsy: AttributeError: 'Clumsy' object has no attribute 'fly'"),
    ],
)
def test_an_error_is_raised_here_and_the_worker_lives_on(worker: Worker, call: tuple[object, ...], text: str) -> None:
    with pytest.raises(ModelError) as caught:
        worker.call(*call)  # type: ignore[arg-type]
    assert str(caught.value) == text
    assert worker.call("add", 2, 2) == 4


def test_memory_is_the_workers_own_peak(worker: Worker) -> None:
    ballast = bytearray(b"1") * 400_000_000  # in this process, which has torch loaded as well
    assert peak_memory() > len(ballast)
    assert worker.call("grow", 100_000_000) == 100_000_000
    assert 100_000_000 < worker.peak_memory < 400_000_000


def test_a_contestant_that_cannot_be_opened_is_an_error() -> None:
    with pytest.raises(ModelError, match="^clumsy: model.gguf: cannot be loaded$"):
        Worker("clumsy", refuse)


def test_a_process_that_ends_is_an_error() -> None:
    with (
        Worker("clumsy", Clumsy) as worker,
        pytest.raises(ModelError, match=r"^clumsy: the process ended \(exit code 3\)\.$"),
    ):
        worker.call("die")


def test_what_has_no_name_to_import_is_refused() -> None:
    with pytest.raises((pickle.PicklingError, AttributeError)):
        Worker("nameless", lambda: None)
