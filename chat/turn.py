"""One reply being written, apart from whoever asked for it and whoever watches."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model.engine.generation import Generation, Piece
from storage.errors import StorageError
from storage.tables import FinalStatus, FinishReason, Message, Status

logger = logging.getLogger(__name__)

PUBLISH_SECONDS = 0.05
WATCH_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Progress:
    """What goes on before the first words of a reply."""

    queue_position: int  # 1 is the next to be written, 0 does not wait
    wait_seconds: int | None  # until it is written, by the engine's pace; None if that is not known
    prefilled_tokens: int  # how much of the prompt the model has read
    prompt_tokens: int

    def __str__(self) -> str:
        if self.queue_position:
            estimate = f", about {self.wait_seconds:,} s" if self.wait_seconds else ""
            return f"Waiting: number {self.queue_position:,} in line{estimate} …"
        if self.prefilled_tokens:
            return f"Reading {self.prefilled_tokens:,} of {self.prompt_tokens:,} tokens …"
        return "Waiting for the model …"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A reply at one moment. Its text only grows, so the length of what a watcher has seen is its place in it."""

    text: str
    status: Status
    progress: Progress | None  # None once there are words
    error: str | None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a reply ended, to be stored."""

    text: str
    token_ids: list[int]
    status: FinalStatus
    finish_reason: FinishReason
    error: str | None = None


class Turn:
    """Writes a reply down as it comes, and shows it to any number of watchers.

    A thread of its own reads the generation. Text is stored before it is shown: what a reader has seen, not even
    `kill -9` takes away.
    """

    def __init__(
        self,
        generation: Generation,
        reply: Message,
        *,
        flush: Callable[[str], None],
        finish: Callable[[Ending], None],
        begun: Piece | None = None,
    ) -> None:
        """Start writing. The thread calls `flush` to store the text so far, and `finish` once, at the end.

        `begun` is what the reply begins with, stored and seen already.
        """
        self.conversation_id = reply.conversation_id
        self.message_id = reply.parent_id
        self.reply_id = reply.id
        self._generation = generation
        self._flush = flush
        self._finish = finish
        self._pieces = [begun] if begun else []
        self._n_published = len(self._pieces)  # pieces that have been stored and shown
        self._changed = threading.Condition()  # guards the five below
        self._text = begun.text if begun else ""
        self._status: Status = "streaming"
        self._error: str | None = None
        self._stopped = False
        self._listeners: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._work, name="turn", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the reply is still being written."""
        return self._status == "streaming"

    def stop(self) -> None:
        """End the reply with what has been shown so far; nothing happens to one that has ended."""
        with self._changed:
            self._stopped = True
        self._generation.cancel()

    def interrupt(self) -> None:
        """End the reply with all that has been written of it, since Parley ends; not at its reader's word."""
        self._generation.cancel()

    def join(self) -> None:
        """Wait until the end has been stored."""
        self._thread.join()

    def snapshot(self) -> Snapshot:
        """Return the reply as it is now."""
        with self._changed:
            waits = self._status == "streaming" and not self._text
            return Snapshot(self._text, self._status, self._progress() if waits else None, self._error)

    def watch(self) -> Iterator[Snapshot]:
        """Yield the reply as it is, then whenever it has changed, its end last. Leaving early changes nothing."""
        last = self.snapshot()
        yield last
        while last.status == "streaming":
            with self._changed:
                self._changed.wait_for(self._differs_from(last), WATCH_SECONDS)
            now = self.snapshot()
            if now != last:
                yield now
            last = now

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """Call a listener whenever there is more text, and at the end; it must not wait for anything."""
        with self._changed:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.remove(listener)

    def _progress(self) -> Progress:
        generation = self._generation
        return Progress(
            queue_position=generation.queue_position,
            wait_seconds=generation.wait_seconds,
            prefilled_tokens=generation.prefilled_tokens,
            prompt_tokens=generation.prompt_tokens,
        )

    def _differs_from(self, seen: Snapshot) -> Callable[[], bool]:
        return lambda: len(self._text) != len(seen.text) or self._status != seen.status

    # The thread.

    def _work(self) -> None:
        try:
            self._read()
            ending = self._end()
            self._finish(ending)
        except Exception as error:  # whatever it is: watchers must hear of an end
            logger.exception("a reply could not be stored")
            self._generation.cancel()
            reason = str(error) if isinstance(error, StorageError) else "The reply could not be stored."
            ending = Ending(self._text, [], "error", "error", reason)
        self._show(ending.text, ending.status, ending.error)

    def _read(self) -> None:
        published_at = 0.0
        for piece in self._generation:
            if self._stopped:
                continue  # the reader has seen enough; this only waits for the engine's last word
            self._pieces.append(piece)
            if time.monotonic() - published_at >= PUBLISH_SECONDS:
                text = "".join(piece.text for piece in self._pieces)
                self._flush(text)
                self._n_published = len(self._pieces)
                self._show(text, "streaming", None)
                published_at = time.monotonic()

    def _end(self) -> Ending:
        reason = self._generation.finish_reason
        assert reason is not None, "a generation that has been read has its finish reason"
        if self._stopped:
            del self._pieces[self._n_published :]
            reason = "cancelled"
        return Ending(
            text="".join(piece.text for piece in self._pieces),
            token_ids=[token_id for piece in self._pieces for token_id in piece.token_ids],
            status=self._final_status(reason),
            finish_reason=reason,
            error=self._generation.error,
        )

    def _final_status(self, reason: FinishReason) -> FinalStatus:
        if reason == "cancelled":
            return "stopped" if self._stopped else "interrupted"
        return "error" if reason == "error" else "complete"

    def _show(self, text: str, status: Status, error: str | None) -> None:
        with self._changed:
            self._text, self._status, self._error = text, status, error
            self._changed.notify_all()
            listeners = tuple(self._listeners)
        for listener in listeners:  # outside of the lock, which they may take
            listener()
