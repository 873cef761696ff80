"""`parley backup`, `restore`, `erase` and `expire`: what is kept, and what is kept no longer."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from chat.cli.flags import ChannelFlag, JsonFlag, check_channel, takes_settings
from chat.data_folder import LOCAL_OWNER, lock_data
from chat.progress import progress_bar
from chat.settings import Settings, SettingsError
from storage.backup import back_up
from storage.backup import restore as bring_back
from storage.conversations import ConversationStore
from storage.database import Database
from storage.erasure import ErasureStore, Receipt, Rule
from storage.tables import Conversation, utc_now


@takes_settings("data")
def backup(
    settings: Settings,
    file: Annotated[Path | None, typer.Argument(help="The file to write; by default one in the data folder.")] = None,
) -> None:
    """Copy the database as it is now, checked; Parley may be running."""
    with progress_bar("Copying", "pages") as progress:
        path = back_up(settings.data / "parley.db", progress, file)
    typer.echo(path)


@takes_settings("data")
def restore(settings: Settings, file: Annotated[Path, typer.Argument(help="What `parley backup` wrote.")]) -> None:
    """Put a backup in the database's place; the old database is kept beside it."""
    with lock_data(settings.data), progress_bar("Copying", "pages") as progress:
        aside = bring_back(file, settings.data / "parley.db", progress)
    typer.echo(f"Restored {file}." + (f" The old database is now {aside}." if aside else ""))


@takes_settings("data")
def erase(
    settings: Settings,
    ids: Annotated[list[str] | None, typer.Argument(help="Conversations, as in their addresses.")] = None,
    trash: Annotated[bool, typer.Option("--trash", help="All that is in the trash.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Erase conversations so that no byte of them is left in the database, and print a receipt."""
    if bool(ids) == trash:
        raise SettingsError("erase: expected the ids of conversations, or --trash")
    with lock_data(settings.data), open_erasure(settings.data) as erasure:
        receipt = erasure.empty_trash(LOCAL_OWNER) if trash else erasure.erase(LOCAL_OWNER, ids or ())
    (print_receipt_as_json if as_json else print_receipt)(receipt)


@takes_settings("data")
def expire(
    settings: Settings,
    days: Annotated[int, typer.Option("--older-than", min=1, max=36_500, help="Days since their last change.")],
    channel: ChannelFlag = None,
    archived: Annotated[bool | None, typer.Option("--archived/--not-archived", help="Only those, or no such.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be erased.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Erase conversations that have been kept for long enough; pinned ones stay."""
    rule = new_rule(days, channel, archived)
    with lock_data(settings.data), open_erasure(settings.data) as erasure:
        if dry_run:
            (print_expired_as_json if as_json else print_expired)(erasure.expired(LOCAL_OWNER, rule))
        else:
            (print_receipt_as_json if as_json else print_receipt)(erasure.erase_expired(LOCAL_OWNER, rule))


@contextmanager
def open_erasure(data: Path) -> Iterator[ErasureStore]:
    """Open what is kept in a data folder, whose lock is held: nobody writes a reply, whatever the last crash left."""
    database = Database(data / "parley.db")
    try:
        database.check()
        database.migrate()
        ConversationStore(database).interrupt_streaming()
        erasure = ErasureStore(database)
        erasure.finish()
        yield erasure
    finally:
        database.close()


def new_rule(days: int, channel: str | None, archived: bool | None) -> Rule:
    """Return the rule that flags make; raises SettingsError."""
    return Rule(utc_now() - timedelta(days=days), check_channel(channel), archived)


def print_receipt(receipt: Receipt) -> None:
    """Print what was erased and, for each copy that may still have it, a line with its age."""
    typer.echo(
        f"Erased at {receipt.erased_at:%Y-%m-%d %H:%M:%S} UTC: {len(receipt.conversation_ids):,} conversations, "
        f"{receipt.n_messages:,} messages, {receipt.n_bytes:,} bytes of text."
    )
    for conversation_id in receipt.conversation_ids:
        typer.echo(conversation_id)
    for copy in receipt.copies:
        age = (receipt.erased_at - copy.made_at).days
        typer.echo(f"Not erased in {copy.path}, {age:,} days old: delete that file if it must not keep them either.")


def print_receipt_as_json(receipt: Receipt) -> None:
    """Print what was erased for a program."""
    typer.echo(json.dumps(asdict(receipt), default=_spelled))


def print_expired(conversations: Sequence[Conversation]) -> None:
    """Print a line for each conversation that a rule would erase."""
    for conversation in conversations:
        changed, title = f"{conversation.updated_at:%Y-%m-%d}", conversation.title or "Untitled"
        typer.echo(f"{conversation.id}  {changed}  {conversation.channel}  {title}")
    typer.echo(f"{len(conversations):,} conversations would be erased.")


def print_expired_as_json(conversations: Sequence[Conversation]) -> None:
    """Print what a rule would erase for a program."""
    rows = [
        {
            "id": conversation.id,
            "updated_at": conversation.updated_at.isoformat(),
            "channel": conversation.channel,
            "archived": conversation.archived,
            "title": conversation.title,
        }
        for conversation in conversations
    ]
    typer.echo(json.dumps(rows, ensure_ascii=False))


def _spelled(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
