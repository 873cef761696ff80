"""Who wants to hear that a conversation has changed hears of it, in this process."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Takes the id of a conversation, or None when the bus is closed; called by whichever thread changed it.
Listener = Callable[[str | None], None]


class Bus:
    """Passes the ids of conversations that have changed on to those who listen for their owner."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
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
            listeners = tuple(self._listeners.get(owner_id, ()))
        for listener in listeners:
            listener(conversation_id)

    def close(self) -> None:
        """Tell all listeners, those to come too, that they need not listen any longer, since Parley ends."""
        with self._lock:
            self._closed = True
            listeners = [listener for listeners in self._listeners.values() for listener in listeners]
        for listener in listeners:
            listener(None)
