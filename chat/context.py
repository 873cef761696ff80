"""What the model gets to see: the newest whole turns of a conversation that fit into its context."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from chat.errors import MessageTooLong
from chat.ledger import Ledger, LedgerEntry, Reason
from chat.prompts import n_common
from chat.recap import Recap, make_recap
from model.chat_template import ChatMessage, ChatTemplate
from model.sampling_params import SamplingParams
from model.tokenizer import Tokenizer
from storage.tables import Message

# When the history outgrows its budget it is cut to this share of it, not to the last token, so that the next few
# prompts begin alike and the engine can reuse what it has computed.
CUT_TO = 0.7
RECAP_SHARE = 0.1  # of the budget, once something is dropped


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


@dataclass(frozen=True, slots=True)
class _Turn:
    """A user's message and what answers it; pinned as a whole if one of them is."""

    entries: list[_Entry]
    tokens: int  # with those that the template puts around contents
    pinned: bool


@dataclass(frozen=True, slots=True)
class _Draft:
    """A prompt that may still be too long: all turns from one on, those pinned before it, and a recap of the others."""

    token_ids: list[int]
    places: list[range]  # of the messages of the history, in their order
    recap: Recap
    recap_tokens: int


class ContextBuilder:
    """Packs a conversation into token ids."""

    def __init__(self, chat_template: ChatTemplate, tokenizer: Tokenizer, n_ctx: int) -> None:
        self._chat_template = chat_template
        self.tokenizer = tokenizer
        self.n_ctx = n_ctx
        self._overhead = _measure_overhead(chat_template)
        self._beginning = _find_beginning(chat_template)

    def build(
        self,
        path: Sequence[Message],
        *,
        system_prompt: str | None,
        max_new_tokens: int,
        begun: Sequence[int] = (),
        recap: bool = False,
    ) -> Context:
        """Return the prompt for the path from the root to the user's newest message, and the reply's beginning.

        Room for the rest of the reply is set aside: max_new_tokens, but at most half of the context. With `recap`,
        sentences of what is dropped are quoted. Raises MessageTooLong when the newest message does not even fit with
        that room and what is pinned alone.
        """
        budget = self.n_ctx - min(max_new_tokens, self.n_ctx // 2) - len(begun)
        room = int(budget * RECAP_SHARE) if recap else 0
        system = [ChatMessage("system", system_prompt)] if system_prompt else []
        turns = self._split_into_turns(path)
        first = _first_kept(turns, budget - self._count_system(system), room)
        draft = self._draft(system, turns, first, room)
        while len(draft.token_ids) > budget and first < len(turns) - 1:  # the sizes of the turns are estimates
            first += 1
            draft = self._draft(system, turns, first, room)
        if len(draft.token_ids) > budget and draft.recap.text:  # it has to yield to what is pinned and to the newest
            draft = self._draft(system, turns, first, room=0)
        if len(draft.token_ids) > budget:
            size = turns[-1].entries[-1].tokens
            raise MessageTooLong(size, max(0, budget - (len(draft.token_ids) - size)), "tokens")
        n_shared = self._n_shared(draft.token_ids, has_system=bool(system))
        ledger = Ledger(budget=budget, messages=_account(turns, first, draft))
        if draft.recap.text:
            ledger["recap_tokens"] = draft.recap_tokens
        return Context([*draft.token_ids, *begun], n_shared, ledger, self._chat_template.stop)

    def build_alone(self, text: str, *, system_prompt: str | None, max_new_tokens: int) -> Context:
        """Return the prompt for a message with nothing before it; raises MessageTooLong."""
        alone = Message(id="", role="user", content=text)
        return self.build([alone], system_prompt=system_prompt, max_new_tokens=max_new_tokens)

    def build_whole(self, messages: Sequence[ChatMessage]) -> Context:
        """Return the prompt for messages none of which may be left out; whether they fit is for the engine to say.

        Raises CheckpointError where the template does not take them.
        """
        token_ids = self._chat_template.encode(_joined(messages))
        n_shared = self._n_shared(token_ids, has_system=messages[0].role == "system")
        return Context(token_ids, n_shared, Ledger(budget=self.n_ctx, messages=[]), self._chat_template.stop)

    def beginning(self, reply: Message) -> list[int]:
        """Return the ids with which the rest of a reply is asked for."""
        written = self.reply_token_ids(reply.content, reply.token_ids or ())
        return written or self.tokenizer.encode(reply.content)

    def reply_token_ids(self, content: str, token_ids: Sequence[int]) -> list[int] | None:
        """Return the ids of a reply if they spell its content exactly, so that a later prompt can repeat them.

        Those of another model's vocabulary do not, and control tokens spell nothing.
        """
        if all(map(self.tokenizer.token_bytes, token_ids)) and self.tokenizer.decode(token_ids) == content:
            return list(token_ids)
        return None

    def _n_shared(self, token_ids: Sequence[int], *, has_system: bool) -> int:
        # an own system prompt is nobody else's; and what a template begins with may depend on the day
        return 0 if has_system else n_common(self._beginning, token_ids)

    def _split_into_turns(self, path: Sequence[Message]) -> list[_Turn]:
        turns: list[list[_Entry]] = []
        for message in path:
            if message.role == "user" or not turns:
                turns.append([])
            turns[-1].append(self._measure(message))
        return [
            _Turn(
                entries,
                tokens=sum(entry.tokens + self._overhead for entry in entries),
                pinned=any(entry.message.pinned for entry in entries),
            )
            for entries in turns
        ]

    def _measure(self, message: Message) -> _Entry:
        written = self.reply_token_ids(message.content, message.token_ids or ())
        size = len(written) if written else self._count(message.content)
        return _Entry(message, size, tuple(written or ()))

    def _count(self, text: str) -> int:
        return len(self.tokenizer.encode(text))

    def _count_system(self, system: list[ChatMessage]) -> int:
        return len(self._chat_template.encode([*system, ChatMessage("user", "")]))

    def _draft(self, system: list[ChatMessage], turns: Sequence[_Turn], first: int, room: int) -> _Draft:
        """Return the prompt with the turns from the first on, the pinned ones, and so many tokens of recap at most.

        The recap opens the message of the user that comes after what was left out. Every template has a place for it
        there, and what comes before stays as it was, cached. In a system message it would replace the one that a
        template may begin with, and give the words of users, and of the model, the weight of the owner's.
        """
        pinned = _told(turn for turn in turns[:first] if turn.pinned)
        dropped = _told(turn for turn in turns[:first] if not turn.pinned)
        recap = make_recap(dropped, room, lambda text: self._count(f"{text}\n\n"))
        opening = [ChatMessage("user", recap.text)] if recap.text else []
        messages = _joined([*system, *pinned, *opening, *_told(turns[first:])])
        token_ids, places = self._chat_template.encode_and_locate(messages)
        del places[: len(system)]
        recap_tokens = len(places.pop(len(pinned))) if opening else 0
        return _Draft(token_ids, places, recap, recap_tokens)


def _measure_overhead(chat_template: ChatTemplate) -> int:
    """Return how many tokens the template puts around a content, the larger share of a turn's two."""
    question, answer = ChatMessage("user", ""), ChatMessage("assistant", "")
    turn = len(chat_template.encode([question, answer, question])) - len(chat_template.encode([question]))
    return -(-turn // 2)


def _find_beginning(chat_template: ChatTemplate) -> list[int]:
    """Return the tokens that come before anything a user wrote: the template's default system prompt, if it has one."""
    prompt, other = (chat_template.encode([ChatMessage("user", text)]) for text in ("A", "1"))
    return prompt[: n_common(prompt, other)]


def _told(turns: Iterable[_Turn]) -> list[ChatMessage]:
    """Return the messages of turns as the template gets them."""
    entries = [entry for turn in turns for entry in turn.entries if not _is_empty(entry.message)]
    return [ChatMessage(entry.message.role, entry.message.content, entry.written) for entry in entries]


def _joined(messages: Iterable[ChatMessage]) -> list[ChatMessage]:
    """Return the messages with neighbours of one role made one, since some templates refuse them."""
    joined: list[ChatMessage] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            message = joined.pop().join(message)
        joined.append(message)
    return joined


def _is_empty(message: Message) -> bool:
    """Tell whether a reply ended before its first word; an empty answer in the prompt would breed more of them."""
    return message.role == "assistant" and not message.content


def _first_kept(turns: Sequence[_Turn], budget: int, room: int) -> int:
    """Return from which turn on all are in the prompt; the pinned ones always are.

    The conversation is replayed from its beginning, cutting wherever it outgrew the budget, so that every prompt
    of it finds the same cuts without anything being remembered. Once something is dropped, room is kept for a recap.
    """
    first = total = 0
    for last, turn in enumerate(turns):
        total += turn.tokens
        if total + (room if first else 0) > budget:
            while first < last and total + room > budget * CUT_TO:
                total -= 0 if turns[first].pinned else turns[first].tokens
                first += 1
    return first


def _account(turns: Sequence[_Turn], first: int, draft: _Draft) -> list[LedgerEntry]:
    """Return what became of each message; the draft tells where those are that it includes, and quotes others."""
    places, dropped = iter(draft.places), count()
    entries = []
    for i, turn in enumerate(turns):
        for entry in turn.entries:
            message_id = entry.message.id
            if _is_empty(entry.message):
                account = LedgerEntry(message_id=message_id, tokens=entry.tokens, included=False, reason="empty")
            elif i >= first or turn.pinned:
                place = next(places)
                account = LedgerEntry(
                    message_id=message_id,
                    tokens=len(place),
                    included=True,
                    reason="fits" if i >= first else "pinned",
                    start=place.start,
                )
            else:
                reason: Reason = "recapped" if next(dropped) in draft.recap.quoted else "dropped"
                account = LedgerEntry(message_id=message_id, tokens=entry.tokens, included=False, reason=reason)
            entries.append(account)
    return entries
