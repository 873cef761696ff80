"""A session is only what this server has signed for this purpose, and not for ever."""

import time

import pytest
from itsdangerous import URLSafeTimedSerializer

from chat.sessions import LIFE, PURPOSE, Session, Sessions

SECRET = bytes(range(32))
DAY = 86_400


@pytest.fixture
def sessions() -> Sessions:
    return Sessions(SECRET)


@pytest.mark.parametrize(("age", "is_old"), [(DAY - 60, False), (DAY + 60, True), (14 * DAY - 60, True)])
def test_one_that_is_older_than_a_day_is_to_be_renewed(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch, age: float, is_old: bool
) -> None:
    session = sessions.read(aged(sessions, monkeypatch, age))
    assert session is not None
    assert session == Session("ada", 0, session.id, is_old)


def test_a_renewed_one_is_the_same_and_new_ones_are_others(sessions: Sessions) -> None:
    first, second = (sessions.read(sessions.issue("ada", 0)) for _ in range(2))
    assert first is not None
    assert sessions.read(sessions.renew(first)) == first != second


def test_it_ends_after_two_weeks(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sessions.read(aged(sessions, monkeypatch, LIFE.total_seconds() + 60)) is None


def aged(sessions: Sessions, monkeypatch: pytest.MonkeyPatch, seconds: float) -> str:
    """Return the token of a session that was issued so long ago."""
    with monkeypatch.context() as past:
        now = time.time()
        past.setattr("itsdangerous.timed.time.time", lambda: now - seconds)
        return sessions.issue("ada", 0)


def test_anothers_and_forged_ones_are_none(sessions: Sessions) -> None:
    token = sessions.issue("ada", 0)
    content, moment, signature = token.split(".")
    other_content = sessions.issue("ben", 0).split(".")[0]
    unsigned = URLSafeTimedSerializer(b"", salt=PURPOSE).dumps(["ada", 0, "s"])
    forged = [
        "",
        "none",
        f"{content}.{moment}",
        f"{content}.{moment}.",
        f"{other_content}.{moment}.{signature}",
        f"{content}.{moment}x.{signature}",
        token[:-1],
        token + "x",
        "\xff",
        str(unsigned),
        Sessions(bytes(reversed(SECRET))).issue("ada", 0),
        str(URLSafeTimedSerializer(SECRET, salt="parley visitor").dumps(["ada", 0, "s"])),
    ]
    assert [sessions.read(one) for one in forged] == [None] * len(forged)


def test_one_for_another_purpose_with_the_same_secret_is_none(sessions: Sessions) -> None:
    other = URLSafeTimedSerializer(SECRET, salt="parley visitor", signer_kwargs=sessions._serializer.signer_kwargs)
    assert sessions.read(str(other.dumps(["ada", 0, "s"]))) is None
