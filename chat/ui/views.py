"""What each open page shows, so that nothing about another conversation is written to it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import EllipsisType

SWITCH_SECONDS = 1.0


@dataclass(slots=True)
class View:
    """What one page shows: `generation` grows with every switch, `writers` are on their way to it."""

    conversation_id: str = ""
    leaf_id: str | EllipsisType | None = ...  # the last message of it that the page has been given, once it has
    generation: int = 0
    writers: int = 0


@dataclass(frozen=True, slots=True)
class Writer:
    """A handler's hold on the view that it writes to."""

    view: View
    generation: int

    @property
    def is_current(self) -> bool:
        """Whether the page still shows what it showed when the handler began."""
        return self.view.generation == self.generation


class Views:
    """The views of all open pages, by Gradio's session hash.

    Gradio sends what handlers return in the order in which they return it, whatever the page shows by then. Here a
    handler that opens a conversation waits for those that write to the one before, and they see that they are late.
    They have to be generators: one that has been asked for more knows that what it gave is on its way.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[str, View] = {}

    @contextmanager
    def switching(self, session: str, conversation_id: str) -> Iterator[Writer]:
        """Turn a page to a conversation and write to it, once nothing more comes for the one before."""
        with self._lock:
            view = self._views.setdefault(session, View())
            view.generation += 1
            view.conversation_id, view.leaf_id = conversation_id, ...
            writer = Writer(view, view.generation)
        deadline = time.monotonic() + SWITCH_SECONDS
        while view.writers and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._counted(writer):
            yield writer

    @contextmanager
    def writing(self, session: str) -> Iterator[Writer]:
        """Write to what the page shows now."""
        with self._lock:
            view = self._views.setdefault(session, View())
        with self._counted(Writer(view, view.generation)) as writer:
            yield writer

    @contextmanager
    def _counted(self, writer: Writer) -> Iterator[Writer]:
        with self._lock:
            writer.view.writers += 1
        try:
            yield writer
        finally:
            with self._lock:
                writer.view.writers -= 1

    def forget(self, session: str) -> None:
        """Forget a page that has been closed."""
        with self._lock:
            self._views.pop(session, None)
