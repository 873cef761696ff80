"""/export and /import: conversations leave, and come back.

An export is written to a temporary file before its first byte is sent: so a fault is an error and no half file, and a
slow reader does not hold back the database, in which an erasure has to wait for those who read.
"""

import tempfile
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field
from starlette.requests import ClientDisconnect

from chat.api.errors import InvalidField, documented
from chat.api.filters import FilterFields
from chat.api.identity import Owner
from chat.api.schemas import Response
from chat.errors import Unreadable
from chat.exports import InvalidExport, choose, find_selected, find_write, name_file, narrow, read_selected
from chat.formats.reading import read_file
from chat.formats.table import FORMATS, find_format
from chat.given import Text
from chat.imports import Importer, ImportReport
from chat.redaction import Counts
from chat.workspace import Workspace
from storage.archive import Selection
from storage.errors import StorageError

MAX_IDS = 10_000
MAX_FILE_NAME = 255
PIECE = 2**18  # bytes that are sent at once
MAX_IN_MEMORY = 2**20  # bytes of an export; a larger one is written to the disk
UPLOAD_PREFIX = ".parley-import-"


class FolderUnusable(StorageError):
    """There is no room for a file that passes through the data folder, or no right to write it."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The data folder cannot take the file ({error.strerror}): free some space, then try again.")


class ExportRequest(FilterFields):
    """Which conversations are to be exported, as what. Of those in the trash, none is."""

    model_config = ConfigDict(strict=True)

    format: str = Field("parley", description=f"One of {', '.join(FORMATS)}.", examples=["markdown"])
    ids: list[Text] = Field([], max_length=MAX_IDS, description="Only these conversations.")
    all: bool = Field(False, description="All of them, or all that pass what else is set.", examples=[True])
    site_id: Text | None = Field(None, description="Only those of the visitors of a site.")
    query: Text | None = Field(None, description="Only those that a search for this finds.")
    redact: bool = Field(
        False, description="Without addresses, phone and card numbers, keys and tokens, as far as known."
    )
    chain: bool = Field(False, description="With hashes, by which any change is found; for the format parley only.")
    zip: bool = Field(False, description="A zip file with a file for each conversation.")


class ExportQuery(ExportRequest):
    """The same in a link, which has nothing but text."""

    model_config = ConfigDict(strict=False)

    ids: list[Text] = Field([], alias="id", max_length=MAX_IDS, description="Only this conversation; repeatable.")


class ImportModel(Response):
    """What became of a file."""

    conversations: int = Field(description="That were added.", examples=[2])
    messages: int = Field(examples=[14])
    branches: int = Field(description="Messages that stand beside another.", examples=[1])
    skipped: list[str] = Field(description="A line for whatever was not added, and why.", examples=[[]])


EXPORTED: dict[int | str, dict[str, Any]] = {
    **documented(404),
    200: {
        "description": "The file. `X-Parley-Conversations` tells how many conversations were selected.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
}
UPLOADED = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


def archive_routes(workspace: Workspace, folder: Path) -> APIRouter:
    """Return the routes that export and import; what passes through is for that time in a folder.

    Uploads that a crash has left there are deleted, so no other process may use the folder.
    """
    routes = APIRouter(tags=["archive"])
    for left in folder.glob(f"{UPLOAD_PREFIX}*"):
        left.unlink()

    @routes.get("/export", summary="Export conversations", response_class=StreamingResponse, responses=EXPORTED)
    def export_by_link(owner: Owner, query: Annotated[ExportQuery, Query()]) -> StreamingResponse:
        """Send them as a file."""
        return _export(workspace, folder, owner, query)

    @routes.post("/export", summary="Export many conversations", response_class=StreamingResponse, responses=EXPORTED)
    def export(owner: Owner, request: ExportRequest) -> StreamingResponse:
        """Send them as a file: for more ids than a link can have."""
        return _export(workspace, folder, owner, request)

    @routes.post("/import", summary="Import a file", openapi_extra=UPLOADED, responses=documented())
    async def import_(
        owner: Owner,
        request: HttpRequest,
        name: Annotated[str, Query(min_length=1, max_length=MAX_FILE_NAME, description="As errors call it.")] = "file",
    ) -> ImportModel:
        """Take in the conversations of a file, each once, the file as a whole or not at all.

        The body is the file: an export of Parley, ChatGPT or Open WebUI, training data of ShareGPT or OpenAI, or a
        zip file of those.
        """
        with _upload_file(folder) as file:
            await _receive(request, file, name)
            report = await run_in_threadpool(_take_in, workspace, owner, Path(file.name), name)
        return ImportModel.model_validate(report)

    return routes


def _export(workspace: Workspace, folder: Path, owner: str, request: ExportRequest) -> StreamingResponse:
    try:
        selection = _select(workspace, owner, request)
        write = find_write(request.format, chained=request.chain, zipped=request.zip)
    except InvalidExport as error:
        name = type(request).model_fields[error.field].alias or error.field  # as it is to be written in a link
        raise InvalidField(name, str(error).replace(error.field, name, 1)) from None
    n_conversations = len(find_selected(workspace.archive, owner, selection))
    conversations = read_selected(workspace.archive, owner, selection, Counts() if request.redact else None)
    titles: list[str | None] = []
    if n_conversations == 1:
        only = list(conversations)
        conversations, titles = iter(only), [conversation["title"] for conversation in only]
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.SpooledTemporaryFile(MAX_IN_MEMORY, dir=str(folder)))
        with _writing():
            n_bytes = sum(file.write(piece) for piece in write(conversations))
        if not n_bytes:
            raise InvalidField("format", f"format: the selected conversations have nothing that {request.format} takes")
        file.seek(0)
        stack.pop_all()
    name = name_file(titles, ".zip" if request.zip else find_format(request.format).suffix)
    headers = {
        "Cache-Control": "no-store",
        "Content-Disposition": disposition(name),
        "Content-Length": str(n_bytes),
        "X-Parley-Conversations": str(n_conversations),
    }
    return StreamingResponse(_pieces(file), media_type="application/octet-stream", headers=headers)


def _select(workspace: Workspace, owner: str, request: ExportRequest) -> Selection:
    selection = choose(
        request.ids,
        request.all or request.query is not None,
        channel=request.channel,
        site_id=request.site_id,
        since=request.since,
        until=request.until,
        rating=request.rating,
    )
    return selection if request.query is None else narrow(selection, workspace.search, owner, request.query)


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while piece := await run_in_threadpool(file.read, PIECE):
            yield piece


def disposition(name: str) -> str:
    """Return the header that names a download: in full, and for those who know only ASCII."""
    stem, _, suffix = name.rpartition(".")
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().strip("-")
    return f"attachment; filename=\"{ascii_stem or 'parley'}.{suffix}\"; filename*=UTF-8''{quote(name)}"


async def _receive(request: HttpRequest, file: IO[bytes], name: str) -> None:
    """Write the body of a request, whose length the guard has checked, to a file."""
    try:
        async for piece in request.stream():
            with _writing():
                await run_in_threadpool(file.write, piece)
    except ClientDisconnect:
        raise Unreadable(name, "expected the whole file, but the connection has ended before") from None
    with _writing():
        await run_in_threadpool(file.flush)


def _upload_file(folder: Path) -> "tempfile._TemporaryFileWrapper[bytes]":
    with _writing():
        return tempfile.NamedTemporaryFile(dir=folder, prefix=UPLOAD_PREFIX)


def _take_in(workspace: Workspace, owner: str, path: Path, name: str) -> ImportReport:
    skipped: list[str] = []
    try:
        report = Importer(workspace.archive).run(owner, read_file(path, skipped), skipped)
    except Unreadable as error:  # which begins with the path of the temporary file
        raise Unreadable(name, str(error).removeprefix(f"{path}: ")) from None
    if report.conversations:
        workspace.bus.publish(owner, "")  # whatever their ids are: a list of all of them is another now
    return report


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FolderUnusable(error) from error
