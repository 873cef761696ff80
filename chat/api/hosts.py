"""By which names the server may be called."""

import re
from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.errors import refusal, shortened

HOST = re.compile(r"(?:(?P<name>[A-Za-z0-9._-]+)|\[(?P<v6>[0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")


class Hosts:
    """Pure ASGI middleware: refuses requests that do not name this server.

    A page of another site can have its own name lead here, and then read as one of ours (DNS rebinding). The browser
    still says by which name it came. An address is no name that could be made to lead elsewhere, so all of them pass.
    """

    def __init__(self, app: ASGIApp, names: Collection[str]) -> None:
        """Answer to these names, in lower case and without a port, and to `localhost`."""
        self._app = app
        self._names = {"localhost", *names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http":
            given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
            if len(given) != 1 or not self._is_ours(given[0]):
                hosts = shortened(", ".join(given))
                text = f"Host: expected an address, localhost or a name of the setting hosts, got {hosts}"
                await refusal(400, text, "unknown_host")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        if not (match := HOST.fullmatch(host)):
            return False
        try:
            if match["v6"]:
                IPv6Address(match["v6"])
            elif match["name"].lower() not in self._names:
                IPv4Address(match["name"])
        except AddressValueError:
            return False
        return True
