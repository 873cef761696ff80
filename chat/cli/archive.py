"""`parley export` and `parley import`: conversations leave, and come back; `parley schema` says in which form."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Annotated, BinaryIO

import typer

from chat.cli.flags import (
    ChannelFlag,
    FormatFlag,
    OutputFlag,
    RatingFlag,
    SinceFlag,
    UntilFlag,
    check_channel,
    check_rating,
    parse_date,
    takes_settings,
)
from chat.cli.progress import progress_bar
from chat.data_folder import LOCAL_OWNER, open_database
from chat.errors import NothingSelected
from chat.formats.archive import ArchivedConversation, from_tree
from chat.formats.chain import write as write_chain
from chat.formats.parley import schema as parley_schema
from chat.formats.reading import read_file
from chat.formats.table import find_format
from chat.formats.zip_file import Write, write_zip
from chat.imports import Importer, ImportReport
from chat.redaction import Counts, describe_counts, redact
from chat.settings import Settings, SettingsError
from storage.archive import ArchiveStore, Selection, Tree
from storage.errors import ConversationNotFound
from storage.search import N_RANKED, Filters, SearchStore

QueryFlag = Annotated[
    str | None, typer.Option("--query", metavar="TEXT", help="Only those that `parley search` finds.")
]
RedactFlag = Annotated[
    bool, typer.Option("--redact", help="Without addresses, phone and card numbers, keys and tokens, as far as known.")
]
ChainFlag = Annotated[bool, typer.Option("--chain", help="With hashes, by which `parley verify` finds any change.")]
ZipFlag = Annotated[bool, typer.Option("--zip", help="A zip file with a file for each conversation.")]

READABLE = (
    "Exports of Parley (parley, html, markdown), ChatGPT and Open WebUI, training data of ShareGPT and OpenAI, "
    "or zip files of those."
)


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
    query: QueryFlag = None,
    redacted: RedactFlag = False,
    chained: ChainFlag = False,
    zipped: ZipFlag = False,
) -> None:
    """Write conversations to a file; Parley may be running."""
    is_queried = query is not None
    selection = select(ids, everything or is_queried, channel=channel, since=since, until=until, rating=rating)
    write = find_write(format_name, chained=chained, zipped=zipped)
    counts = Counts() if redacted else None
    with open_database(settings.data) as database:
        if query is not None:
            selection = narrow(selection, SearchStore(database), LOCAL_OWNER, query)
        archive = ArchiveStore(database)
        n_bytes = export_conversations(archive, LOCAL_OWNER, selection, write, output, redacted=counts)
    if not n_bytes:
        typer.echo(f"The selected conversations have nothing that the format {format_name} takes.", err=True)
    if counts is not None:
        typer.echo(describe_counts(counts), err=True)


@takes_settings("data")
def import_(settings: Settings, files: Annotated[list[Path], typer.Argument(help=READABLE)]) -> None:
    """Take conversations in from files: each once, each file as a whole or not at all."""
    with open_database(settings.data, alone=True) as database:
        for path in files:
            typer.echo(describe(import_file(ArchiveStore(database), LOCAL_OWNER, path)))


def schema() -> None:
    """Print the JSON Schema of the lines that `parley export` writes."""
    typer.echo(json.dumps(parley_schema(), ensure_ascii=False, indent=2))


def find_write(format_name: str, *, chained: bool, zipped: bool) -> Write:
    """Return the function that gives a file's content; raises UnknownFormat, SettingsError."""
    chosen = find_format(format_name)
    if chained:
        if zipped or format_name != "parley":
            raise SettingsError(
                "--chain: expected the format parley without --zip, since a chain is of one file's lines"
            )
        return write_chain
    return partial(write_zip, write=chosen.write, suffix=chosen.suffix) if zipped else chosen.write


def narrow(selection: Selection, search: SearchStore, owner_id: str, query: str) -> Selection:
    """Return those of a selection that a search finds; raises SettingsError for one that finds too many messages."""
    hits = search.search(owner_id, query, filters=Filters(channel=selection.channel), limit=2 * N_RANKED)
    n_messages = sum(hit.message_id is not None for hit in hits)
    if max(n_messages, len(hits) - n_messages) >= N_RANKED:
        reason = f"expected words that fewer than {N_RANKED:,} messages have, since no more are found"
        raise SettingsError(f"--query: {reason}; add some, or --channel")
    return replace(selection, found=sorted({hit.conversation_id for hit in hits}))


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
    is_filtered = any(value is not None for value in (channel, since, until, rating))
    if not (ids or everything or is_filtered):
        raise SettingsError("export: expected the id of a conversation, --all, or a flag that selects some, got none")
    return Selection(
        ids=ids or None,
        channel=check_channel(channel),
        since=parse_date("--since", since),
        until=parse_date("--until", until),
        rating=check_rating(rating),
    )


def export_conversations(
    archive: ArchiveStore,
    owner_id: str,
    selection: Selection,
    write: Write,
    output: Path | None,
    *,
    redacted: Counts | None = None,
) -> int:
    """Write the selected conversations to a new file, or to stdout; redacted, if what that takes out is to be counted.

    Returns how many bytes it wrote: none where the format has nothing to write of them. Raises ConversationNotFound,
    NothingSelected, SettingsError for a file that is there already, OSError.
    """
    ids = archive.ids(owner_id, selection)
    for missing in set(selection.ids or ()) - set(ids):
        raise ConversationNotFound(missing)
    if not ids:
        raise NothingSelected
    with _open(output) as file, progress_bar("Exporting", "conversations") as progress:
        conversations = _counted(archive.trees(owner_id, selection), len(ids), progress if output else _quiet)
        if redacted is not None:
            conversations = (redact(conversation, redacted) for conversation in conversations)
        return sum(file.write(piece) for piece in write(conversations))


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
def _open(output: Path | None) -> Iterator[BinaryIO]:
    """Open a new file, which gets its name once it is whole; or stdout.

    Raises SettingsError for a name that is taken, at the beginning or only at the end.
    """
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    taken = SettingsError(f"--output: expected a new file, but {output} is there already.")
    if output.exists():
        raise taken
    part = output.with_name(f".parley-{token_hex(8)}.part")
    try:
        with part.open("xb") as file:
            yield file
        try:
            output.open("xb").close()  # so that nobody else can take the name; some file systems have no links
        except FileExistsError:
            raise taken from None
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)
