import errno
import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from http.server import ThreadingHTTPServer as Server
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.checkpoint import hub
from model.checkpoint.hub import Hub
from model.errors import CheckpointError

WEIGHTS = bytes(range(251)) * 4000  # 1,004,000 bytes
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILE = Hub("maker/tiny-GGUF", "0123abc", "sub folder/tiny.gguf")


class Handler(BaseHTTPRequestHandler):
    """Answers as the server's next answer does, and after the last one as a good server."""

    def do_GET(self) -> None:
        self.server.requests.append(self)
        answer = self.server.answers.pop(0) if self.server.answers else whole
        answer(self)

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, status: int, headers: dict[str, object], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    @property
    def n_here(self) -> int:
        """How many bytes the client says it has."""
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))


Answer = Callable[[Handler], None]
StartServer = Callable[[], Server]


def cut_after(n_sent: int, weights: bytes = WEIGHTS) -> Answer:
    """A good server whose connection ends after so many bytes."""

    def answer(handler: Handler) -> None:
        n_here = handler.n_here
        headers = {"Content-Length": len(weights) - n_here}
        if n_here:
            headers["Content-Range"] = f"bytes {n_here}-{len(weights) - 1}/{len(weights)}"
        handler.send(206 if n_here else 200, headers, weights[n_here : n_here + n_sent])

    return answer


whole = cut_after(len(WEIGHTS))


def status(code: int) -> Answer:
    return lambda handler: handler.send(code, {"Content-Length": 4}, b"page")


def without_ranges(handler: Handler) -> None:
    handler.send(200, {"Content-Length": len(WEIGHTS)}, WEIGHTS)


def without_length(n_sent: int) -> Answer:
    """A server that sends until it closes the connection, and then sends no more than so many bytes."""
    return lambda handler: handler.send(200, {}, (WEIGHTS * 2)[:n_sent])


def stall_after(n_sent: int) -> Answer:
    """A server that falls silent until `go_on` is set."""

    def answer(handler: Handler) -> None:
        cut_after(n_sent)(handler)
        handler.server.go_on.wait()

    return answer


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Starts servers on this machine; each has `answers` to come, `requests` so far, and its `address`."""
    servers = []

    def start() -> Server:
        server = Server(("127.0.0.1", 0), Handler)
        server.answers, server.requests, server.go_on = [], [], threading.Event()
        server.address = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=[0.01]).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.go_on.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def server(start_server: StartServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The hub, for clients that are in a hurry."""
    server = start_server()
    for name in ("HF_TOKEN", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr(hub, "PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setattr(hub, "TIMEOUT", 5.0)
    return server


def bring(folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> bytes:
    """What comes of the file, in a folder that holds nothing else then."""
    FILE.bring(folder / "tiny.gguf", len(WEIGHTS), SHA256, progress)
    assert os.listdir(folder) == ["tiny.gguf"]
    return (folder / "tiny.gguf").read_bytes()


def refusal(folder: Path) -> str:
    """Why the file does not come, beside its address; it is not there then, and at most what came of it is."""
    with pytest.raises(CheckpointError) as caught:
        bring(folder)
    assert set(os.listdir(folder)) <= {part_in(folder).name}
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{FILE.url}: ")


def part_in(folder: Path, sha256: str = SHA256) -> Path:
    return folder / f"tiny.gguf.{sha256[:16]}.part"


def test_file_comes_from_where_the_hub_keeps_it(server: Server, tmp_path: Path) -> None:
    assert bring(tmp_path) == WEIGHTS
    [request] = server.requests
    assert request.path == "/maker/tiny-GGUF/resolve/0123abc/sub%20folder/tiny.gguf"
    assert (request.headers["Range"], request.headers["Authorization"]) == (None, None)


def test_hub_is_the_known_one_unless_the_environment_names_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert str(FILE) == "https://huggingface.co/maker/tiny-GGUF/resolve/0123abc/sub%20folder/tiny.gguf"
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/hub/")
    assert FILE.page == "https://mirror.example/hub/maker/tiny-GGUF"


def test_progress_rises_from_what_is_here_to_all(server: Server, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(WEIGHTS[:300_000])
    calls: list[tuple[int, int]] = []
    bring(tmp_path, lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert (calls[0], calls[-1]) == ((300_000, len(WEIGHTS)), (len(WEIGHTS), len(WEIGHTS)))


# interruptions


def test_cut_download_goes_on_where_it_was_cut(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_after(400_000), cut_after(100_000)]
    assert bring(tmp_path) == WEIGHTS
    assert [request.headers["Range"] for request in server.requests] == [None, "bytes=400000-", "bytes=500000-"]


def test_server_that_always_cuts_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [cut_after(1000)] * 3
    assert re.fullmatch(r"peer closed connection .*; 3,000 of 1,004,000 bytes are here", refusal(tmp_path))
    assert part_in(tmp_path).read_bytes() == WEIGHTS[:3000]
    assert bring(tmp_path) == WEIGHTS
    assert server.requests[-1].headers["Range"] == "bytes=3000-"


def test_attempts_that_bring_much_are_not_counted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "WORTHWHILE", 100_000)
    server.answers = [cut_after(100_000)] * 9
    assert bring(tmp_path) == WEIGHTS


def test_attempts_wait_longer_each_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(hub, "PAUSES", (0.0, 1.0, 2.0))
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.answers = [cut_after(10)] * 3
    refusal(tmp_path)
    assert pauses == [0.0, 1.0, 2.0]


def test_silent_server_is_asked_again(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.2)
    server.answers = [stall_after(200_000)]
    assert bring(tmp_path) == WEIGHTS
    assert server.requests[-1].headers["Range"] == "bytes=200000-"


def test_server_that_stays_silent_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    server.answers = [lambda handler: handler.server.go_on.wait()] * 3
    assert refusal(tmp_path) == "timed out; 0 of 1,004,000 bytes are here"


def test_nobody_listening_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port
    assert refusal(tmp_path).endswith("Connection refused; 0 of 1,004,000 bytes are here")


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_busy_server_is_asked_again(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code), cut_after(9), status(code)]
    with pytest.raises(CheckpointError, match=rf": HTTP {code} [\w ]+; 9 of 1,004,000 bytes are here$"):
        bring(tmp_path)
    assert bring(tmp_path) == WEIGHTS


def interrupt(n_done: int, n_total: int) -> None:
    if n_done >= 500_000:
        raise KeyboardInterrupt


def test_interrupt_keeps_what_came(server: Server, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        bring(tmp_path, interrupt)
    n_here = part_in(tmp_path).stat().st_size
    assert n_here >= 500_000
    assert bring(tmp_path) == WEIGHTS
    assert server.requests[-1].n_here == n_here


def test_killed_download_goes_on_in_another_process(server: Server, tmp_path: Path) -> None:
    server.answers = [stall_after(700_000)]
    process = multiprocessing.get_context("spawn").Process(target=bring, args=[tmp_path])
    process.start()
    while not (part_in(tmp_path).exists() and part_in(tmp_path).stat().st_size > 600_000):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert os.listdir(tmp_path) == [part_in(tmp_path).name]
    assert bring(tmp_path) == WEIGHTS
    assert server.requests[-1].n_here > 600_000


@given(
    answers=st.lists(
        st.one_of(
            st.integers(0, len(WEIGHTS)).map(cut_after),
            st.integers(0, 2 * len(WEIGHTS)).map(without_length),
            st.sampled_from([status(404), status(500), without_ranges]),
            st.just(cut_after(500_000, WEIGHTS[::-1])),
        ),
        max_size=6,
    )
)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_server_does_the_file_is_right_or_absent(
    server: Server, tmp_path: Path, answers: list[Answer]
) -> None:
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    server.answers = list(answers)
    for _ in range(len(answers) + 2):
        try:
            assert bring(tmp_path) == WEIGHTS
            return
        except CheckpointError:
            assert not (tmp_path / "tiny.gguf").exists()
    pytest.fail("the file does not come though the server has become a good one")


# servers that lie, refuse or lead elsewhere


@pytest.mark.parametrize("n_bytes", [0, 1_003_999, 1_004_001, 10**15])
def test_file_of_another_length_is_refused_before_it_comes(server: Server, tmp_path: Path, n_bytes: int) -> None:
    server.answers = [lambda handler: handler.send(200, {"Content-Length": n_bytes}, WEIGHTS)]
    assert refusal(tmp_path) == f"Content-Length: expected 1004000, found {n_bytes}"
    assert len(server.requests) == 1


def test_part_of_a_file_of_another_length_is_refused(server: Server, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(WEIGHTS[:10])
    server.answers = [lambda handler: handler.send(206, {"Content-Range": "bytes 10-99/100"}, WEIGHTS[10:100])]
    assert refusal(tmp_path) == "Content-Range: expected bytes 10-1003999/1004000, found bytes 10-99/100"
    assert part_in(tmp_path).read_bytes() == WEIGHTS[:10]


def test_server_that_tells_no_length_may_send_more(server: Server, tmp_path: Path) -> None:
    server.answers = [without_length(1_500_000)]
    assert bring(tmp_path) == WEIGHTS


def test_server_that_tells_no_length_may_send_less(server: Server, tmp_path: Path) -> None:
    server.answers = [without_length(200_000)] * 3
    assert refusal(tmp_path) == "the connection ended early; 200,000 of 1,004,000 bytes are here"
    assert bring(tmp_path) == WEIGHTS


def test_server_that_knows_no_ranges_begins_anew(server: Server, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(WEIGHTS[:900_000])
    server.answers = [without_ranges]
    assert bring(tmp_path) == WEIGHTS


def test_file_that_is_all_here_is_asked_of_nobody(server: Server, tmp_path: Path) -> None:
    part_in(tmp_path).write_bytes(WEIGHTS)
    assert bring(tmp_path) == WEIGHTS
    assert server.requests == []


@pytest.mark.parametrize("n_here", [0, 500_000, len(WEIGHTS), len(WEIGHTS) + 1])
def test_wrong_bytes_leave_nothing(server: Server, tmp_path: Path, n_here: int) -> None:
    part_in(tmp_path).write_bytes(b"?" * n_here)
    server.answers = [cut_after(len(WEIGHTS), b"!" * len(WEIGHTS))]
    assert re.fullmatch(f"expected SHA-256 {SHA256}, found [0-9a-f]{{64}}", refusal(tmp_path))
    assert os.listdir(tmp_path) == []
    server.answers = []
    assert bring(tmp_path) == WEIGHTS


def test_part_of_another_file_is_let_alone(server: Server, tmp_path: Path) -> None:
    other = part_in(tmp_path, "f" * 64)
    other.write_bytes(b"other")
    FILE.bring(tmp_path / "tiny.gguf", len(WEIGHTS), SHA256, lambda done, total: None)
    assert (tmp_path / "tiny.gguf").read_bytes() == WEIGHTS
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize("code", [400, 404, 410, 416])
def test_refusal_is_told_with_its_status(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    assert re.fullmatch(rf"HTTP {code} [\w ]+", refusal(tmp_path))
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [401, 403])
def test_gated_file_says_what_to_do(server: Server, tmp_path: Path, code: int) -> None:
    server.answers = [status(code)]
    advice = f"accept the licence at {server.address}/maker/tiny-GGUF and set HF_TOKEN to an access token"
    assert re.fullmatch(rf"HTTP {code} \w+: {advice} of the account that did", refusal(tmp_path))


def test_token_goes_to_the_hub_and_to_no_other_host(
    server: Server, start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    other = start_server()
    server.answers = [
        lambda handler: handler.send(307, {"Location": "/renamed", "Content-Length": 0}),
        lambda handler: handler.send(302, {"Location": f"{other.address}/blob", "Content-Length": 0}),
    ]
    assert bring(tmp_path) == WEIGHTS
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer hf_secret"] * 2
    assert [(request.path, request.headers["Authorization"]) for request in other.requests] == [("/blob", None)]


@pytest.mark.parametrize("token", ["hf_sec\nret", "hf_sécret", "hf_\x7f"])
def test_token_that_cannot_be_sent_is_not_shown(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert refusal(tmp_path) == "HF_TOKEN: expected printable ASCII characters, found others"


@pytest.mark.parametrize("endpoint", ["huggingface.co", "http://[::1", "http://127.0.0.1:port", "ftp://127.0.0.1"])
def test_endpoint_that_is_no_address_is_told_at_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, endpoint: str
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited") if seconds else None)
    monkeypatch.setattr(hub, "PAUSES", (0.0, 9.0))
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert refusal(tmp_path).endswith("; check HF_ENDPOINT")


def test_proxy_that_cannot_be_used_is_told(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1")
    assert refusal(tmp_path).startswith("the proxy that the environment names cannot be used: ")


# disks


def test_full_disk_is_found_before_it_is_full(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part_in(tmp_path).write_bytes(WEIGHTS[:4000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 999_999))
    assert refusal(tmp_path) == f"{tmp_path}: expected 1,000,000 bytes of free space, found 999,999"
    assert server.requests == []


def test_disk_that_fills_up_keeps_what_came(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left on device"):
            bring(tmp_path)
    assert os.listdir(tmp_path) == [part_in(tmp_path).name]
    assert bring(tmp_path) == WEIGHTS
