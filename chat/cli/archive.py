"""`parley export` and `parley import`: conversations leave, and come back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, TextIO, cast

import typer

from chat.cli.flags import (
    ChannelFlag,
    FormatFlag,
    OutputFlag,
    RatingFlag,
    SinceFlag,
    UntilFlag,
    check_channel,
    takes_settings,
)
from chat.cli.progress import progress_bar
from chat.data_folder import LOCAL_OWNER, lock_data, open_database
from chat.errors import NothingSelected
from chat.formats.archive import ArchivedConversation, from_tree
from chat.formats.reading import read_file
from chat.formats.table import Format, find_format
from chat.imports import Importer, ImportReport
from chat.settings import Settings, SettingsError
from storage.archive import ArchiveStore, Selection, Tree
from storage.errors import ConversationNotFound


@takes_settings("data")
def export(
    settings: Settings,
    ids: Annotated[list[str] | None, typer.Argument(help="Conversations, as in their addresses.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that are not in the trash.")] = False,
    format_name: FormatFlag = "parley",
    output: OutputFlag = None,
    channel: ChannelFlag = None,
    since: SinceFlag = None,
    until: UntilFlag = None,
    rating: RatingFlag = None,
) -> None:
    """Write conversations to a file; Parley may be running."""
    selection = select(ids, everything, channel=channel, since=since, until=until, rating=rating)
    chosen = find_format(format_name)
    with open_database(settings.data) as database:
        export_conversations(ArchiveStore(database), LOCAL_OWNER, selection, chosen, output)


@takes_settings("data")
def import_(
    settings: Settings, files: Annotated[list[Path], typer.Argument(help="What `parley export` wrote.")]
) -> None:
    """Take conversations in from files: each once, each file as a whole or not at all."""
    with lock_data(settings.data), open_database(settings.data) as database:
        for path in files:
            typer.echo(describe(import_file(ArchiveStore(database), LOCAL_OWNER, path)))


def select(
    ids: list[str] | None,
    everything: bool,
    *,
    channel: str | None,
    since: str | None,
    until: str | None,
    rating: int | None,
) -> Selection:
    """Return what flags select; raises SettingsError."""
    if rating not in (None, 1, -1):
        raise SettingsError(f"--rating: expected 1 or -1, got {rating}")
    is_filtered = any(value is not None for value in (channel, since, until, rating))
    if not (ids or everything or is_filtered):
        raise SettingsError("export: expected the id of a conversation, --all, or a flag that selects some, got none")
    return Selection(
        ids=ids or None,
        channel=check_channel(channel),
        since=_parse_date("--since", since),
        until=_parse_date("--until", until),
        rating=rating,
    )


def _parse_date(flag: str, text: str | None) -> datetime | None:
    """Return the moment of a date or time as ISO 8601 writes it, in UTC if it names no zone; raises SettingsError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"{flag}: expected a date such as 2026-01-31, got {text!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def export_conversations(
    archive: ArchiveStore, owner_id: str, selection: Selection, chosen: Format, output: Path | None
) -> None:
    """Write the selected conversations to a new file, or to stdout.

    Raises ConversationNotFound, NothingSelected, SettingsError for a file that is there already, OSError.
    """
    ids = archive.ids(owner_id, selection)
    for missing in set(selection.ids or ()) - set(ids):
        raise ConversationNotFound(missing)
    if not ids:
        raise NothingSelected
    with _open(output) as file, progress_bar("Exporting", "conversations") as progress:
        conversations = _counted(archive.trees(owner_id, selection), len(ids), progress if output else _quiet)
        for text in chosen.write(conversations):
            file.write(text)


def import_file(archive: ArchiveStore, owner_id: str, path: Path) -> ImportReport:
    """Take a file in, as a whole or not at all; raises Unreadable, OSError."""
    skipped: list[str] = []
    with progress_bar(f"Importing {path.name}", "conversations") as progress:
        return Importer(archive).run(owner_id, _seen(read_file(path, skipped), progress), skipped)


def describe(report: ImportReport) -> str:
    """Return a report as a few lines."""
    lines = [
        f"{report.conversations:,} conversations with {report.messages:,} messages, "
        f"{report.branches:,} of which stand beside another, were added."
    ]
    return "\n".join([*lines, *report.skipped])


Progress = Callable[[int, int], None]


def _quiet(done: int, total: int) -> None:
    """Show nothing: a bar would come between the lines of stdout on a terminal."""


def _counted(trees: Iterator[Tree], n_trees: int, progress: Progress) -> Iterator[ArchivedConversation]:
    for n_done, tree in enumerate(trees, start=1):
        yield from_tree(tree)
        progress(n_done, n_trees)


def _seen(conversations: Iterator[ArchivedConversation], progress: Progress) -> Iterator[ArchivedConversation]:
    for n_done, conversation in enumerate(conversations, start=1):
        yield conversation
        progress(n_done, 0)


@contextmanager
def _open(output: Path | None) -> Iterator[TextIO]:
    """Open a new file, which gets its name once it is whole; or stdout."""
    if output is None:
        stdout = cast(TextIOWrapper, sys.stdout)
        stdout.reconfigure(encoding="utf-8", errors="strict", newline="")  # whatever the terminal's encoding is
        yield stdout
        return
    if output.exists():
        raise SettingsError(f"--output: expected a new file, but {output} is there already.")
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
