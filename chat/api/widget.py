"""/widget: the chat on other people's websites. Visitors have tokens of their own, and see nothing but their own."""

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Response
from fastapi import Request as HttpRequest
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Route

from chat.api.addresses import address_of
from chat.api.archive import disposition
from chat.api.errors import documented, register_errors
from chat.api.event_stream import EventStream, parse_place
from chat.api.queries import refuse_unknown_queries
from chat.api.visitor_errors import hide_internals
from chat.api.visitor_events import VisitorWatcher
from chat.api.visitor_schemas import (
    NewSession,
    NewVisitorMessage,
    RatingChange,
    SentByVisitor,
    SessionModel,
    VisitorConversations,
    VisitorMessage,
    VisitorPath,
    visitor_conversation,
    visitor_message,
)
from chat.api.widget_frame import FOLDER, LoaderFile, WidgetFiles, appearance_of, frame_routes, own_origin
from chat.errors import NotPossible
from chat.exports import name_file
from chat.limits import DailyTokens, OpenStreams
from chat.transcripts import SUFFIXES, Line, TranscriptFormat, write_transcript
from chat.visitors import NoVisitor, Visitors, VisitorSession, VouchedUser
from chat.workspace import Workspace
from storage.tables import Message

MAX_CONVERSATIONS = 50  # in a visitor's list
UNTITLED = "Chat"  # saved, of a site whose chat has no title: how its owner calls it is the owner's
STREAMS_OF_VISITOR = 4  # at a time
STREAMS_OF_ADDRESS = 40

RESENT: dict[int | str, dict[str, Any]] = {
    200: {"model": SentByVisitor, "description": "It was sent before, with the same key."}
}
EXPORTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}

_BEARER = HTTPBearer(auto_error=False, scheme_name="visitor", description="The token of a visitor's session.")


def current_session(
    request: HttpRequest, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]
) -> VisitorSession:
    """Return the session whose token a request bears; raises NoVisitor."""
    visitors: Visitors = request.app.state.visitors
    if bearer is None:
        raise NoVisitor
    return visitors.find(bearer.credentials, own_origin(request))


async def asking_session(
    request: HttpRequest, session: Annotated[VisitorSession, Depends(current_session)]
) -> VisitorSession:
    """Return the session as well; raises InvalidField, to nobody else, for a query that the route does not know."""
    await refuse_unknown_queries(request)
    return session


Here = Annotated[VisitorSession, Depends(asking_session)]


def create_widget(workspace: Workspace, secret: bytes, tokens: DailyTokens) -> FastAPI:
    """Return what is below /widget: the frame's document, its scripts and styles, and the API that those call."""
    visitors = Visitors(workspace, secret, tokens)
    widget = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    register_errors(widget)
    widget.mount("/api", create_widget_api(workspace, visitors))
    widget.mount("/static", GZipMiddleware(WidgetFiles(directory=FOLDER)))
    widget.include_router(frame_routes(visitors))
    return widget


def loader_route() -> Route:
    """Return the route of the script that pages name in a line."""
    return Route("/widget.js", GZipMiddleware(LoaderFile(directory=FOLDER)), methods=["GET", "HEAD"])


def create_widget_api(workspace: Workspace, visitors: Visitors) -> FastAPI:
    """Return the API of visitors, with its own description at /openapi.json."""
    api = FastAPI(title="Parley's widget", docs_url=None, redoc_url=None)
    api.state.visitors = visitors
    register_errors(api)
    hide_internals(api)
    handlers, add = _Handlers(workspace, visitors, OpenStreams()), api.add_api_route
    one, rating = "/conversations/{conversation_id}", "/messages/{message_id}/rating"
    own, here, rated = documented(401), documented(401, 404), documented(401, 404, 409)
    sent = {**documented(401, 404, 409, 429), **RESENT}
    stream = documented(401, 404, 429)
    entered: dict[str, Any] = {"responses": documented(403, 429), "dependencies": [Depends(refuse_unknown_queries)]}
    add("/session", handlers.enter, methods=["POST"], summary="Begin or renew a session", **entered)
    add("/conversations", handlers.page, methods=["GET"], summary="List one's own", responses=own)
    add(one, handlers.read, methods=["GET"], summary="Read one", responses=here)
    add(f"{one}/events", handlers.watch, methods=["GET"], status_code=200, response_class=EventStream, responses=stream)
    add(f"{one}/stop", handlers.stop, methods=["POST"], status_code=204, summary="Stop the reply", responses=here)
    add(f"{one}/export", handlers.export, methods=["GET"], response_class=Response, responses={**here, **EXPORTED})
    add("/messages", handlers.send, methods=["POST"], status_code=201, summary="Send", responses=sent)
    add(rating, handlers.rate, methods=["PUT"], status_code=204, summary="Rate a reply", responses=rated)
    return api


@dataclass(frozen=True, slots=True)
class _Handlers:
    workspace: Workspace
    visitors: Visitors
    streams: OpenStreams

    def enter(self, request: HttpRequest, new: NewSession) -> SessionModel:
        """Let a visitor in, on a page that may show the chat: as who they were with an earlier token, or anew."""
        token = self.visitors.enter(
            new.site,
            new.origin,
            own_origin(request),
            address=address_of(request.scope),
            token=new.token,
            user=VouchedUser(new.user.id, new.user.hash) if new.user else None,
        )
        return SessionModel(token=token)

    def page(self, here: Here) -> VisitorConversations:
        """The last used first, at most 50."""
        found = self.workspace.sites.conversations(here.visitor, limit=MAX_CONVERSATIONS)
        return VisitorConversations(conversations=[visitor_conversation(conversation) for conversation in found])

    def read(self, here: Here, conversation_id: str) -> VisitorPath:
        """What was said in a conversation, the first message first."""
        conversation = self.workspace.sites.conversation(here.visitor, conversation_id)
        path = self.workspace.conversations.path(here.site.owner_id, conversation_id)
        shown = [message for message in path if message.role != "system"]
        return VisitorPath(conversation=visitor_conversation(conversation), messages=self._seen(here, shown))

    def send(self, request: HttpRequest, here: Here, new: NewVisitorMessage, response: Response) -> SentByVisitor:
        """Say something, in a new conversation or in one, and start the reply to it."""
        sent = self.visitors.send(
            here,
            new.conversation_id,
            new.content,
            idempotency_key=new.idempotency_key,
            address=address_of(request.scope),
        )
        if not sent.is_new:
            response.status_code = 200
        ids = filter(None, (sent.message_id, sent.reply_id))
        messages = [self.workspace.sites.message(here.visitor, message_id) for message_id in ids]
        return SentByVisitor(conversation_id=sent.conversation_id, messages=self._seen(here, messages))

    async def watch(
        self,
        request: HttpRequest,
        here: Here,
        conversation_id: str,
        last_event_id: Annotated[str | None, Header(description="What is here of a reply: the id of an event.")] = None,
    ) -> EventStream:
        """Stream server-sent events: a reply as it grows, until the reader goes.

        `progress`: what goes on before a reply's first words, null once there are some. `text`: what is to be put after
        its text, of which there then are as many code points as the event's id ends with. `end`: the whole reply,
        stored. `gone`: the conversation is no more.
        """
        await run_in_threadpool(self.workspace.sites.conversation, here.visitor, conversation_id)
        token = request.headers["authorization"].partition(" ")[2]
        check = partial(self.visitors.find, token, own_origin(request))
        place = parse_place(last_event_id or "")
        slot = self.streams.slot(
            {f"visitor {here.visitor.id}": STREAMS_OF_VISITOR, address_of(request.scope): STREAMS_OF_ADDRESS}
        )
        return EventStream(VisitorWatcher(self.workspace, here, conversation_id, place, check).events(), slot)

    def stop(self, here: Here, conversation_id: str) -> None:
        """Stop the reply that is being written, if there is one; what has been shown of it stays."""
        self.workspace.sites.conversation(here.visitor, conversation_id)
        self.workspace.manager.stop(here.site.owner_id, conversation_id)

    def export(
        self, here: Here, conversation_id: str, format: Annotated[TranscriptFormat, Query()] = "markdown"
    ) -> Response:
        """Send what was said as a file."""
        path = self.read(here, conversation_id)
        title = path.conversation.title or appearance_of(here.site)["title"] or UNTITLED
        lines = [Line(message.role, message.content, message.created_at) for message in path.messages]
        headers = {
            "Cache-Control": "no-store",
            "Content-Disposition": disposition(name_file([title], SUFFIXES[format])),
            "X-Content-Type-Options": "nosniff",
        }
        return Response(write_transcript(format, title, lines), media_type="application/octet-stream", headers=headers)

    def rate(self, here: Here, message_id: str, change: RatingChange) -> None:
        """Keep what a visitor thinks of a reply instead of what they thought before."""
        message = self.workspace.sites.message(here.visitor, message_id)
        if message.role != "assistant":
            raise NotPossible("Only replies can be rated.")
        self.workspace.feedback.rate(here.site.owner_id, message_id, rating=change.rating, visitor=here.visitor)
        self.workspace.bus.publish(here.site.owner_id, message.conversation_id)

    def _seen(self, here: VisitorSession, messages: list[Message]) -> list[VisitorMessage]:
        opinions = self.workspace.feedback.of_visitor(here.visitor, messages)
        return [visitor_message(message, opinions.get(message.id)) for message in messages]
