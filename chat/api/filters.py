"""By what a search and an export choose, in a query or in a body."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from chat.moments import parse_moment
from storage.tables import Channel


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        raise ValueError("expected a text with a date such as 2026-01-31")
    return parse_moment(value)


def _rating(value: object) -> object:
    """Return what a query says as JSON has it: `Literal` takes no text for a number."""
    return {"1": 1, "-1": -1}.get(value, value) if isinstance(value, str) else value


class FilterFields(BaseModel):
    """What any of them may be chosen by; what is left out leaves out nothing."""

    model_config = ConfigDict(extra="forbid")

    since: Annotated[datetime, BeforeValidator(_moment)] | None = Field(
        None, description="Only those from then on: a date or a time, in UTC if it names no zone."
    )
    until: Annotated[datetime, BeforeValidator(_moment)] | None = Field(None, description="Only those before.")
    channel: Channel | None = None
    rating: Annotated[Literal[-1, 1], BeforeValidator(_rating)] | None = Field(
        None, description="Only what the owner has rated so."
    )
