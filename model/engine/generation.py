"""The caller's side of one generation: an iterator of pieces that can be cancelled from any thread."""

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model found a token, before anything was done to its logits: natural logarithms."""

    token_id: int
    logprob: float
    most_likely: tuple[tuple[int, float], ...]  # ids and logprobs of as many as asked for, the likeliest first


@dataclass(frozen=True, slots=True)
class Piece:
    """Some text of the reply, and the tokens it took; never half a character, never part of a stop string.

    Where given tokens are scored, they and their text.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()  # one for each token, if they were asked for


@dataclass(frozen=True, slots=True)
class Usage:
    """What a generation cost, in tokens and milliseconds."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, already in the cache
    completion_tokens: int
    ttft_ms: float | None  # from its submission to its first token; None if there was none
    duration_ms: float  # from its submission to its end: the sum of the three below
    queue_ms: float = 0.0  # until it began to run
    prefill_ms: float = 0.0  # from there to the first token
    decode_ms: float = 0.0
    drafted_tokens: int = 0  # proposed ahead of the model
    accepted_tokens: int = 0  # of these, what the model would have written too


class Generation:
    """One reply on its way, read from one thread: iterated once, or taken from whenever a listener hears of more.

    `finish_reason` and `usage` are set at the end.
    """

    def __init__(self, prompt_tokens: int, seed: int) -> None:
        self.prompt_tokens = prompt_tokens
        self.seed = seed  # as asked for, or the one that was drawn
        self.queue_position = 0  # 1 is the next to run, 0 runs or has ended
        self.wait_seconds: int | None = None  # until it runs, by the engine's pace; None if that is not known
        self.prefilled_tokens = 0  # how much of the prompt the model has read
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None  # one line, when finish_reason is "error"
        self.usage: Usage | None = None
        self._pieces: queue.SimpleQueue[Piece | None] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._on_cancel: Callable[[], None] | None = None
        self._listener: Callable[[], None] = _nobody

    def __iter__(self) -> Iterator[Piece]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # so that another pass is empty, not endless

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a function called at each piece from now on, and at the end; it must not wait for anything.

        The thread that calls it is the engine's, or the one that cancels.
        """
        self._listener = listener

    def take(self) -> tuple[list[Piece], bool]:
        """Return the pieces that are there, and whether they are the last; waits for nothing."""
        pieces: list[Piece] = []
        while not self._pieces.empty():  # nobody else takes from it
            piece = self._pieces.get()
            if piece is None:
                self._pieces.put(None)  # as after an iteration
                return pieces, True
            pieces.append(piece)
        return pieces, False

    def cancel(self) -> None:
        """End it, at once, whether it waits or runs; a finished generation stays as it is."""
        self._cancelled.set()
        on_cancel = self._on_cancel  # another thread may finish it here
        if on_cancel is not None:
            on_cancel()

    @property
    def cancelled(self) -> bool:
        """Whether the end has been asked for."""
        return self._cancelled.is_set()

    # Those below are the engine's.

    def call_on_cancel(self, function: Callable[[], None]) -> None:
        """Have the thread that cancels call a function, unless the generation has ended by then."""
        self._on_cancel = function

    def emit(self, piece: Piece) -> None:
        """Pass a piece on to the caller."""
        self._pieces.put(piece)
        self._listener()

    def finish(self, reason: FinishReason, usage: Usage, error: str | None = None) -> None:
        """Tell the caller how it ended."""
        self.usage, self.error, self.finish_reason = usage, error, reason
        self.queue_position, self.wait_seconds, self._on_cancel = 0, None, None
        self._pieces.put(None)
        self._listener()


def _nobody() -> None:
    """Hear, and do nothing."""
