"""A page is fetched from nowhere that it must not be asked of, never without end, and by the name that it has."""

import asyncio
import gzip
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from web_host import CERTIFICATE, Answer, WebHost, serve_web

from chat.embed import safe_fetch
from chat.embed.safe_fetch import (
    MAX_ADDRESSES,
    MAX_BYTES,
    MAX_REDIRECTS,
    AddressRefused,
    Fetched,
    InvalidUrl,
    NotFetched,
    fetch,
    is_public,
    parse_url,
)

HTML = [("Content-Type", "text/html")]
OTHER_LOOPBACK = "127.0.0.2"


@pytest.fixture
def host() -> Iterator[WebHost]:
    with serve_web() as host:
        host.answers["/"] = Answer("Hello")
        yield host


def get(url: str, *, anywhere: bool = True) -> Fetched:
    return asyncio.run(fetch(parse_url(url), anywhere=anywhere))


@contextmanager
def listening(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve each connection with a function; yields the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        serve(connection)
            except OSError:  # the client has gone, or the test is over
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def naming(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Have a name server answer so, one answer after the other; returns the names that it is asked for."""
    names: list[str] = []

    def look_up(name: str, port: int | None, *_: object) -> list[tuple[object, ...]]:
        names.append(name)
        addresses = answers[min(len(names), len(answers)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def test_a_page_comes_with_its_headers(host: WebHost) -> None:
    fetched = get(host.url)
    assert (fetched.status, fetched.text, fetched.is_redirected, fetched.is_cut) == (200, "Hello", False, False)
    assert fetched.headers["content-type"] == "text/html; charset=utf-8"


def test_headers_that_come_twice_are_both_there(host: WebHost) -> None:
    host.answers["/"] = Answer(headers=[("X-Test", "a"), ("X-Test", "b")])
    assert get(host.url).headers.get_list("x-test") == ["a", "b"]


def test_nothing_is_told_of_who_asks(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    host.answers["/"] = Answer(status=302, headers=[("Location", "/next"), ("Set-Cookie", "a=b; Path=/")])
    host.answers["/next"] = Answer("Here")
    assert get(host.url).text == "Here"
    assert all(not {"cookie", "authorization", "referer"} & headers.keys() for _, headers in host.asked)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shop.example",
        "//shop.example",
        "ftp://shop.example/",
        "file:///etc/passwd",
        "gopher://shop.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://",
        "https:///path",
        "https://user@shop.example/",
        "https://user:password@shop.example/",
        "https://shop.example:port/",
        "https://shop.example:99999/",
        "https://sh\nop.example/",
        "https://[::1/",
        f"https://shop.example/{'x' * 2_000}",
    ],
)
def test_what_is_no_address_of_a_page_is_refused(text: str) -> None:
    with pytest.raises(InvalidUrl, match=r"^url: must .*, got '"):
        parse_url(text)


@given(st.text(max_size=60) | st.text("htps:/.@[]%1a-\\?#", max_size=40))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    with suppress(InvalidUrl):
        assert parse_url(text).scheme in ("http", "https")


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",
        "172.16.0.1",
        "192.168.1.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "64:ff9b::7f00:1",
        "64:ff9b::808:808",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
        "3fff::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
        "192.0.0.192",  # Oracle's metadata
        "192.88.99.1",
        "168.63.129.16",  # Azure's
    ],
)
def test_inner_and_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::200e"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0", "[::ffff:127.0.0.1]"])
def test_this_machine_is_asked_under_no_spelling(name: str, host: WebHost) -> None:
    with pytest.raises(AddressRefused, match="is not on the public internet"):
        get(f"http://{name}:{host.port}/", anywhere=False)
    assert host.asked == []


def test_one_inner_address_among_others_is_enough_to_refuse(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    naming(monkeypatch, ["8.8.8.8", "127.0.0.1"])
    with pytest.raises(AddressRefused):
        get(f"http://shop.example:{host.port}/", anywhere=False)
    assert host.asked == []


def test_a_name_is_looked_up_once_and_its_address_kept(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer of the name server would lead to the host that must not be asked (DNS rebinding)."""
    monkeypatch.setattr(safe_fetch, "is_public", lambda address: address == OTHER_LOOPBACK)
    names = naming(monkeypatch, [OTHER_LOOPBACK], ["127.0.0.1"])
    with serve_web(OTHER_LOOPBACK, host.port) as public:
        public.answers["/"] = Answer("Public")
        assert get(f"http://shop.example:{host.port}/", anywhere=False).text == "Public"
    assert names == ["shop.example"]
    assert public.asked[0][1]["host"] == f"shop.example:{host.port}"
    assert host.asked == []


def test_a_redirect_leads_nowhere_that_is_refused(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_fetch, "is_public", lambda address: address == OTHER_LOOPBACK)
    with serve_web(OTHER_LOOPBACK) as public:
        public.answers["/"] = Answer(status=302, headers=[("Location", f"{host.url}/")])
        with pytest.raises(AddressRefused):
            get(public.url, anywhere=False)
    assert len(public.asked) == 1
    assert host.asked == []


@pytest.mark.parametrize(
    "location", ["ftp://a.example/", "file:///etc/passwd", "http://u:p@127.0.0.1/", "http://[::1/"]
)
def test_a_redirect_to_no_page_is_not_followed(location: str, host: WebHost) -> None:
    host.answers["/"] = Answer(status=301, headers=[("Location", location)])
    with pytest.raises(NotFetched, match="redirects to no page of the web|does not answer as a web server does"):
        get(host.url)


def test_redirects_are_followed_and_have_an_end(host: WebHost) -> None:
    for n in range(MAX_REDIRECTS + 1):
        host.answers[f"/{n}"] = Answer(status=307, headers=[("Location", f"{n + 1}")])
    host.answers[f"/{MAX_REDIRECTS + 1}"] = Answer("The end")
    fetched = get(f"{host.url}/1")
    assert (fetched.text, fetched.url.path, fetched.is_redirected) == ("The end", f"/{MAX_REDIRECTS + 1}", True)
    with pytest.raises(NotFetched, match=f"redirects more than {MAX_REDIRECTS} times"):
        get(f"{host.url}/0")


def test_of_a_long_page_the_beginning_is_read(host: WebHost) -> None:
    host.answers["/"] = Answer(b"x" * (MAX_BYTES + 1))
    fetched = get(host.url)
    assert (len(fetched.body), fetched.is_cut) == (MAX_BYTES, True)


def test_a_page_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            connection.sendall(b"x" * 65_536)

    with listening(serve) as url:
        assert get(url).is_cut


@pytest.mark.parametrize(
    "slowly",
    [
        b"",  # no answer at all
        b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1_000,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * 100,
    ],
)
def test_a_slow_page_is_not_waited_for(slowly: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_fetch, "SECONDS", 0.5)

    def serve(connection: socket.socket) -> None:
        connection.recv(10_000)
        for byte in slowly:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        time.sleep(5)

    started = time.monotonic()
    with listening(serve) as url, pytest.raises(NotFetched, match=r"has not answered in 0\.5 s"):
        get(url)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", b"\x00" * 200_000]
)
def test_what_is_no_web_server_is_told(answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(10_000)
        connection.sendall(answer)

    with listening(serve) as url, pytest.raises(NotFetched, match="does not answer as a web server does"):
        get(url)


@contextmanager
def refusing() -> Iterator[int]:
    """Hold a port of this machine that nobody listens on; yields its number."""
    with socket.socket() as held:
        held.bind(("", 0))
        yield held.getsockname()[1]


def test_a_port_that_nobody_listens_on_is_told() -> None:
    with refusing() as port, pytest.raises(NotFetched, match=f"^http://127.0.0.1:{port} cannot be connected to"):
        get(f"http://127.0.0.1:{port}/")


def test_of_a_name_with_many_addresses_only_some_are_tried(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [f"127.0.1.{n}" for n in range(MAX_ADDRESSES)]
    naming(monkeypatch, [*refused[1:], "127.0.0.1"], [*refused, "127.0.0.1"])
    assert get(f"http://shop.example:{host.port}/").text == "Hello"
    with pytest.raises(NotFetched, match="cannot be connected to"):
        get(f"http://shop.example:{host.port}/")
    assert len(host.asked) == 1


def test_every_address_of_a_name_is_looked_at_though_not_tried(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    naming(monkeypatch, [*(f"8.8.8.{n}" for n in range(MAX_ADDRESSES)), "127.0.0.1"])
    with pytest.raises(AddressRefused):
        get(f"http://shop.example:{host.port}/", anywhere=False)


def test_certificates_are_read_once_and_not_on_the_event_loop(host: WebHost, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[threading.Thread] = []

    def read() -> ssl.SSLContext:
        readers.append(threading.current_thread())
        return ssl.create_default_context()

    safe_fetch._certificates.cache_clear()
    monkeypatch.setattr(httpx, "create_ssl_context", read)
    host.answers["/there"] = Answer(status=302, headers=[("Location", "/")])
    assert get(f"{host.url}/there").text == "Hello"
    assert get(host.url).text == "Hello"
    assert len(readers) == 1
    assert readers[0] is not threading.main_thread()
    safe_fetch._certificates.cache_clear()


@pytest.mark.parametrize("name", ["no.such.host.invalid", f"{'a' * 64}.example", "..", "a..b"])
def test_a_name_that_is_none_is_told(name: str) -> None:
    with pytest.raises((NotFetched, InvalidUrl)):
        get(f"http://{name}/")


@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)]
)
def test_what_comes_compressed_though_unasked_is_unpacked(
    encoding: str, encode: Callable[[bytes], bytes], host: WebHost
) -> None:
    host.answers["/"] = Answer(encode(b"Hello"), [*HTML, ("Content-Encoding", encoding)])
    assert get(host.url).text == "Hello"
    assert host.asked[0][1]["accept-encoding"] == "identity"


def test_a_bomb_is_unpacked_only_so_far(host: WebHost) -> None:
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    bomb = b"".join(packer.compress(b"x" * 1_000_000) for _ in range(500)) + packer.flush()
    assert len(bomb) > MAX_BYTES  # so the beginning of it has to do
    host.answers["/"] = Answer(bomb, [*HTML, ("Content-Encoding", "gzip")])
    fetched = get(host.url)
    assert (len(fetched.body), fetched.is_cut) == (MAX_BYTES, True)


@pytest.mark.parametrize(("encoding", "reason"), [("br", "which was not asked for"), ("gzip", "is damaged")])
def test_what_cannot_be_unpacked_is_told(encoding: str, reason: str, host: WebHost) -> None:
    host.answers["/"] = Answer(b"Hello", [*HTML, ("Content-Encoding", encoding)])
    with pytest.raises(NotFetched, match=reason):
        get(host.url)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the certificate of page.test be good."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    safe_fetch._certificates.cache_clear()
    yield
    safe_fetch._certificates.cache_clear()


def test_a_certificate_has_to_be_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    naming(monkeypatch, ["127.0.0.1"])
    with serve_web(tls=True) as secure, pytest.raises(NotFetched, match="certificate verify failed"):
        get(f"https://page.test:{secure.port}/")
    assert secure.asked == []


@pytest.mark.usefixtures("trusted")
def test_a_certificate_has_to_be_that_of_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    naming(monkeypatch, ["127.0.0.1"])
    with serve_web(tls=True) as secure:
        secure.answers["/"] = Answer("Hello")
        assert get(f"https://page.test:{secure.port}/").text == "Hello"
        assert get(f"https://127.0.0.1:{secure.port}/").text == "Hello"
        with pytest.raises(NotFetched, match="certificate verify failed"):
            get(f"https://other.test:{secure.port}/")
    assert [headers["host"] for _, headers in secure.asked] == [f"page.test:{secure.port}", f"127.0.0.1:{secure.port}"]


@pytest.mark.usefixtures("trusted")
def test_the_server_hears_the_name_before_it_shows_a_certificate(monkeypatch: pytest.MonkeyPatch) -> None:
    naming(monkeypatch, ["127.0.0.1"])
    names: list[str] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    context.sni_callback = lambda _, name, __: names.append(name)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(10_000)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHi")

    with listening(serve) as url:
        assert get(url.replace("http://127.0.0.1", "https://page.test")).text == "Hi"
    assert names == ["page.test"]
