"""What one owner may have of the model: so many replies in a minute, and so many tokens on a day."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.errors import refusal
from chat.limits import DailyTokens, LimitExceeded, RateLimiter
from model.engine.generation import Generation

REPLIES = re.compile(
    r"/v1/(chat/)?completions"
    r"|/api(/temporary)?/conversations/[^/]+/messages"
    r"|/api(/temporary)?/messages/[^/]+/(regenerate|continue|edit|branch)"
)
"""The paths under which one asks for a reply."""


class UsedTokens:
    """Counts the tokens of prompts and replies that owners have used on a day: in memory, at the end of each reply.

    What visitors of a site use counts for the site, which has a limit of its own.
    """

    def __init__(self) -> None:
        self._tokens = DailyTokens()
        self.check = self._tokens.check

    def count(self, owner: str, generation: Generation) -> None:
        """Count a reply that has ended."""
        if generation.usage and not owner.startswith("visitor:"):
            self._tokens.add(owner, generation.usage.prompt_tokens + generation.usage.completion_tokens)


class Quotas:
    """Pure ASGI middleware behind the gate: refuses who has asked for as much as an owner may."""

    def __init__(
        self, app: ASGIApp, used: UsedTokens, requests_per_minute: int | None, tokens_per_day: int | None
    ) -> None:
        self._app = app
        self._used = used
        self._limiter = RateLimiter()
        self._requests_per_minute = requests_per_minute
        self._tokens_per_day = tokens_per_day

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "http" and scope["method"] == "POST" and REPLIES.fullmatch(scope["path"]):
            try:
                self._take(scope["identity"].owner_id)
            except LimitExceeded as error:
                headers = {"Retry-After": str(error.retry_after)}
                await refusal(429, str(error), "limit_exceeded", headers=headers)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _take(self, owner: str) -> None:
        if self._tokens_per_day:
            self._used.check(owner, self._tokens_per_day)
        if self._requests_per_minute:
            self._limiter.take("replies", owner, self._requests_per_minute, 60)
