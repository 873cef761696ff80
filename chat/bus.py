"""Who wants to hear that a conversation has changed hears of it, in this process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

# Takes the id of a conversation, or None when the bus is closed; called by whichever thread changed it.
Listener = Callable[[str | None], None]


class Bus:
    """Passes the ids of conversations that have changed on to those who listen for their owner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._id = uuid4().hex  # versions of another process's are no versions of this one's
        self._changes: dict[str, int] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._closed = False

    @contextmanager
    def listening(self, owner_id: str, listener: Listener) -> Iterator[None]:
        """Call a listener for each change of an owner's conversations; it must not wait for anything."""
        with self._lock:
            self._listeners.setdefault(owner_id, []).append(listener)
            closed = self._closed
        try:
            if closed:
                listener(None)
            yield
        finally:
            with self._lock:
                self._listeners[owner_id].remove(listener)
                if not self._listeners[owner_id]:
                    del self._listeners[owner_id]

    def publish(self, owner_id: str, conversation_id: str) -> None:
        """Tell that a conversation is new, has changed, or is gone."""
        with self._lock:
            self._changes[owner_id] = self._changes.get(owner_id, 0) + 1
            listeners = tuple(self._listeners.get(owner_id, ()))
        for listener in listeners:
            listener(conversation_id)

    def version(self, owner_id: str) -> str:
        """Return what is another text after each change of an owner's conversations."""
        return f"{self._id}-{self._changes.get(owner_id, 0)}"

    def close(self) -> None:
        """Tell all listeners, those to come too, that they need not listen any longer, since Parley ends."""
        with self._lock:
            self._closed = True
            listeners = [listener for listeners in self._listeners.values() for listener in listeners]
        for listener in listeners:
            listener(None)
