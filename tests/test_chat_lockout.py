"""Who fails must wait, ever longer; others need not."""

from dataclasses import dataclass, field

import pytest

from chat.limits import LimitExceeded
from chat.lockout import FREE_TRIES, LONGEST_WAIT, MAX_REMEMBERED, Lockout

HOME, ELSEWHERE = "192.0.2.1", "192.0.2.2"


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """A lockout whose clock the test sets."""

    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.lockout = Lockout(self.clock)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            self.lockout.begin("ada", HOME)

    def wait(self) -> int:
        """Return how long the next try has to wait."""
        with pytest.raises(LimitExceeded, match="Too many wrong passwords") as refused:
            self.lockout.begin("ada", HOME)
        return refused.value.retry_after


@pytest.fixture
def door() -> Door:
    return Door()


def test_after_five_failures_each_further_one_doubles_the_wait(door: Door) -> None:
    waits = []
    door.fail(FREE_TRIES)
    for _ in range(8):
        waits.append(door.wait())
        door.clock.now += waits[-1]
        door.fail()
    assert waits == [60, 120, 240, 480, 960, 1920, LONGEST_WAIT, LONGEST_WAIT]


def test_a_hundred_tries_at_once_give_five(door: Door) -> None:
    n_made = 0
    for _ in range(100):
        try:
            door.fail()
            n_made += 1
        except LimitExceeded:
            pass
    assert n_made == FREE_TRIES


def test_a_try_that_is_refused_does_not_make_the_wait_longer(door: Door) -> None:
    door.fail(FREE_TRIES)
    assert [door.wait() for _ in range(10)] == [60] * 10


def test_the_right_password_ends_it(door: Door) -> None:
    door.fail(FREE_TRIES - 1)
    door.lockout.succeed("ada", HOME)
    door.fail(FREE_TRIES)
    assert door.wait() == 60


def test_it_is_forgotten_an_hour_after_the_last_wait(door: Door) -> None:
    door.fail(FREE_TRIES)
    door.clock.now += 60 + 3601
    door.fail(FREE_TRIES)
    assert door.wait() == 60


def test_letter_cases_make_no_other_account(door: Door) -> None:
    door.fail(FREE_TRIES)
    with pytest.raises(LimitExceeded):
        door.lockout.begin("ADA", HOME)


def test_another_address_and_another_account_are_free(door: Door) -> None:
    door.fail(FREE_TRIES)
    door.lockout.begin("ada", ELSEWHERE)
    door.lockout.begin("ben", HOME)


def test_memory_is_bounded(door: Door) -> None:
    for number in range(MAX_REMEMBERED + 100):
        door.lockout.begin(f"name {number}", HOME)
    assert len(door.lockout._tries) == MAX_REMEMBERED
