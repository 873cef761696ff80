"""The page: a list of conversations, the chat, a box to write in.

The page keeps nothing but the id of its conversation (in a hidden box and in the URL). Everything it shows is read
from the store, and a reply being written is only watched here, never made: leaving the page does not end it.
"""

import asyncio
import html
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from chat.errors import ChatError
from chat.manager import DialogueManager
from chat.turn import Snapshot, Turn
from chat.ui.bubbles import Bubble, message_bubbles, reply_bubbles
from model.errors import ModelError
from model.sampling import SamplingParams
from storage.conversations import ConversationStore
from storage.errors import StorageError
from storage.tables import Conversation

CSS_PATH = Path(__file__).parent / "page.css"
PLACEHOLDER = "### What is on your mind?\nEverything stays on this machine."
DEFAULTS = SamplingParams()
WATCH_SECONDS = 0.05

Update = Any  # Gradio's updates are untyped: a component, a value or gr.skip()

# The id of the conversation is kept in the URL, so that a reload, a bookmark and the back button find it.
# On a phone the sidebar covers the chat: it is closed at the start and once a conversation has been chosen.
HEAD = """<script>
addEventListener('popstate', () => location.reload());
function closeSidebarOnPhones() {
    if (innerWidth < 768) document.querySelector('.sidebar.open .toggle-button')?.click();
}
</script>"""
ID_FROM_URL = """() => {
    closeSidebarOnPhones();
    return new URLSearchParams(location.search).get('c') || '';
}"""
ID_TO_URL = """(id) => {
    document.querySelector('#message textarea').focus();
    const url = new URL(location.href);
    if ((url.searchParams.get('c') || '') === id) return;
    closeSidebarOnPhones();
    if (id) url.searchParams.set('c', id); else url.searchParams.delete('c');
    history.pushState(null, '', url);
}"""


class Page:
    """The handlers of one owner's page, and the Blocks that call them."""

    def __init__(self, manager: DialogueManager, store: ConversationStore, owner_id: str) -> None:
        self._manager = manager
        self._store = store
        self._owner_id = owner_id

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
                    sampling = _sampling_controls()
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
            watched = {"fn": self.watch, "inputs": [conversation_id], "outputs": [chat, progress, notice, message]}
            to_url: dict[str, Any] = {"fn": None, "inputs": [conversation_id], "js": ID_TO_URL}
            quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

            loaded = blocks.load(self.open, [conversation_id], shown, js=ID_FROM_URL, **quiet)
            # without preprocessing, which knows no choices any more once the server has been started again
            opened = conversations.input(self.open, [conversations], shown, preprocess=False, **quiet)
            sent = message.submit(
                self.send,
                [message, conversation_id, *sampling],
                [message, conversation_id, conversations, chat, notice],
                **quiet,
            )
            watching = [event.then(**watched, **quiet) for event in (loaded, opened, sent)]
            left = new.click(self.open, None, shown, cancels=watching, **quiet)
            conversations.input(None, cancels=watching, **quiet)
            for event in (loaded, opened, sent, left):
                event.then(**to_url, **quiet)
            message.stop(self.stop, [conversation_id], None, **quiet)
        return blocks

    def open(self, conversation_id: str = "") -> tuple[Update, ...]:
        """Show a conversation, or a new one for an empty id."""
        conversation, path, choices, notice = None, [], gr.skip(), ""
        try:
            choices = self._choices(conversation_id)
            if conversation_id:
                conversation = self._store.get(self._owner_id, conversation_id)
                path = self._store.path(self._owner_id, conversation_id)
        except StorageError as error:
            notice = _alert(str(error))
        shown_id = conversation.id if conversation else ""
        return shown_id, choices, message_bubbles(path), "", notice, _idle(), *_sampling_values(conversation)

    def send(
        self, text: str | None, conversation_id: str, temperature: float, top_p: float, max_tokens: int
    ) -> tuple[Update, ...]:
        """Send a message; one that is refused stays in its box, and the notice says why."""
        try:
            params = SamplingParams(temperature=temperature, top_p=top_p, max_tokens=max_tokens)
            conversation_id = conversation_id or self._start(text or "", params)
            notice = self._send(conversation_id, text or "", params)
            bubbles = message_bubbles(self._store.path(self._owner_id, conversation_id))
            return "", conversation_id, self._choices(conversation_id), bubbles, notice
        except (ChatError, StorageError, ValueError) as error:
            return gr.skip(), gr.skip(), gr.skip(), gr.skip(), _alert(str(error))

    async def watch(self, conversation_id: str) -> AsyncIterator[tuple[Update, Update, Update, Update]]:
        """Follow the reply that is being written in a conversation, if there is one."""
        try:
            turn, before = await run_in_threadpool(self._find_turn, conversation_id)
            if turn is None:
                yield gr.skip(), "", gr.skip(), _idle()
                return
            yield gr.skip(), "", gr.skip(), gr.Textbox(submit_btn=False, stop_btn=True)
            async for snapshot in _snapshots(turn):
                bubbles = [*before, *reply_bubbles(snapshot.text, snapshot.status)]
                yield bubbles, _progress(snapshot), gr.skip(), gr.skip()
            path = await run_in_threadpool(self._store.path, self._owner_id, conversation_id)
            notice = _alert(snapshot.error) if snapshot.error else gr.skip()
            yield message_bubbles(path), "", notice, _idle()
        except StorageError as error:
            yield gr.skip(), "", _alert(str(error)), _idle()

    def stop(self, conversation_id: str) -> None:
        """Stop the reply that is being written."""
        self._manager.stop(self._owner_id, conversation_id)

    def _find_turn(self, conversation_id: str) -> tuple[Turn | None, list[Bubble]]:
        """Return the running turn of a conversation, and the bubbles before its reply."""
        turn = self._manager.turn(self._owner_id, conversation_id) if conversation_id else None
        path = self._store.path(self._owner_id, conversation_id) if turn else []
        return turn, message_bubbles(path[:-1])

    def _start(self, text: str, params: SamplingParams) -> str:
        self._manager.check(text, params)
        return self._manager.start(self._owner_id, channel="ui").id

    def _send(self, conversation_id: str, text: str, params: SamplingParams) -> str:
        """Send, and return a notice if the message has been stored but the engine takes no work."""
        try:
            self._manager.send(self._owner_id, conversation_id, text, params)
        except ModelError as error:
            return _alert(str(error))
        return ""

    def _choices(self, conversation_id: str) -> gr.Radio:
        recent = self._store.recent(self._owner_id)
        choices = [(conversation.title or "Untitled", conversation.id) for conversation in recent]
        known = any(conversation.id == conversation_id for conversation in recent)
        return gr.Radio(choices=choices, value=conversation_id if known else None)


async def _snapshots(turn: Turn) -> AsyncIterator[Snapshot]:
    """Yield a turn's snapshots as they change, its end last: by looking again and again.

    So a watcher holds no thread, and can be cancelled at any moment: Gradio fails when it cannot.
    """
    last = None
    while last is None or last.status == "streaming":
        now = turn.snapshot()
        if now != last:
            yield now
        last = now
        await asyncio.sleep(WATCH_SECONDS)


def _idle() -> gr.Textbox:
    """Show the button that sends, not the one that stops."""
    return gr.Textbox(interactive=True, submit_btn=True, stop_btn=False)


def _sampling_controls() -> list[gr.Slider]:
    return [
        gr.Slider(0, 2, DEFAULTS.temperature, step=0.05, label="Temperature", elem_id="temperature"),
        gr.Slider(0.05, 1, DEFAULTS.top_p, step=0.05, label="Top p", elem_id="top-p"),
        gr.Slider(1, 4096, DEFAULTS.max_tokens, step=1, label="Max tokens", elem_id="max-tokens"),
    ]


def _sampling_values(conversation: Conversation | None) -> tuple[Update, ...]:
    params = (conversation.params if conversation else None) or {}
    return tuple(params.get(name, getattr(DEFAULTS, name)) for name in ("temperature", "top_p", "max_tokens"))


def _alert(text: str) -> str:
    return f'<div role="alert">{html.escape(text)}</div>'


def _progress(snapshot: Snapshot) -> str:
    if snapshot.text or snapshot.status != "streaming":
        return ""
    text = "Waiting for the model …"
    if snapshot.prefilled_tokens:
        text = f"Reading {snapshot.prefilled_tokens:,} of {snapshot.prompt_tokens:,} tokens …"
    return f'<div role="status">{text}</div>'
