"""Files on the Hugging Face hub, brought over plain HTTP: cut downloads go on, and the hash decides at the end."""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import quote

from model.errors import CheckpointError

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

TIMEOUT = 30.0  # seconds of silence that end an attempt
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0)  # seconds before each attempt; when the last one fails, the download has failed
WORTHWHILE = 1 << 20  # bytes: an attempt that brings as many is no failure, and the count begins anew


class _Interrupted(Exception):
    """An attempt that another one may better."""


@dataclass(frozen=True, slots=True)
class Hub:
    """A file in a repository of the hub, or of the mirror that HF_ENDPOINT names."""

    repository: str
    revision: str  # a commit, so that the file stays what it is
    path: str  # inside the repository

    def __str__(self) -> str:
        return self.url

    @property
    def page(self) -> str:
        """Where people read about the repository, and accept its licence."""
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return f"{endpoint.rstrip('/')}/{self.repository}"

    @property
    def url(self) -> str:
        """Where the file is served."""
        return f"{self.page}/resolve/{self.revision}/{quote(self.path)}"

    def bring(self, path: Path, n_bytes: int, sha256: str, progress: Callable[[int, int], None]) -> None:
        """Put the file at `path`, whole and with the right SHA-256, or not at all.

        What has come so far is kept beside it, under a name with the hash, and gone on with by the next call: after
        an error, an interrupt or a kill. Calls `progress` with the number of bytes done and of all. The caller sees
        to it that no other call works in the same folder. Raises CheckpointError, or OSError of the disk.
        """
        part = path.with_name(f"{path.name}.{sha256[:16]}.part")
        with part.open("ab") as file:
            n_missing, n_free = n_bytes - file.tell(), shutil.disk_usage(path.parent).free
            if n_free < n_missing:
                raise CheckpointError(f"{path.parent}: expected {n_missing:,} bytes of free space, found {n_free:,}")
            _receive_all(self, file, n_bytes, progress)
            file.flush()
            os.fsync(file.fileno())
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            part.unlink()
            raise CheckpointError(f"{self.url}: expected SHA-256 {sha256}, found {found}")
        os.replace(part, path)


def _receive_all(hub: Hub, file: BinaryIO, n_bytes: int, progress: Callable[[int, int], None]) -> None:
    import httpx  # here, as it takes a tenth of a second and most starts download nothing

    progress(file.tell(), n_bytes)
    n_failures = 0
    with _new_client() as client:
        while (n_before := file.tell()) < n_bytes:
            time.sleep(PAUSES[n_failures])
            reason = "the connection ended early"
            try:
                _receive(client, hub, file, n_bytes, progress)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise CheckpointError(f"{hub.url}: {str(error).rstrip('.')}; check HF_ENDPOINT") from error
            except (httpx.HTTPError, _Interrupted) as error:
                reason = str(error) or type(error).__name__
            n_failures = 0 if file.tell() - n_before >= WORTHWHILE else n_failures + 1
            if file.tell() < n_bytes and n_failures == len(PAUSES):
                raise CheckpointError(f"{hub.url}: {reason}; {file.tell():,} of {n_bytes:,} bytes are here")
            if file.tell() < n_bytes and PAUSES[n_failures]:
                logger.warning("%s: %s; trying again in %g s", hub.url, reason, PAUSES[n_failures])


def _new_client() -> "httpx.Client":
    import httpx

    token = os.environ.get("HF_TOKEN", "").strip()
    if not (token.isascii() and token.isprintable()):  # or an error might show it
        raise CheckpointError("HF_TOKEN: expected printable ASCII characters, found others")
    headers = {"Accept-Encoding": "identity"}  # lengths are those of the file
    if token:
        headers["Authorization"] = f"Bearer {token}"  # httpx takes it away when it is led to another host
    try:
        return httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True)
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"the proxy that the environment names cannot be used: {error}") from error


def _receive(
    client: "httpx.Client", hub: Hub, file: BinaryIO, n_bytes: int, progress: Callable[[int, int], None]
) -> None:
    """Append what one request brings, or write anew what a server sends from the beginning."""
    n_here = file.tell()
    with client.stream("GET", hub.url, headers={"Range": f"bytes={n_here}-"} if n_here else {}) as response:
        _check_status(response, hub)
        _check_length(response, hub, n_here, n_bytes)
        if response.status_code == 200 and n_here:
            file.seek(0)
            file.truncate()
        for chunk in response.iter_raw():
            file.write(chunk[: n_bytes - file.tell()])
            progress(file.tell(), n_bytes)
            if file.tell() == n_bytes:
                break  # whatever else the server has to say


def _check_status(response: "httpx.Response", hub: Hub) -> None:
    code = response.status_code
    found = f"HTTP {code} {response.reason_phrase}".rstrip()
    if code in (408, 425, 429) or code >= 500:
        raise _Interrupted(found)
    if code in (401, 403):
        advice = f"accept the licence at {hub.page} and set HF_TOKEN to an access token of the account that did"
        raise CheckpointError(f"{hub.url}: {found}: {advice}")
    if code not in (200, 206):
        raise CheckpointError(f"{hub.url}: {found}")


def _check_length(response: "httpx.Response", hub: Hub, n_here: int, n_bytes: int) -> None:
    if response.status_code == 206:
        name, expected = "Content-Range", f"bytes {n_here}-{n_bytes - 1}/{n_bytes}"
        found = response.headers.get(name)
    else:
        name, expected = "Content-Length", str(n_bytes)
        found = response.headers.get(name, expected)  # what comes in chunks has none
    if found != expected:
        raise CheckpointError(f"{hub.url}: {name}: expected {expected}, found {found}")
