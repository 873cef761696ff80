"""`parley search`: what was said, found again."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from chat.cli.flags import (
    ChannelFlag,
    JsonFlag,
    RatingFlag,
    SinceFlag,
    UntilFlag,
    check_channel,
    check_rating,
    check_role,
    parse_date,
    takes_settings,
)
from chat.data_folder import LOCAL_OWNER, open_database
from chat.settings import Settings
from storage.search import Filters, Hit, SearchStore


@takes_settings("data")
def search(
    settings: Settings,
    query: Annotated[str, typer.Argument(help='Words, a "phrase in quotes", or the beginning of a word with a *.')],
    since: SinceFlag = None,
    until: UntilFlag = None,
    channel: ChannelFlag = None,
    role: Annotated[str | None, typer.Option("--role", help="Only messages of system, user or assistant.")] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only replies of this model.")] = None,
    rating: RatingFlag = None,
    pinned: Annotated[bool | None, typer.Option("--pinned/--not-pinned", help="Only in pinned chats, or not.")] = None,
    archived: Annotated[
        bool | None, typer.Option("--archived/--not-archived", help="Only in archived chats, or not.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many at most.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Find conversations by their titles and messages; Parley may be running."""
    filters = Filters(
        since=parse_date("--since", since),
        until=parse_date("--until", until),
        channel=check_channel(channel),
        role=check_role(role),
        model=model,
        rating=check_rating(rating),
        pinned=pinned,
        archived=archived,
    )
    with open_database(settings.data) as database:
        hits = SearchStore(database).search(LOCAL_OWNER, query, filters=filters, limit=limit)
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, default=datetime.isoformat))
    for hit in [] if as_json else hits:
        typer.echo(_line(hit))


def _line(hit: Hit) -> str:
    """Return a hit in one line, its matches between square brackets."""
    snippet = " ".join("".join(f"[{part}]" if is_match else part for part, is_match in hit.snippet).split())
    return f"{hit.conversation_id}  {hit.created_at:%Y-%m-%d}  {hit.role or 'title'}: {snippet}"
