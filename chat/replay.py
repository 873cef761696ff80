"""A stored reply written again, from its stored prompt, parameters and seed, and compared with what is stored."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from chat.errors import ChatError
from chat.params import from_json
from chat.prompts import join_prompt, n_common
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.generation import Generation, Piece
from model.errors import ModelError
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from storage.conversations import ConversationStore
from storage.tables import Message

Progress = Callable[[int, int], None]
Unit = Literal["tokens", "characters"]

POLL_SECONDS = 0.1


class ReplayImpossible(ChatError):
    """The reply cannot be written again, or not with this model; the text says why."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What is stored of a reply: from what it was written, and what came of it."""

    model: str | None
    model_digest: str
    prompt: list[int]
    params: SamplingParams
    written: list[int] | str  # its tokens, or its text where those do not spell it; without what it continues
    ended: bool  # by itself: then nothing may follow, as it may where a limit, its reader or a crash cut it


@dataclass(frozen=True, slots=True)
class Mark:
    """What a reply has at one place: a token, or a character where the tokens are not stored; neither at its end."""

    token_id: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a reply came out the same, from its beginning on; of a continued one, from where it goes on."""

    unit: Unit
    n_same: int
    stored: Mark | None = None  # this one and the next: what the two have after that, if they differ
    new: Mark | None = None

    @property
    def identical(self) -> bool:
        """Whether no difference was found."""
        return self.stored is None


def read_recording(store: ConversationStore, owner_id: str, message_id: str) -> Recording:
    """Return a reply as it can be replayed; raises MessageNotFound, ReplayImpossible."""
    reply = store.message(owner_id, message_id)
    _check_is_written(reply)
    *path, reply = store.path(owner_id, reply.conversation_id, reply.id)
    prompt = join_prompt(path, reply)
    if not prompt or len(prompt) != reply.prompt_tokens or reply.model_digest is None:
        raise ReplayImpossible(
            "The prompt of the reply is not stored: an older Parley wrote it, a message before it has been deleted, "
            "or a crash cut it off."
        )
    written, ended = _written(store, owner_id, reply), reply.finish_reason == "stop"
    if not written and not ended:
        raise ReplayImpossible("The reply was cut off before its first token: there is nothing to compare.")
    return Recording(reply.model, reply.model_digest, prompt, _params(reply), written, ended)


def check_model(recording: Recording, model_digest: str) -> None:
    """Raise ReplayImpossible unless the model of this digest is the one that wrote the reply."""
    if model_digest != recording.model_digest:
        raise ReplayImpossible(
            f"The reply was written by {recording.model} with the digest {recording.model_digest:.12}…, but this model "
            f"has {model_digest:.12}…: name the other one with --model."
        )


def replay(
    engine: Engine,
    checkpoint: Checkpoint,
    recording: Recording,
    *,
    owner: str,
    progress: Progress = lambda done, total: None,
) -> Comparison:
    """Write a reply again, as far as it is the same, and say how far that is.

    Calls `progress` with the number of tokens read and written and, about, of all.
    Raises ReplayImpossible where the engine's context is smaller than the one that the reply was written in, ModelError
    (PromptTooLong, EngineBusy, EngineStopped) when the engine fails.
    """
    params = recording.params
    # with what Context.params adds to those that are stored
    params = replace(params, stop=params.stop + checkpoint.chat_template.stop)
    try:
        generation = engine.submit(recording.prompt, params, owner=owner)
    except ValueError as error:  # a file that was imported may say anything
        raise ReplayImpossible(f"The reply cannot have been written by this model: {error}") from None
    try:
        return _compare(recording, generation, checkpoint.tokenizer, progress)
    finally:
        generation.cancel()


# What is stored.


def _check_is_written(reply: Message) -> None:
    if reply.role != "assistant":
        raise ReplayImpossible(f"A message of the {reply.role} cannot be replayed: no model wrote it.")
    if reply.origin in ("edited", "imported"):
        raise ReplayImpossible(f"The reply was {reply.origin}: it cannot be replayed, as no model wrote it here.")
    if reply.status == "streaming":
        raise ReplayImpossible("The reply is still being written: it can be replayed once it has ended.")


def _written(store: ConversationStore, owner_id: str, reply: Message) -> list[int] | str:
    """Return the tokens that come after those of what a reply continues, or the text if they are not stored."""
    if reply.token_ids is None or reply.completion_tokens is None:
        return reply.content.removeprefix(_beginning(store, owner_id, reply))
    return reply.token_ids[len(reply.token_ids) - reply.completion_tokens :]


def _beginning(store: ConversationStore, owner_id: str, reply: Message) -> str:
    """Return the text of what a reply continues, if it does."""
    if reply.origin not in ("continued", "copied"):
        return ""
    if reply.origin_id is None:
        raise ReplayImpossible(
            f"The reply's tokens are not stored, and what it was {reply.origin} from has been deleted: "
            "it cannot be told where it begins."
        )
    source = store.message(owner_id, reply.origin_id)
    return source.content if reply.origin == "continued" else _beginning(store, owner_id, source)


def _params(reply: Message) -> SamplingParams:
    if not reply.params or reply.seed is None:
        raise ReplayImpossible("The parameters of the reply are not stored.")
    try:
        params = SamplingParams(**{name: from_json(name, value) for name, value in reply.params.items()})
        return replace(params, seed=reply.seed)
    except (TypeError, ValueError) as error:
        raise ReplayImpossible(f"The parameters of the reply are not those of this Parley: {error}") from None


# What is written now.


def _compare(recording: Recording, generation: Generation, tokenizer: Tokenizer, progress: Progress) -> Comparison:
    stored: list[int | str] = list(recording.written)
    by_text = isinstance(recording.written, str)
    new: list[int | str] = []
    for piece in _read(generation, len(stored), progress):
        new += piece.text if by_text else piece.token_ids
        if new != stored[: len(new)] or (len(new) == len(stored) and not recording.ended):
            break
    n_same = n_common(stored, new)
    unit: Unit = "characters" if by_text else "tokens"
    if n_same == len(stored) and (n_same == len(new) or not recording.ended):
        return Comparison(unit, n_same)
    return Comparison(unit, n_same, _mark(stored, n_same, tokenizer), _mark(new, n_same, tokenizer))


def _read(generation: Generation, n_expected: int, progress: Progress) -> Iterator[Piece]:
    """Yield the pieces of a reply; raises ModelError, ReplayImpossible if anything but the model itself ends it."""
    n_done, n_all = generation.prompt_tokens, generation.prompt_tokens + n_expected
    while generation.usage is None and generation.prefilled_tokens < generation.prompt_tokens:
        progress(generation.prefilled_tokens, n_all)
        time.sleep(POLL_SECONDS)
    for piece in generation:
        n_done += len(piece.token_ids)
        progress(min(n_done, n_all), n_all)
        yield piece
    if generation.finish_reason == "length":
        raise ReplayImpossible("The context ended before the reply did: give this model more --kv-memory.")
    if generation.finish_reason != "stop":
        raise ModelError(generation.error or "The engine has been closed.")


def _mark(items: Sequence[int | str], place: int, tokenizer: Tokenizer) -> Mark:
    if place == len(items):
        return Mark()
    item = items[place]
    return Mark(text=item) if isinstance(item, str) else Mark(item, tokenizer.decode([item]))
