"""How likely a model finds the tokens of a stored reply, and what else it might have written."""

import math
from dataclasses import dataclass

from chat.errors import NotPossible
from chat.loaded_model import LoadedModel
from chat.prompts import join_prompt
from model.engine.generation import TokenLogprob
from model.errors import ModelError
from model.sampling_params import SamplingParams
from model.tokenizer import StreamingDetokenizer, Tokenizer
from storage.conversations import ConversationStore
from storage.tables import Message

N_ALTERNATIVES = 8


@dataclass(frozen=True, slots=True)
class Alternative:
    """A token that might stand at a place."""

    token_id: int
    text: str  # a control token's name; U+FFFD for a part of a character
    probability: float


@dataclass(frozen=True, slots=True)
class ViewedToken:
    """A token of a reply; `text` is what it completes, so that the texts together are the reply's."""

    token_id: int
    text: str
    probability: float
    alternatives: tuple[Alternative, ...]  # the likeliest first, the token itself among them if it is one of those


def view_tokens(store: ConversationStore, model: LoadedModel, owner_id: str, message_id: str) -> list[ViewedToken]:
    """Measure the tokens of a reply by the model in use, after the prompt that it was given.

    A prompt that is not stored, or that another model was given, is made anew. Raises MessageNotFound, NotPossible,
    ModelError.
    """
    reply = store.message(owner_id, message_id)
    if reply.role != "assistant" or not reply.content or reply.status == "streaming":
        raise NotPossible("Only a reply that has been written can be looked at token by token.")
    token_ids = model.context_builder.beginning(reply)
    prompt = _prompt(store, model, owner_id, reply, n_reply=len(token_ids))
    generation = model.engine.score([*prompt, *token_ids], len(prompt), logprobs=N_ALTERNATIVES, owner=owner_id)
    logprobs = [logprob for piece in generation for logprob in piece.logprobs]
    if generation.finish_reason != "stop":
        raise ModelError(generation.error or "The model was closed before it had looked at the reply: try again.")
    tokenizer = model.context_builder.tokenizer
    detokenizer = StreamingDetokenizer(tokenizer)
    texts = [detokenizer.add(token_id) for token_id in token_ids]
    return [_viewed(tokenizer, text, logprob) for text, logprob in zip(texts, logprobs, strict=True)]


def _prompt(store: ConversationStore, model: LoadedModel, owner_id: str, reply: Message, *, n_reply: int) -> list[int]:
    *path, reply = store.path(owner_id, reply.conversation_id, reply.id)
    stored = join_prompt(path, reply) if reply.model_digest == model.digest else None
    if stored and len(stored) + n_reply <= model.context_builder.n_ctx:
        return stored
    conversation = store.get(owner_id, reply.conversation_id)
    return model.build(path, conversation, SamplingParams(max_tokens=max(1, n_reply))).token_ids


def _viewed(tokenizer: Tokenizer, text: str, logprob: TokenLogprob) -> ViewedToken:
    alternatives = tuple(
        Alternative(token_id, _shown(tokenizer, token_id), math.exp(value)) for token_id, value in logprob.most_likely
    )
    return ViewedToken(logprob.token_id, text, math.exp(logprob.logprob), alternatives)


def _shown(tokenizer: Tokenizer, token_id: int) -> str:
    text = tokenizer.token_bytes(token_id).decode(errors="replace")
    return text or tokenizer.vocabulary.tokens[token_id]
