"""The page: a list of conversations, the chat, a box to write in.

The page keeps nothing but the id of its conversation (in a hidden box and in the URL). Everything it shows is read
from the store, and a reply being written is only watched here, never made: leaving the page does not end it.
"""

import asyncio
import html
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from types import EllipsisType
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from chat.errors import ChatError
from chat.manager import DialogueManager
from chat.turn import Snapshot, Turn
from chat.ui.bubbles import Bubble, message_bubbles, reply_bubbles
from chat.ui.views import View, Views, Writer
from model.errors import ModelError
from model.sampling_params import SamplingParams
from storage.conversations import ConversationStore
from storage.errors import StorageError
from storage.tables import Conversation, Message

CSS_PATH = Path(__file__).parent / "page.css"
PLACEHOLDER = "### What is on your mind?\nEverything stays on this machine."
WATCH_SECONDS = 0.05
STAY_SECONDS = 5.0

Update = Any  # Gradio's updates are untyped: a component, a value or gr.skip()

HEAD = f"<script>{(Path(__file__).parent / 'page.js').read_text()}</script>"
SHOW_AND_WRITE = "(id) => showConversation(id, '#message textarea')"
SHOW_AND_CHOOSE = "(id) => showConversation(id, '#conversations input:checked')"


class Page:
    """The handlers of one owner's page, and the Blocks that call them."""

    def __init__(self, manager: DialogueManager, store: ConversationStore, owner_id: str) -> None:
        self._manager = manager
        self._store = store
        self._owner_id = owner_id
        self._views = Views()

    def build(self) -> gr.Blocks:
        """Lay the page out and connect it."""
        blocks = gr.Blocks(title="Parley", fill_height=True, fill_width=True, analytics_enabled=False)
        with blocks:
            conversation_id = gr.Textbox(visible="hidden", elem_id="conversation-id")
            with gr.Sidebar(width=300):
                gr.Markdown("## Parley")
                new = gr.Button("New chat", elem_id="new-chat")
                conversations = gr.Radio(label="Conversations", elem_id="conversations", container=False)
                with gr.Accordion("Sampling", open=False, elem_id="sampling"):
                    sampling = _sampling_controls(self._manager.sampling_params)
                gr.Markdown(f"Model: {self._manager.model_name}", elem_id="model")
            chat = gr.Chatbot(
                elem_id="chat",
                show_label=False,
                scale=1,
                height="100%",
                layout="bubble",
                buttons=["copy"],
                feedback_options=None,
                placeholder=PLACEHOLDER,
                allow_tags=False,
            )
            progress = gr.HTML(elem_id="progress")
            notice = gr.HTML(elem_id="notice")
            message = gr.Textbox(
                elem_id="message",
                show_label=False,
                label="Message",
                placeholder="Write a message",
                lines=1,
                max_lines=10,
                interactive=False,  # until the page has been filled: that would wipe what is sent before
            )
            shown = [conversation_id, conversations, chat, progress, notice, message, *sampling]
            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

            # of several clicks the last counts; and a watcher may begin before the one before it has ended
            last: dict[str, Any] = {"trigger_mode": "always_last", **quiet}
            loaded = blocks.load(self.open, [conversation_id], shown, js="conversationOfUrl", **quiet)
            left = new.click(self.open, None, shown, **last)
            # without preprocessing, which knows no choices any more once the server has been started again
            opened = conversations.input(self.open, [conversations], shown, preprocess=False, **last)
            sent = message.submit(
                self.send,
                [message, conversation_id, *sampling],
                [message, conversation_id, conversations, chat, notice],
                **quiet,
            )
            for event in (loaded, left, opened, sent):
                js = SHOW_AND_CHOOSE if event is opened else SHOW_AND_WRITE
                event.then(None, [conversation_id], None, js=js, **quiet)
                watched = [chat, progress, notice, message]
                watching = {"trigger_mode": "multiple", "concurrency_limit": None, **quiet}  # it holds no thread
                event.then(self.watch, [conversation_id], watched, **watching)
            message.stop(self.stop, [conversation_id], [notice], **quiet)
            triggers = [blocks.load, new.click, conversations.input, message.submit]  # again once it has broken
            gr.on(triggers, self.stay, trigger_mode="once", concurrency_limit=None, **quiet)
        return blocks

    def open(self, request: gr.Request, conversation_id: str = "") -> Iterator[tuple[Update, ...]]:
        """Show a conversation, or a new one for an empty id."""
        with self._views.switching(_session(request), conversation_id) as writer:
            shown = self._read(writer.view, conversation_id)
            yield shown if writer.is_current else tuple(gr.skip() for _ in shown)

    def send(
        self,
        request: gr.Request,
        text: str | None,
        conversation_id: str,
        temperature: float,
        top_p: float,
        max_tokens: int,
    ) -> Iterator[tuple[Update, ...]]:
        """Send a message; one that is refused stays in its box, and the notice says why."""
        with self._views.writing(_session(request)) as writer:
            try:
                params = replace(
                    self._manager.sampling_params, temperature=temperature, top_p=top_p, max_tokens=max_tokens
                )
                view = writer.view
                seen_leaf_id = view.leaf_id if conversation_id and view.conversation_id == conversation_id else ...
                conversation_id = conversation_id or self._start(text or "", params)
                notice = self._send(conversation_id, text or "", params, seen_leaf_id)
                if writer.is_current:
                    view.conversation_id = conversation_id
                bubbles = message_bubbles(self._path(writer.view, conversation_id))
                choices = self._choices(conversation_id)
            except (ChatError, StorageError, ValueError) as error:
                yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), _alert(str(error))
                return
            if writer.is_current:
                yield "", conversation_id, choices, bubbles, notice
            else:
                yield "", gr.skip(), gr.skip(), gr.skip(), gr.skip()

    async def watch(
        self, request: gr.Request, conversation_id: str
    ) -> AsyncIterator[tuple[Update, Update, Update, Update]]:
        """Follow the reply that is being written in a conversation, if there is one, as long as the page shows it."""
        with self._views.writing(_session(request)) as writer:
            try:
                if not conversation_id or writer.view.conversation_id != conversation_id:
                    yield gr.skip(), gr.skip(), gr.skip(), gr.skip()  # Gradio empties everything if nothing comes
                    return
                turn, before = await run_in_threadpool(self._find_turn, writer.view, conversation_id)
                if turn is None:  # none began, or it has ended already: then its end is still to be shown
                    yield before, "", gr.skip(), _idle()
                    return
                async for snapshot in _snapshots(turn, writer):
                    bubbles = [*before, *reply_bubbles(snapshot.text, snapshot.status)]
                    yield bubbles, _progress(snapshot), gr.skip(), _busy()  # the page shows only the last of a burst
                if writer.is_current:
                    path = await run_in_threadpool(self._path, writer.view, conversation_id)
                    notice = _alert(snapshot.error) if snapshot.error else gr.skip()
                    yield message_bubbles(path), "", notice, _idle()
            except StorageError as error:
                yield gr.skip(), "", _alert(str(error)), _idle()

    def stop(self, conversation_id: str) -> Update:
        """Stop the reply that is being written."""
        try:
            self._manager.stop(self._owner_id, conversation_id)
        except StorageError as error:
            return _alert(str(error))
        return gr.skip()

    async def stay(self, request: gr.Request) -> AsyncGenerator[None, None]:
        """Keep a page's stream of events open as long as the page is there; then forget the page.

        Gradio closes the stream when a page's last event ends, and loses what the page asks for at that moment.
        """
        try:
            while True:
                yield
                await asyncio.sleep(STAY_SECONDS)
        finally:
            self._views.forget(_session(request))

    def _path(self, view: View, conversation_id: str) -> list[Message]:
        """Return the branch that is shown of a conversation, and note that the page has seen its end."""
        path = self._store.path(self._owner_id, conversation_id)
        if view.conversation_id == conversation_id:
            view.leaf_id = path[-1].id if path else None
        return path

    def _read(self, view: View, conversation_id: str) -> tuple[Update, ...]:
        """Return everything that a page shows of a conversation."""
        conversation, path, choices, notice = None, [], gr.skip(), ""
        try:
            choices = self._choices(conversation_id)
            if conversation_id:
                conversation = self._store.get(self._owner_id, conversation_id)
                path = self._path(view, conversation_id)
        except StorageError as error:
            notice = _alert(str(error))
        shown_id = conversation.id if conversation else ""
        return (
            shown_id,
            choices,
            message_bubbles(path),
            "",
            notice,
            _idle(),
            *_sampling_values(conversation, self._manager.sampling_params),
        )

    def _find_turn(self, view: View, conversation_id: str) -> tuple[Turn | None, list[Bubble]]:
        """Return the running turn of a conversation, if there is one, and the bubbles before its reply."""
        turn = self._manager.turn(self._owner_id, conversation_id)
        path = self._path(view, conversation_id)
        return turn, message_bubbles(path[:-1] if turn else path)

    def _start(self, text: str, params: SamplingParams) -> str:
        self._manager.check(text, params)
        return self._manager.start(self._owner_id, channel="ui").id

    def _send(
        self, conversation_id: str, text: str, params: SamplingParams, seen_leaf_id: str | EllipsisType | None
    ) -> str:
        """Send, and return a notice if the message has been stored but the engine takes no work."""
        try:
            self._manager.send(self._owner_id, conversation_id, text, params, seen_leaf_id=seen_leaf_id)
        except (ModelError, ValueError) as error:  # the last for parameters that do not suit the model
            return _alert(str(error))
        return ""

    def _choices(self, conversation_id: str) -> gr.Radio:
        recent = self._store.recent(self._owner_id)
        choices = [(conversation.title or "Untitled", conversation.id) for conversation in recent]
        known = any(conversation.id == conversation_id for conversation in recent)
        return gr.Radio(choices=choices, value=conversation_id if known else None)


async def _snapshots(turn: Turn, writer: Writer) -> AsyncIterator[Snapshot]:
    """Yield a turn's snapshots as they change, its end last, as long as the page shows it.

    It looks again and again: so a watcher holds no thread, and soon sees that it is wanted no more.
    """
    last = None
    while writer.is_current and (last is None or last.status == "streaming"):
        now = turn.snapshot()
        if now != last:
            yield now
        last = now
        await asyncio.sleep(WATCH_SECONDS)


def _session(request: gr.Request) -> str:
    """Return what Gradio calls an open page by; a program that calls without one gets none of its own."""
    return request.session_hash or ""


def _busy() -> gr.Textbox:
    """Show the button that stops, not the one that sends."""
    return gr.Textbox(submit_btn=False, stop_btn=True)


def _idle() -> gr.Textbox:
    """Show the button that sends, not the one that stops."""
    return gr.Textbox(interactive=True, submit_btn=True, stop_btn=False)


def _sampling_controls(defaults: SamplingParams) -> list[gr.Slider]:
    return [
        gr.Slider(0, 2, defaults.temperature, step=0.05, label="Temperature", elem_id="temperature"),
        gr.Slider(0.05, 1, defaults.top_p, step=0.05, label="Top p", elem_id="top-p"),
        gr.Slider(1, 4096, defaults.max_tokens, step=1, label="Max tokens", elem_id="max-tokens"),
    ]


def _sampling_values(conversation: Conversation | None, defaults: SamplingParams) -> tuple[Update, ...]:
    params = (conversation.params if conversation else None) or {}
    return tuple(params.get(name, getattr(defaults, name)) for name in ("temperature", "top_p", "max_tokens"))


def _alert(text: str) -> str:
    return f'<div role="alert">{html.escape(text)}</div>'


def _progress(snapshot: Snapshot) -> str:
    return f'<div role="status">{snapshot.progress}</div>' if snapshot.progress else ""
