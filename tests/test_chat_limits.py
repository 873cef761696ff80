"""Callers get what they may have, and no more; what is counted does not pile up."""

import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from chat import limits
from chat.limits import DailyTokens, LimitExceeded, OpenStreams, RateLimiter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that limiters see, in its one item."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_so_many_in_a_time_and_no_more(clock: list[float]) -> None:
    limiter = RateLimiter()
    limiter.take("messages", "ada", 2, 60)
    clock[0] += 50.5
    limiter.take("messages", "ada", 2, 60)
    with pytest.raises(LimitExceeded, match=r"^messages: at most 2 in 60 s\. Try again in 10 s\.$") as refused:
        limiter.take("messages", "ada", 2, 60)
    assert refused.value.retry_after == 10


def test_whoever_waits_as_long_as_told_is_let_in(clock: list[float]) -> None:
    limiter = RateLimiter()
    for _ in range(5):
        limiter.take("messages", "ada", 1, 60)
        clock[0] += 0.25
        with pytest.raises(LimitExceeded) as refused:
            limiter.take("messages", "ada", 1, 60)
        clock[0] += refused.value.retry_after


def test_a_refusal_counts_for_nothing(clock: list[float]) -> None:
    limiter = RateLimiter()
    limiter.take("messages", "ada", 1, 60)
    for _ in range(10):
        clock[0] += 5.9
        with pytest.raises(LimitExceeded):
            limiter.take("messages", "ada", 1, 60)
    clock[0] += 1
    limiter.take("messages", "ada", 1, 60)


def test_a_check_refuses_as_a_call_would_and_counts_nothing(clock: list[float]) -> None:
    limiter = RateLimiter()
    for _ in range(3):
        limiter.check("messages", "ada", 1, 60)
    limiter.take("messages", "ada", 1, 60)
    clock[0] += 10
    with pytest.raises(LimitExceeded, match=r"^messages: at most 1 in 60 s\. Try again in 50 s\.$"):
        limiter.check("messages", "ada", 1, 60)
    clock[0] += 50
    limiter.check("messages", "ada", 1, 60)


def test_a_limit_that_was_lowered_holds_at_once(clock: list[float]) -> None:
    limiter = RateLimiter()
    for _ in range(5):
        limiter.take("messages", "ada", 5, 60)
        clock[0] += 1
    with pytest.raises(LimitExceeded) as refused:
        limiter.take("messages", "ada", 2, 60)
    assert refused.value.retry_after == 58  # until but one of them is left
    clock[0] += 58
    limiter.take("messages", "ada", 2, 60)


def test_callers_and_what_they_ask_for_are_counted_apart(clock: list[float]) -> None:
    limiter = RateLimiter()
    for what, caller in [("messages", "ada"), ("messages", "bob"), ("sessions", "ada")]:
        limiter.take(what, caller, 1, 60)
    with pytest.raises(LimitExceeded):
        limiter.take("sessions", "ada", 1, 60)


def test_threads_together_get_no_more_than_one_would() -> None:
    limiter, taken = RateLimiter(), []

    def take() -> None:
        for _ in range(50):
            try:
                limiter.take("messages", "ada", 100, 600)
                taken.append(1)
            except LimitExceeded:
                pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 100


def test_those_whose_time_is_over_are_forgotten(clock: list[float]) -> None:
    limiter = RateLimiter()
    for number in range(500):
        limiter.take("sessions", f"address {number}", 10, 60)
        clock[0] += 1
    assert len(limiter._calls) <= 61


def test_no_more_callers_are_remembered_than_there_is_room_for(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALLERS", 100)
    limiter = RateLimiter()
    for number in range(1000):
        limiter.take("sessions", f"address {number}", 1, 60)
    assert len(limiter._calls) == 100
    with pytest.raises(LimitExceeded):
        limiter.take("sessions", "address 999", 1, 60)


def test_no_thread_is_started_to_count() -> None:
    before = threading.active_count()
    RateLimiter().take("messages", "ada", 1, 60)
    assert threading.active_count() == before


def test_tokens_are_counted_by_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Now(datetime):
        moment = datetime(2026, 12, 31, 23, 0, tzinfo=UTC)

        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return cls.moment

    monkeypatch.setattr(limits, "datetime", Now)
    tokens = DailyTokens(1000)
    tokens.add("ada", 999)
    tokens.check("ada")
    tokens.add("ada", 1)
    with pytest.raises(LimitExceeded, match=r"^tokens: at most 1,000 on a day \(UTC\)\. ") as refused:
        tokens.check("ada")
    assert refused.value.retry_after == 3600
    tokens.check("bob")
    Now.moment += timedelta(hours=1)
    tokens.check("ada")
    assert tokens._used == {}


def test_a_stream_needs_a_slot_of_every_caller() -> None:
    streams = OpenStreams()
    with streams.slot({"ada": 1, "house": 2}), streams.slot({"bob": 1, "house": 2}):
        refused_text = r"^open streams: at most 2 at a time\. Try again in 10 s\.$"
        with pytest.raises(LimitExceeded, match=refused_text), streams.slot({"eve": 1, "house": 2}):
            pass
        with streams.slot({"eve": 1, "garden": 2}):  # the refusal has counted nowhere
            pass
    assert not streams._n_open


def test_a_slot_comes_back_however_a_stream_ends() -> None:
    streams = OpenStreams()
    streams.slot({"ada": 1})  # never begun
    with pytest.raises(ZeroDivisionError), streams.slot({"ada": 1}):
        raise ZeroDivisionError
    with streams.slot({"ada": 1}):
        pass
