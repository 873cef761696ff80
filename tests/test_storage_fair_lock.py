"""Who asked first has the lock first, and who gives up keeps nobody waiting."""

import signal
import threading
import time
from collections.abc import Iterator

import pytest

from storage.fair_lock import FairLock


@pytest.fixture
def interrupt() -> Iterator[threading.Timer]:
    """What raises KeyboardInterrupt in this thread after a moment, as Ctrl-C does."""
    before = signal.signal(signal.SIGUSR1, lambda *_: signal.default_int_handler(signal.SIGINT, None))
    main = threading.main_thread().ident
    assert main is not None
    yield threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGUSR1))
    signal.signal(signal.SIGUSR1, before)


def hold(lock: FairLock, name: str, order: list[str]) -> threading.Thread:
    """Have a thread ask for the lock; returns once it waits."""

    def work() -> None:
        with lock:
            order.append(name)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive() and name not in order and len(lock._waiting) < int(name):
        time.sleep(0.001)
    return thread


def test_it_is_handed_on_in_the_order_in_which_it_was_asked_for() -> None:
    lock, order = FairLock(), list[str]()
    with lock:
        threads = [hold(lock, str(number), order) for number in (1, 2, 3, 4)]
    for thread in threads:
        thread.join()
    assert order == ["1", "2", "3", "4"]


def test_it_is_free_again_after_an_exception() -> None:
    lock = FairLock()
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        assert lock._held
    assert not lock._held


def test_who_is_interrupted_while_waiting_is_left_out(interrupt: threading.Timer) -> None:
    lock, held, done = FairLock(), threading.Event(), threading.Event()

    def work() -> None:
        with lock:
            held.set()
            done.wait()

    holder = threading.Thread(target=work)
    holder.start()
    held.wait()
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        lock.__enter__()
    done.set()
    holder.join()
    with lock:
        assert not lock._waiting
