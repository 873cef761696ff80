"""What the model gets to see: the newest whole turns of a conversation that fit into its context."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

from chat.errors import MessageTooLong
from model.chat_template import ChatMessage, ChatTemplate
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from storage.tables import Message

# When the history outgrows its budget it is cut to this share of it, not to the last token, so that the next few
# prompts begin alike and the engine can reuse what it has computed.
CUT_TO = 0.7


Reason = Literal["fits", "pinned", "dropped", "empty"]


class LedgerEntry(TypedDict):
    """What became of one message of the history."""

    message_id: str
    tokens: int
    included: bool
    reason: Reason


class Ledger(TypedDict):
    """The account of a prompt: how many tokens it had room for, and which messages took it."""

    budget: int
    messages: list[LedgerEntry]


@dataclass(frozen=True, slots=True)
class Context:
    """A prompt, and the account of how it came about."""

    token_ids: list[int]
    n_shared: int  # of the first tokens: what the template begins with, the same for all owners
    ledger: Ledger
    stop: tuple[str, ...]  # what would begin the next turn, for a template without control tokens

    def params(self, params: SamplingParams) -> SamplingParams:
        """Return the parameters with which the reply to this prompt ends where it should."""
        return replace(params, stop=params.stop + self.stop)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A message of the history, with its size."""

    message: Message
    tokens: int
    written: tuple[int, ...]  # the ids that the model wrote, if they are to be repeated


_Turn = list[_Entry]  # a user's message and what answers it; pinned as a whole if one of them is


class ContextBuilder:
    """Packs a conversation into token ids."""

    def __init__(self, chat_template: ChatTemplate, tokenizer: Tokenizer, n_ctx: int) -> None:
        self._chat_template = chat_template
        self._tokenizer = tokenizer
        self._n_ctx = n_ctx
        self._overhead = _measure_overhead(chat_template)
        self._beginning = _find_beginning(chat_template)

    def build(
        self, path: Sequence[Message], *, system_prompt: str | None, max_new_tokens: int, begun: Sequence[int] = ()
    ) -> Context:
        """Return the prompt for the path from the root to the user's newest message, and the reply's beginning.

        Room for the rest of the reply is set aside: max_new_tokens, but at most half of the context. Raises
        MessageTooLong when the newest message does not even fit with that and what is pinned alone.
        """
        budget = self._n_ctx - min(max_new_tokens, self._n_ctx // 2) - len(begun)
        system = [ChatMessage("system", system_prompt)] if system_prompt else []
        turns = _split_into_turns([self._measure(message) for message in path])
        sizes = [sum(entry.tokens + self._overhead for entry in turn) for turn in turns]
        pinned = [any(entry.message.pinned for entry in turn) for turn in turns]
        first = _first_kept(sizes, pinned, budget - self._count_system(system))
        token_ids = self._encode(system, _kept(turns, pinned, first))
        while len(token_ids) > budget and first < len(turns) - 1:  # the sizes above are estimates
            first += 1
            token_ids = self._encode(system, _kept(turns, pinned, first))
        if len(token_ids) > budget:
            size = turns[-1][-1].tokens
            raise MessageTooLong(size, max(0, budget - (len(token_ids) - size)), "tokens")
        ledger = Ledger(budget=budget, messages=_account(turns, pinned, first))
        # a conversation's own system prompt is nobody else's; and what a template begins with may depend on the day
        n_shared = 0 if system else _n_common(self._beginning, token_ids)
        return Context([*token_ids, *begun], n_shared, ledger, self._chat_template.stop)

    def build_alone(self, text: str, *, system_prompt: str | None, max_new_tokens: int) -> Context:
        """Return the prompt for a message with nothing before it; raises MessageTooLong."""
        alone = Message(id="", role="user", content=text)
        return self.build([alone], system_prompt=system_prompt, max_new_tokens=max_new_tokens)

    def beginning(self, reply: Message) -> list[int]:
        """Return the ids with which the rest of a reply is asked for."""
        written = self.reply_token_ids(reply.content, reply.token_ids or ())
        return written or self._tokenizer.encode(reply.content)

    def reply_token_ids(self, content: str, token_ids: Sequence[int]) -> list[int] | None:
        """Return the ids of a reply if they spell its content exactly, so that a later prompt can repeat them.

        Those of another model's vocabulary do not, and control tokens spell nothing.
        """
        if all(map(self._tokenizer.token_bytes, token_ids)) and self._tokenizer.decode(token_ids) == content:
            return list(token_ids)
        return None

    def _measure(self, message: Message) -> _Entry:
        written = self.reply_token_ids(message.content, message.token_ids or ())
        size = len(written or self._tokenizer.encode(message.content))
        return _Entry(message, size, tuple(written or ()))

    def _count_system(self, system: list[ChatMessage]) -> int:
        return len(self._chat_template.encode([*system, ChatMessage("user", "")]))

    def _encode(self, system: list[ChatMessage], turns: Sequence[_Turn]) -> list[int]:
        messages = list(system)
        for message in (_to_chat_message(entry) for turn in turns for entry in turn if not _is_empty(entry.message)):
            if messages and messages[-1].role == message.role:  # after an empty reply; some templates refuse that
                message = ChatMessage(message.role, f"{messages.pop().content}\n\n{message.content}")
            messages.append(message)
        return self._chat_template.encode(messages)


def _measure_overhead(chat_template: ChatTemplate) -> int:
    """Return how many tokens the template puts around a content, the larger share of a turn's two."""
    question, answer = ChatMessage("user", ""), ChatMessage("assistant", "")
    turn = len(chat_template.encode([question, answer, question])) - len(chat_template.encode([question]))
    return -(-turn // 2)


def _find_beginning(chat_template: ChatTemplate) -> list[int]:
    """Return the tokens that come before anything a user wrote: the template's default system prompt, if it has one."""
    prompt, other = (chat_template.encode([ChatMessage("user", text)]) for text in ("A", "1"))
    return prompt[: _n_common(prompt, other)]


def _n_common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two prompts have in common at their beginning."""
    n_common = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        n_common += 1
    return n_common


def _to_chat_message(entry: _Entry) -> ChatMessage:
    return ChatMessage(entry.message.role, entry.message.content, entry.written)


def _is_empty(message: Message) -> bool:
    """Tell whether a reply ended before its first word; an empty answer in the prompt would breed more of them."""
    return message.role == "assistant" and not message.content


def _split_into_turns(entries: Sequence[_Entry]) -> list[_Turn]:
    turns: list[_Turn] = []
    for entry in entries:
        if entry.message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(entry)
    return turns


def _first_kept(sizes: Sequence[int], pinned: Sequence[bool], budget: int) -> int:
    """Return from which turn on all are in the prompt, given the size of each in tokens; the pinned ones always are.

    The conversation is replayed from its beginning, cutting wherever it outgrew the budget, so that every prompt
    of it finds the same cuts without anything being remembered.
    """
    first = total = 0
    for last, size in enumerate(sizes):
        total += size
        if total > budget:
            while first < last and total > budget * CUT_TO:
                total -= 0 if pinned[first] else sizes[first]
                first += 1
    return first


def _kept(turns: Sequence[_Turn], pinned: Sequence[bool], first: int) -> list[_Turn]:
    return [turn for i, turn in enumerate(turns) if i >= first or pinned[i]]


def _account(turns: Sequence[_Turn], pinned: Sequence[bool], first: int) -> list[LedgerEntry]:
    entries = []
    for i, turn in enumerate(turns):
        reason: Reason = "fits" if i >= first else "pinned" if pinned[i] else "dropped"
        for entry in turn:
            is_empty = _is_empty(entry.message)
            entries.append(
                LedgerEntry(
                    message_id=entry.message.id,
                    tokens=entry.tokens,
                    included=reason != "dropped" and not is_empty,
                    reason="empty" if is_empty else reason,
                )
            )
    return entries
