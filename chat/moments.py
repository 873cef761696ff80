"""Dates and times as users write them."""

from datetime import UTC, datetime


def parse_moment(text: str) -> datetime:
    """Return the moment of a date or time as ISO 8601 writes it, in UTC if it names no zone; raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter for a time that UTC has no year for
        raise ValueError("expected a date such as 2026-01-31") from None
