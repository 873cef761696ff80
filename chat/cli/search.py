"""`parley search`: what was said, found again."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from chat.cli.flags import JsonFlag, takes_settings
from chat.data_folder import LOCAL_OWNER, open_database
from chat.settings import Settings
from storage.search import Hit, SearchStore


@takes_settings("data")
def search(
    settings: Settings,
    query: Annotated[str, typer.Argument(help='Words, a "phrase in quotes", or the beginning of a word with a *.')],
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="How many at most.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """Find conversations by their titles and messages; Parley may be running."""
    with open_database(settings.data) as database:
        hits = SearchStore(database).search(LOCAL_OWNER, query, limit=limit)
    if as_json:
        typer.echo(json.dumps([asdict(hit) for hit in hits], ensure_ascii=False, default=datetime.isoformat))
    for hit in [] if as_json else hits:
        typer.echo(_line(hit))


def _line(hit: Hit) -> str:
    """Return a hit in one line, its matches between square brackets."""
    snippet = " ".join("".join(f"[{part}]" if is_match else part for part, is_match in hit.snippet).split())
    return f"{hit.conversation_id}  {hit.created_at:%Y-%m-%d}  {hit.role or 'title'}: {snippet}"
