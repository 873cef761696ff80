"""`parley export` and `parley import`: conversations leave, and come back; `parley schema` says in which form."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
from chat.data_folder import LOCAL_OWNER, open_database
from chat.exports import choose, find_selected, find_write, narrow, read_selected
from chat.formats.archive import ArchivedConversation
from chat.formats.parley import schema as parley_schema
from chat.formats.reading import read_file
from chat.formats.zip_file import Write
from chat.imports import Importer, ImportReport
from chat.progress import Progress, progress_bar
from chat.redaction import Counts, describe_counts
from chat.settings import Settings, SettingsError
from storage.archive import ArchiveStore, Selection
from storage.search import SearchStore

QueryFlag = Annotated[
    str | None, typer.Option("--query", metavar="TEXT", help="Only those that `parley search` finds.")
]
SiteFlag = Annotated[str | None, typer.Option("--site", metavar="ID", help="Only those of the visitors of a site.")]
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
    site: SiteFlag = None,
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
    selection = select(
        ids, everything or is_queried, channel=channel, site_id=site, since=since, until=until, rating=rating
    )
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


def select(
    ids: list[str] | None,
    everything: bool,
    *,
    channel: str | None,
    site_id: str | None,
    since: str | None,
    until: str | None,
    rating: int | None,
) -> Selection:
    """Return what flags select; raises SettingsError, InvalidExport."""
    return choose(
        ids,
        everything,
        channel=check_channel(channel),
        site_id=site_id,
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
    n_conversations = len(find_selected(archive, owner_id, selection))
    with _open(output) as file, progress_bar("Exporting", "conversations") as progress:
        conversations = read_selected(archive, owner_id, selection, redacted)
        if output is not None:  # a bar would come between the lines of stdout on a terminal
            conversations = _counted(conversations, progress, n_conversations)
        return sum(file.write(piece) for piece in write(conversations))


def import_file(archive: ArchiveStore, owner_id: str, path: Path) -> ImportReport:
    """Take a file in, as a whole or not at all; raises Unreadable, OSError."""
    skipped: list[str] = []
    with progress_bar(f"Importing {path.name}", "conversations") as progress:
        return Importer(archive).run(owner_id, _counted(read_file(path, skipped), progress, 0), skipped)


def describe(report: ImportReport) -> str:
    """Return a report as a few lines."""
    lines = [
        f"{report.conversations:,} conversations with {report.messages:,} messages, "
        f"{report.branches:,} of which stand beside another, were added."
    ]
    return "\n".join([*lines, *report.skipped])


def _counted(
    conversations: Iterator[ArchivedConversation], progress: Progress, total: int
) -> Iterator[ArchivedConversation]:
    for n_done, conversation in enumerate(conversations, start=1):
        yield conversation
        progress(n_done, total)


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
