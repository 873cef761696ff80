"""Dates are read as users write them."""

from datetime import UTC, datetime

import pytest

from chat.moments import parse_moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:30", datetime(2026, 1, 31, 12, 30, tzinfo=UTC)),
        ("2026-01-31T12:30:00+02:00", datetime(2026, 1, 31, 10, 30, tzinfo=UTC)),
    ],
)
def test_a_date_is_a_moment_in_utc(text: str, moment: datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "0001-01-01T00:00:00+14:00", "1769817600"])
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="^expected a date such as 2026-01-31$"):
        parse_moment(text)
