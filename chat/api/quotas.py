"""What one owner may have of the model: so many replies in a minute, and so many tokens on a day."""

import re
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from chat.api.errors import refusal
from chat.identity import owner_of
from chat.limits import DailyTokens, LimitExceeded, RateLimiter
from model.engine.generation import Generation

REPLIES = re.compile(
    r"/v1/(chat/)?completions"
    r"|/api(/temporary)?/conversations/[^/]+/messages"
    r"|/api(/temporary)?/messages/[^/]+/(regenerate|continue|edit|branch)"
)
"""The paths under which one asks for a reply."""


def count_into(tokens: DailyTokens) -> Callable[[str, Generation], None]:
    """Return what counts a reply that has ended: for its owner, those of the visitors of their sites too."""

    def count(engine_owner: str, generation: Generation) -> None:
        usage = generation.usage
        assert usage is not None, "a generation that has ended has its usage"
        tokens.add(owner_of(engine_owner), usage.prompt_tokens + usage.completion_tokens)

    return count


class Quotas:
    """Pure ASGI middleware behind the gate: refuses who has asked for as much as an owner may."""

    def __init__(self, app: ASGIApp, tokens: DailyTokens, requests_per_minute: int | None) -> None:
        self._app = app
        self._tokens = tokens
        self._limiter = RateLimiter()
        self._requests_per_minute = requests_per_minute

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
        self._tokens.check(owner)
        if self._requests_per_minute:
            self._limiter.take("replies", owner, self._requests_per_minute, 60)
