"""One page of the web, fetched because a user names it: never from inside the network, and never without end.

A name is looked up once, and the connection goes to the address that was checked: so neither a second answer of
a name server nor a redirect leads into the network that this machine stands in.
"""

import asyncio
import socket
import ssl
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import httpx

from chat.errors import ChatError

SECONDS = 10.0  # for everything together
MAX_BYTES = 2_000_000  # of a page, and of what it is once it is unpacked
MAX_REDIRECTS = 5
MAX_ADDRESSES = 4  # of a name that are tried
MAX_URL = 2_000  # characters
USER_AGENT = "Mozilla/5.0 (compatible; Parley site check)"

_REDIRECTS = {301, 302, 303, 307, 308}
_GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
# What Python calls global, and clouds and relays answer at
_SPECIAL = [IPv4Network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32")]
_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is given out
# special uses, 6to4, which leads to IPv4 of any kind, and documentation
_INNER = [IPv6Network("2001::/23"), IPv6Network("2002::/16"), IPv6Network("3fff::/20")]


class InvalidUrl(ChatError):
    """The text is no address of a web page; it says the rule and the value."""

    def __init__(self, rule: str, url: str) -> None:
        super().__init__(f"url: {rule}, got {url[:200]!r}")


class NotFetched(Exception):
    """There is no answer; the text says why, in one line."""


class AddressRefused(NotFetched):
    """Whoever asks may not have this server look there."""

    def __init__(self, url: httpx.URL) -> None:
        super().__init__(f"{origin_of(url)} is not on the public internet")


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer."""

    url: httpx.URL
    is_redirected: bool  # the address is not the one that was asked for
    status: int
    headers: httpx.Headers
    body: bytes
    is_cut: bool  # there is more than MAX_BYTES of it

    @property
    def text(self) -> str:
        """The body, read as UTF-8: what is not ASCII matters to nobody here."""
        return self.body.decode("utf-8", "replace")


def origin_of(url: httpx.URL) -> str:
    """Return scheme, host and port as browsers write an origin."""
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def parse_url(text: str) -> httpx.URL:
    """Return the address of a web page; raises InvalidUrl."""
    if len(text) > MAX_URL:
        raise InvalidUrl(f"must have at most {MAX_URL:,} characters", text)
    try:
        url = httpx.URL(text.strip())
        is_web = url.scheme in ("http", "https") and bool(url.raw_host) and (url.port or 0) < 2**16
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidUrl(f"must be an address of the web ({error})", text) from None
    if not is_web:
        raise InvalidUrl("must begin with http:// or https://, a host and perhaps a port", text)
    if url.userinfo:
        raise InvalidUrl("must have no user name and no password", text)
    return url


async def fetch(url: httpx.URL, *, anywhere: bool) -> Fetched:
    """Return what is at an address after redirects; raises NotFetched.

    Without `anywhere` only the public internet is asked. No cookie, no login and no proxy is used.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await _follow(url, anywhere)
    except TimeoutError:
        raise NotFetched(f"{origin_of(url)} has not answered in {SECONDS:g} s") from None


async def _follow(url: httpx.URL, anywhere: bool) -> Fetched:
    for n in range(MAX_REDIRECTS + 1):
        fetched = replace(await _get(url, await _look_up(url, anywhere)), is_redirected=n > 0)
        location = fetched.headers.get("location")
        if fetched.status not in _REDIRECTS or location is None:
            return fetched
        try:
            url = parse_url(str(url.join(location)))
        except (InvalidUrl, httpx.InvalidURL, ValueError) as error:
            raise NotFetched(f"{origin_of(url)} redirects to no page of the web ({error})") from None
    raise NotFetched(f"{origin_of(url)} redirects more than {MAX_REDIRECTS} times")


async def _look_up(url: httpx.URL, anywhere: bool) -> Sequence[str]:
    """Return the addresses of a host; raises AddressRefused if only one of them must not be asked."""
    host = url.raw_host.decode("ascii")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise NotFetched(f"there is no host {host}") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not anywhere and not all(map(is_public, addresses)):
        raise AddressRefused(url)
    return addresses


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the public internet: not of a network, of this machine, or of many."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        is_special = ip.is_multicast or ip.is_reserved or any(ip in network for network in _SPECIAL)
        return ip.is_global and not is_special
    return ip in _UNICAST and not any(ip in network for network in _INNER) and ip.is_global


async def _get(url: httpx.URL, addresses: Sequence[str]) -> Fetched:
    for address in addresses[:MAX_ADDRESSES]:
        try:
            return await _get_from(url, address)
        except httpx.ConnectError as error:
            reason = f"{origin_of(url)} cannot be connected to ({error})"
        except httpx.HTTPError:  # whose text may quote what another kind of server says
            reason = f"{origin_of(url)} does not answer as a web server does"
    raise NotFetched(reason)


async def _get_from(url: httpx.URL, address: str) -> Fetched:
    """Ask an address for a page as its name would be asked: certificates have to be the name's."""
    at_address = url.copy_with(host=address)
    headers = {"Host": url.netloc.decode("ascii"), "Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    names = {"sni_hostname": url.raw_host.decode("ascii")}
    trusted = await asyncio.to_thread(_certificates)
    # A client for each request: a cookie, or a connection to this address under another name, would outlive it.
    async with (
        httpx.AsyncClient(verify=trusted, trust_env=False, timeout=None) as client,
        client.stream("GET", at_address, headers=headers, extensions=names) as response,
    ):
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                break
    unpacked = _unpack(bytes(body), response.headers.get("content-encoding", ""), url)
    is_cut = len(body) > MAX_BYTES or len(unpacked) > MAX_BYTES
    return Fetched(url, False, response.status_code, response.headers, unpacked[:MAX_BYTES], is_cut)


@cache
def _certificates() -> ssl.SSLContext:
    """Return whose certificates count, read once: that takes longer than the event loop may stand still."""
    return httpx.create_ssl_context()


def _unpack(body: bytes, encoding: str, url: httpx.URL) -> bytes:
    """Return a body as it is without its encoding, MAX_BYTES and one more at most: gzip, which some send unasked."""
    if encoding.lower() in ("", "identity"):
        return body
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise NotFetched(f"{origin_of(url)} answers in the encoding {encoding[:40]!r}, which was not asked for")
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, MAX_BYTES + 1)
    except zlib.error as error:
        raise NotFetched(f"{origin_of(url)} answers with {encoding} that is damaged ({error})") from None
