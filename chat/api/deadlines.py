"""How long a connection may take for what: uvicorn alone waits for ever, and middleware sees only whole requests."""

import asyncio
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Literal

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from chat.api.addresses import address_of
from chat.api.errors import refusal
from chat.api.guard import HEADERS, IMPORT
from chat.api.request_log import ID_HEADER, log_unread

MAX_CONNECTIONS = 800
"""More than any household of browsers has open, and fewer than the files that a process may usually open, 1,024."""
MAX_OF_ADDRESS = 200
LOOPBACK = ("127.0.0.0/8", "::1/128")
MAX_HEAD_BYTES = 16_384

Phase = Literal["head", "body", "rest", "idle"]  # what is waited for: "rest" of a body that nobody reads any more
SECONDS: dict[Phase, float] = {"head": 10, "body": 30, "rest": 10, "idle": 15}
SEND_SECONDS = 60.0

FULL = "There are too many connections: try again later."


class DeadlineProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, but whoever is too slow, or comes when it is full, is cut off.

    A request must be here as a whole in time, however it trickles; only a file that is imported may take as long as
    it moves on. What is sent to somebody who does not read waits for a time, too.
    """

    seconds = SECONDS
    send_seconds = SEND_SECONDS
    max_connections = MAX_CONNECTIONS
    max_of_address = MAX_OF_ADDRESS
    loopback = LOOPBACK

    address = ""
    _phase: Phase | None = None
    _deadline: asyncio.TimerHandle | None = None
    _send_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.address = address_of({"client": self.client})
        if len(self.connections) > self.max_connections or self._is_above_share():
            self._end_with(refusal(503, FULL, "too_many_connections", headers={"Retry-After": "10"}))
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in some bytes."""
        super().data_received(data)
        self._watch(moved_on=True)

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        for timer in (self._deadline, self._send_deadline):
            if timer:
                timer.cancel()

    def pause_writing(self) -> None:
        """Begin to wait until somebody reads."""
        super().pause_writing()
        self._send_deadline = self.loop.call_later(self.send_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Somebody has read enough."""
        super().resume_writing()
        if self._send_deadline:
            self._send_deadline.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answer to what is no HTTP, in the form of all errors."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._end_with(refusal(400, msg, "invalid_http"))
        else:  # an answer is on its way already
            self.transport.abort()

    def _is_above_share(self) -> bool:
        n = sum(isinstance(other, DeadlineProtocol) and other.address == self.address for other in self.connections)
        return n > self.max_of_address and not self._stands_for_many()

    def _stands_for_many(self) -> bool:
        """Tell whether a connection is of a proxy that the settings trust, or of this machine, where one may be."""
        if self.client is None:  # it has gone already
            return True
        peer = ip_address(self.client[0])
        if isinstance(peer, IPv6Address):
            peer = peer.ipv4_mapped or peer
        return any(peer in ip_network(known) for known in (*self.loopback, *self.config.forwarded_allow_ips))

    def _end_with(self, answer: Response) -> None:
        own = {**HEADERS, "Connection": "close", ID_HEADER: log_unread(answer.status_code, len(answer.body))}
        headers = [(name.encode(), value.encode()) for name, value in own.items()]
        phrase = HTTPStatus(answer.status_code).phrase.encode()
        start = h11.Response(status_code=answer.status_code, headers=answer.raw_headers + headers, reason=phrase)
        events = (start, h11.Data(data=bytes(answer.body)), h11.EndOfMessage())
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _watch(self, *, moved_on: bool = False) -> None:
        """Set the deadline of what is waited for now; it stays where it was for the same thing."""
        phase = self._wait_for()
        if phase == self._phase and not (moved_on and phase == "body" and self.scope["path"] == IMPORT):
            return
        if self._deadline:
            self._deadline.cancel()
        self._phase = phase
        self._deadline = self.loop.call_later(self.seconds[phase], self._expire) if phase else None

    def _wait_for(self) -> Phase | None:
        """Return what of a request is still to come; None while one is being answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        if self.transport.is_closing():
            return None
        if self.conn.their_state is h11.SEND_BODY:
            return "rest" if is_answered else "body"
        if self.conn.their_state is not h11.IDLE or not is_answered:
            return None
        return "head" if self.cycle is None or self.conn.trailing_data[0] else "idle"

    def _expire(self) -> None:
        if self._phase == "body" and self.flow.read_paused:  # it is not the client who keeps us waiting
            self._deadline = self.loop.call_later(self.seconds["body"], self._expire)
        elif self._phase == "idle":
            self.transport.close()
        else:
            self.transport.abort()
