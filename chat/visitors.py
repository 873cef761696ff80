"""The visitors of sites: how they are known without an account, how much they may ask for, and what they send."""

import hashlib
import hmac
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from itsdangerous import BadData

from chat.errors import ChatError, KeyTaken, MessageTooLong
from chat.limits import DailyTokens, LimitExceeded, RateLimiter, seconds_of_day_left
from chat.presets import PLAIN, Preset, presets_of
from chat.secret import signer
from chat.sites import OriginNotListed, SiteDisabled, UnknownSite, allows
from chat.text import check_message
from chat.workspace import Workspace
from model.sampling_params import SamplingParams
from storage.conversations import Visitor
from storage.errors import ConversationBusy
from storage.tables import Message, Site, utc_now

TOKEN_PREFIX = "vis_"
TOKEN_DAYS = 30
MAX_CHARS = 8000  # of a visitor's message
SESSIONS = (60, 60)  # begun or renewed of one address, within so many seconds
NEW_VISITORS = (10, 60)  # and of those the new ones
SPENT = "This chat has answered as much as it may today."
WINDOW = 600  # seconds, for which a site says how many messages there may be


class NoVisitor(ChatError):
    """A token is nobody's, or no longer; the text does not tell why."""

    def __init__(self) -> None:
        super().__init__("The visitor's token is not valid, or no longer: begin a new session.")


class WrongHash(ChatError):
    """A page vouches for a visitor, but not with the site's secret."""

    def __init__(self) -> None:
        super().__init__(
            "user.hash: expected the HMAC-SHA256 of the user's id with the site's identity secret, in hex digits"
        )


class PresetUnfit(ChatError):
    """The parameters of a site's preset do not suit the model; the text says which."""


@dataclass(frozen=True, slots=True)
class VouchedUser:
    """A visitor as the site knows them, and its word for it."""

    id: str
    hash: str


@dataclass(frozen=True, slots=True)
class VisitorSession:
    """A visitor on a site, whose page has shown them the chat."""

    site: Site
    visitor: Visitor
    origin: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A visitor's message, and the reply to it if that is still there."""

    conversation_id: str
    message_id: str
    reply_id: str | None
    is_new: bool


class Visitors:
    """Lets visitors in and passes on what they send. Threads may share it; it keeps no more than counts of them."""

    def __init__(self, workspace: Workspace, secret: bytes, tokens: DailyTokens) -> None:
        """Let visitors use what an owner may use on a day, besides what their site may."""
        self._workspace = workspace
        self._owners_tokens = tokens
        self._secret = secret
        self._tokens = signer(secret, "visitor")
        self._limiter = RateLimiter()
        self._sending = threading.Lock()

    def door(self, key: str, origin: str, own_origin: str) -> Site:
        """Return the site of a key, if a page of an origin may show its chat; Parley's own page may, for a preview.

        Raises UnknownSite, SiteDisabled, OriginNotListed.
        """
        site = self._workspace.sites.with_key(key)
        if site is None:
            raise UnknownSite
        if not site.enabled:
            raise SiteDisabled
        if origin != own_origin and not allows(site, origin):
            raise OriginNotListed(origin)
        return site

    def enter(
        self, key: str, origin: str, own_origin: str, *, address: str, token: str | None, user: VouchedUser | None
    ) -> str:
        """Return a visitor's token: that of the session of an earlier one, or of a new session.

        A user whom the site vouches for is the same visitor on all their devices. Raises as `door` does, WrongHash,
        and LimitExceeded if an address has too many, or too many new ones.
        """
        self._take(SESSIONS, "sessions", self._caller(address))
        site = self.door(key, origin, own_origin)
        earlier = self._earlier(token, site, origin)
        visitor = earlier if user is None else self._vouched(site, user)
        if visitor is None or visitor != earlier:
            self._take(NEW_VISITORS, "new sessions", self._caller(address))
            visitor = visitor or Visitor(site.id, secrets.token_hex(16))
        claims = {"v": visitor.id, "s": site.id, "k": site.key, "o": origin, "n": visitor.name}
        return TOKEN_PREFIX + str(self._tokens.dumps(claims))

    def find(self, token: str, own_origin: str) -> VisitorSession:
        """Return the session of a token; raises NoVisitor, whatever has become of it or of its site."""
        claims = self._claims(token)
        if claims is None:
            raise NoVisitor
        site = self._workspace.sites.with_key(claims["k"])
        is_open = site is not None and site.id == claims["s"] and site.enabled
        if site is None or not is_open or not (claims["o"] == own_origin or allows(site, claims["o"])):
            raise NoVisitor
        return VisitorSession(site, Visitor(site.id, claims["v"], claims["n"]), claims["o"])

    def send(
        self, session: VisitorSession, conversation_id: str | None, text: str, *, idempotency_key: str, address: str
    ) -> Sent:
        """Store a visitor's message, in a new conversation if it names none, and start the reply to it.

        The same key adds nothing. Raises ConversationNotFound, ConversationBusy while any reply to the visitor is being
        written, LimitExceeded, and as DialogueManager.send does.
        """
        site, visitor, manager = session.site, session.visitor, self._workspace.manager
        if len(text) > MAX_CHARS:
            raise MessageTooLong(len(text), MAX_CHARS, "characters")
        text = check_message(text)
        with self._sending:  # or two at once would both find none in flight
            if earlier := self._workspace.sites.sent(visitor, idempotency_key):
                return self._sent_before(site.owner_id, earlier, text, idempotency_key)
            if conversation_id is not None:
                self._workspace.sites.conversation(visitor, conversation_id)
            _ = manager.model  # without one nothing is counted
            self._check_idle(session)
            self._check_tokens(site)
            counts = self._message_counts(session, address)
            with _limiting("messages"):
                for count in counts:
                    self._limiter.check(*count)
            preset = self._preset(site)
            params = self._params(preset)
            system_prompt = preset.system_prompt if site.system_prompt is None else site.system_prompt
            text = manager.check(text, params, system_prompt=system_prompt)
            for count in counts:  # only now, for a message that is refused counts for nothing
                self._limiter.take(*count)
            if conversation_id is None:
                conversation_id = manager.start(
                    site.owner_id,
                    channel="widget",
                    system_prompt=system_prompt,
                    preset=site.preset,
                    visitor=visitor,
                ).id
            return self._send(site.owner_id, conversation_id, text, params, idempotency_key)

    def _send(self, owner_id: str, conversation_id: str, text: str, params: SamplingParams, key: str) -> Sent:
        try:
            turn = self._workspace.manager.send(owner_id, conversation_id, text, params, idempotency_key=key)
        except ValueError as error:
            raise PresetUnfit(str(error)) from error
        assert turn.message_id is not None, "the reply is to a message"
        return Sent(conversation_id, turn.message_id, turn.reply_id, is_new=True)

    def _sent_before(self, owner_id: str, message: Message, text: str, key: str) -> Sent:
        if message.content != text:
            raise KeyTaken
        found = self._workspace.conversations.find_sent(owner_id, message.conversation_id, key)
        reply = found and found[1]
        return Sent(message.conversation_id, message.id, reply.id if reply else None, is_new=False)

    def _check_idle(self, session: VisitorSession) -> None:
        for conversation_id in self._workspace.sites.in_flight(session.visitor):
            if self._workspace.manager.turn(session.site.owner_id, conversation_id):
                raise ConversationBusy

    def _message_counts(self, session: VisitorSession, address: str) -> Sequence[tuple[str, str, int, int]]:
        """Return what a message counts for, as RateLimiter.take wants it: its visitor, and their address."""
        site = session.site
        return (
            ("messages", session.visitor.id, site.messages_per_visitor, WINDOW),
            ("messages", f"{site.id} {self._caller(address)}", site.messages_per_address, WINDOW),
        )

    def _check_tokens(self, site: Site) -> None:
        """Raise LimitExceeded if the site, or its owner in all, has used as much as it may today."""
        try:
            self._owners_tokens.check(site.owner_id)
        except LimitExceeded as error:
            raise LimitExceeded(SPENT, error.retry_after) from None
        today = utc_now().replace(hour=0, minute=0, second=0, microsecond=0)
        if site.tokens_per_day is not None and self._workspace.sites.n_tokens(site.id, today) >= site.tokens_per_day:
            raise LimitExceeded(SPENT, seconds_of_day_left())

    def _take(self, limit: tuple[int, int], what: str, caller: str) -> None:
        with _limiting(what):
            self._limiter.take(what, caller, *limit)

    def _preset(self, site: Site) -> Preset:
        """Return the site's preset; none if its owner has deleted that, which is nothing to tell visitors."""
        named = {preset.name: preset for preset in presets_of(self._workspace.presets, site.owner_id)}
        return named.get(site.preset or "", PLAIN)

    def _params(self, preset: Preset) -> SamplingParams:
        try:
            return replace(self._workspace.manager.model.sampling_params, **preset.params)
        except ValueError as error:
            raise PresetUnfit(str(error)) from error

    def _earlier(self, token: str | None, site: Site, origin: str) -> Visitor | None:
        claims = self._claims(token) if token else None
        if claims is None or (claims["s"], claims["k"], claims["o"]) != (site.id, site.key, origin):
            return None
        return Visitor(site.id, claims["v"], claims["n"])

    def _claims(self, token: str) -> dict[str, Any] | None:
        if not (token.startswith(TOKEN_PREFIX) and token.isascii()):
            return None
        age = int(timedelta(days=TOKEN_DAYS).total_seconds())
        try:
            claims: dict[str, Any] = self._tokens.loads(token.removeprefix(TOKEN_PREFIX), max_age=age)
        except BadData:
            return None
        return claims

    def _vouched(self, site: Site, user: VouchedUser) -> Visitor:
        key = identity_secret(self._secret, site)
        expected = hmac.new(key.encode(), user.id.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), user.hash.encode()):
            raise WrongHash
        # not by the site's key, so that a new one takes away nobody's conversations
        return Visitor(site.id, _hmac(self._secret, f"user {site.id} {user.id}")[:32], user.id)

    def _caller(self, address: str) -> str:
        """Return what stands for an address in the counts: nobody can tell it from that."""
        return _hmac(self._secret, f"address {address}")[:32]


def identity_secret(secret: bytes, site: Site) -> str:
    """Return the key with which a site's server vouches for its users; another one once the site's key is."""
    return _hmac(secret, f"identity {site.id} {site.key}")


@contextmanager
def _limiting(what: str) -> Iterator[None]:
    """Say of a limit that is exceeded no more than visitors need to know."""
    try:
        yield
    except LimitExceeded as error:
        raise LimitExceeded(f"There were too many {what} in a short time.", error.retry_after) from None


def _hmac(secret: bytes, text: str) -> str:
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
