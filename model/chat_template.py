"""Messages to token ids, by the template that came with the checkpoint.

The template is Jinja from a file that somebody else wrote, and the contents are text that somebody else typed, so
neither is trusted: the template runs in a sandbox, and writes a placeholder for each content. Then its own text is
scanned for control tokens, and the contents are encoded as ordinary text.
"""

import re
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

from jinja2.exceptions import SecurityError

from model.errors import CheckpointError
from model.jinja_sandbox import SandboxedTemplate, charge
from model.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]

# For models that were never taught to chat: a text that goes on with an answer. Each text they learned from began with
# bos_token, if they have one (GPT-2 saw <|endoftext|> between any two), so that nothing is taken to come before.
TRANSCRIPT = r"""
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {{- messages[0].content | trim }}
{%- else %}
    {{- 'The following is a conversation between a user and a helpful, honest assistant.' }}
{%- endif %}
{{- '\n' }}
{%- for message in messages if message.role != 'system' %}
    {%- set content = message.content | trim %}
    {{- '\n' ~ message.role | capitalize ~ ':' ~ ('' if content.startswith(' ') else ' ') ~ content }}
{%- endfor %}
{{- '\nAssistant:' }}"""
TRANSCRIPT_STOP = ("\nUser:", "\nAssistant:")

# A placeholder is a number in letters of a script that no template writes in, so that whatever a template does to one
# shows. It begins with a small letter and ends with a capital: a change of case is something that shows as well.
_PLACEHOLDER = re.compile("\U00010428([\U00010430-\U00010439]+)\U00010400")
_TO_LETTERS = {ord(str(digit)): 0x10430 + digit for digit in range(10)}
_LETTER = re.compile(r"[\U00010400-\U0001044f]|\\ud801")  # the last as JSON escapes them

MAX_OUTER_SPACE = 100
MAX_ASKED_CHARS = 200  # by the methods below, which may take the product of both lengths, and contents are long
_SLOW = ("lstrip", "rsplit", "rstrip", "strip")


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt. `token_ids` are those the model wrote, to be repeated exactly in place of content.

    `joints` is where in the content further messages begin, if it was joined from several.
    """

    role: Role
    content: str
    token_ids: tuple[int, ...] = ()
    joints: tuple[int, ...] = ()

    def join(self, other: "ChatMessage") -> "ChatMessage":
        """Return a message, of the other's role, that says both."""
        start = len(self.content) + 2
        joints = (*self.joints, start, *(start + joint for joint in other.joints))
        return ChatMessage(other.role, f"{self.content}\n\n{other.content}", joints=joints)


class ChatTemplate:
    """Renders messages into the ids that the checkpoint was trained to answer.

    `source` and `variables` are what it was made from. `stop` are the strings which show that a reply is over, for
    models that have no token for it.
    """

    def __init__(
        self, source: str | None, tokenizer: Tokenizer, variables: Mapping[str, str], *, enable_thinking: bool = False
    ) -> None:
        """Compile the template, TRANSCRIPT if there is none; `variables` are names it may use, such as bos_token.

        `enable_thinking` is for models that can think before they answer or answer at once. Raises CheckpointError
        for a template that cannot even render a question.
        """
        self.source, self.variables = source, variables
        self.stop = TRANSCRIPT_STOP if source is None else ()
        self._template = SandboxedTemplate(TRANSCRIPT if source is None else source, variables)
        self._tokenizer = tokenizer
        self._enable_thinking = enable_thinking
        longest_first = sorted(tokenizer.control_tokens, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._render([ChatMessage("user", "Hello.")])
        self._knows_system = self._writes_system_prompt()

    def with_thinking(self) -> "ChatTemplate":
        """Return the same template for replies that may begin with thoughts."""
        return ChatTemplate(self.source, self._tokenizer, self.variables, enable_thinking=True)

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the prompt's ids, ending with the opening of the assistant's turn (the generation prompt).

        A system prompt goes into the user's first message if the template has no place for one. Contents show the
        template what they are, but it can only write them as they are or in parts.

        Raises CheckpointError when the template fails, takes more than the sandbox allows or alters a content.
        """
        return self._write(messages).finish()

    def encode_and_locate(self, messages: Sequence[ChatMessage]) -> tuple[list[int], list[range]]:
        """Return the prompt's ids as `encode` does, and where in it each message is: from its first token to its last.

        That is its content, without outer white space that the model did not write. A message that was joined from
        several has a range for each, and what the template does not write an empty one. Tokens of two are in both.
        """
        prompt = self._write(messages)
        token_ids = prompt.finish()
        return token_ids, prompt.locate(sum(1 + len(message.joints) for message in messages))

    def _write(self, messages: Sequence[ChatMessage]) -> "_Prompt":
        if not self._knows_system:
            messages = _without_system(messages)
        prompt = _Prompt(self._tokenizer)
        for part in self._render(messages):
            if isinstance(part, _Content):
                prompt.add_content(part)
            else:
                self._add_template_text(prompt, part)
        return prompt

    def _render(self, messages: Sequence[ChatMessage]) -> list[str]:
        """Return what the template writes, its own texts alternating with contents."""
        contents = _Contents(self._tokenizer)
        stand_ins = [{"role": message.role, "content": contents.add_message(message)} for message in messages]
        variables = {"messages": stand_ins, "tools": None, "documents": None, "add_generation_prompt": True}
        rendered = self._template.render({**variables, "enable_thinking": self._enable_thinking})
        parts: list[str] = _PLACEHOLDER.split(rendered)  # with a group: what it found is in between
        if any(map(_LETTER.search, parts[::2])):
            raise CheckpointError("chat template: expected it to write contents as they are, found one altered")
        parts[1::2] = map(contents.find, parts[1::2])
        return parts

    def _writes_system_prompt(self) -> bool:
        try:
            return "Be brief." in self._render([ChatMessage("system", "Be brief."), ChatMessage("user", "Hello.")])
        except CheckpointError:
            return False

    def _add_template_text(self, prompt: "_Prompt", text: str) -> None:
        end = 0
        for match in self._control.finditer(text):
            prompt.add_text(text[end : match.start()])
            prompt.add_ids([self._tokenizer.control_tokens[match.group()]])
            end = match.end()
        prompt.add_text(text[end:])


def _without_system(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    if not messages or messages[0].role != "system":
        return messages
    system, *others = messages
    if not others or others[0].role != "user":
        return [replace(system, role="user"), *others]
    return [system.join(others[0]), *others[1:]]


class _Content(str):
    """A content in the hands of a template.

    It writes a placeholder, between the text's own outer white space, which a template may strip. Questions it answers
    with the text that it stands for, and what a template makes of it is a content again: what a user writes can steer
    a template, as its authors meant it to, and never becomes text of the template.
    """

    _contents: "_Contents"
    _text: str
    _core: slice  # of the text: what is written in place of the placeholder
    _token_ids: tuple[int, ...]  # and these in place of that, if there are any
    _number: int  # of the message that it is from
    _joints: tuple[int, ...]  # where in the text the next messages begin, if it was joined from several

    def __str__(self) -> str:
        return self


def _asking_text(method: str) -> Callable[..., Any]:
    """Return a method of contents that asks the text; texts in its answer become contents."""

    def ask(content: _Content, *arguments: Any, **options: Any) -> Any:
        arguments = tuple(a._text if isinstance(a, _Content) else a for a in arguments)
        if method in _SLOW and len(str((arguments, options))) > MAX_ASKED_CHARS:
            raise SecurityError(f"{method} of a content takes at most {MAX_ASKED_CHARS} characters")
        if method == "replace":  # the one that can make more than there was
            charge(4 * content._text.count(arguments[0]) * len(arguments[1]))
        answer = getattr(content._text, method)(*arguments, **options)
        if isinstance(answer, list):
            return [content._contents.derive(content, text) for text in answer]
        return content._contents.derive(content, answer) if isinstance(answer, str) else answer

    return ask


_QUESTIONS = (
    "__contains__ __eq__ __getitem__ __hash__ __len__ __ne__ capitalize count endswith find index lower lstrip "
    "removeprefix removesuffix replace rsplit rstrip split splitlines startswith strip title upper"
)
for _method in _QUESTIONS.split():
    setattr(_Content, _method, _asking_text(_method))


class _Contents:
    """The contents of one prompt, and the parts that the template has made of them, by their placeholders' letters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, _Content] = {}
        self._n_messages = 0

    def add_message(self, message: ChatMessage) -> _Content:
        number = self._n_messages
        self._n_messages += 1 + len(message.joints)
        return self._add(message.content, message.token_ids, number, message.joints)

    def derive(self, content: _Content, text: str) -> _Content:
        """Return what the template has made of a content: of one that the model wrote, its last tokens if possible."""
        if text == content._text:
            return content
        charge(1000 + sys.getsizeof(text))
        if not (text and content._token_ids):
            return self._add(text, (), content._number, _joints_in(content, text))
        tail = self._tail(content._token_ids, text) if content._text.endswith(text) else ()
        if not tail and text.strip() == content._text.strip():
            return content  # its outer white space is part of what the model wrote
        return self._add(text, tail, content._number, ())

    def _add(self, text: str, token_ids: tuple[int, ...], number: int, joints: tuple[int, ...]) -> _Content:
        letters = str(len(self._known)).translate(_TO_LETTERS)
        start, end = (0, len(text)) if token_ids else _core_of(text)
        placeholder = f"\U00010428{letters}\U00010400" if start < end or token_ids else ""
        content = self._known[letters] = _Content(text[:start] + placeholder + text[end:])
        content._contents, content._text, content._core, content._token_ids = self, text, slice(start, end), token_ids
        content._number, content._joints = number, joints
        return content

    def find(self, letters: str) -> _Content:
        if letters not in self._known:
            raise CheckpointError("chat template: expected placeholders of contents, found one that it made up")
        return self._known[letters]

    def _tail(self, token_ids: tuple[int, ...], text: str) -> tuple[int, ...]:
        """Return the last of the ids, those that spell the text; none if it begins inside of a token."""
        n_bytes = len(text.encode())
        for i in reversed(range(len(token_ids))):
            n_bytes -= len(self._tokenizer.token_bytes(token_ids[i]))
            if n_bytes <= 0:
                return token_ids[i:] if n_bytes == 0 else ()
        return ()


def _joints_in(content: _Content, text: str) -> tuple[int, ...]:
    """Return where the next messages begin in a part of a content that was joined from several."""
    if not content._joints:
        return ()
    is_tail = content._text.endswith(text)
    n_before = len(content._text) - len(text) if is_tail else max(content._text.find(text), 0)
    return tuple(min(max(joint - n_before, 0), len(text)) for joint in content._joints)


def _core_of(text: str) -> tuple[int, int]:
    """Return where the outer white space of a text ends and begins again."""
    start = min(len(text) - len(text.lstrip()), MAX_OUTER_SPACE)
    return start, max(start, len(text.rstrip()), len(text) - MAX_OUTER_SPACE)


class _Prompt:
    """Ids under construction. Neighbouring texts are encoded as one, as if the prompt had been a single string."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._texts: list[tuple[str, int | None]] = []  # with the numbers of the messages that they are from
        self._encoded: list[tuple[range, list[tuple[str, int | None]]]] = []  # by the place of their ids
        self._repeated: list[tuple[range, int]] = []  # the ids that the model wrote, and the number of the message

    def add_text(self, text: str, number: int | None = None) -> None:
        self._texts.append((text, number))

    def add_ids(self, token_ids: Sequence[int]) -> range:
        """Add ids, and return their place."""
        self._encode_texts()
        self._ids += token_ids
        return range(len(self._ids) - len(token_ids), len(self._ids))

    def add_content(self, content: _Content) -> None:
        if content._token_ids:
            self._repeated.append((self.add_ids(content._token_ids), content._number))
            return
        start, stop = content._core.start, content._core.stop
        bounds = [start, *(min(max(joint, start), stop) for joint in content._joints), stop]
        for number, (start, stop) in enumerate(pairwise(bounds), content._number):
            self.add_text(content._text[start:stop], number)

    def finish(self) -> list[int]:
        self._encode_texts()
        return self._ids

    def locate(self, n_messages: int) -> list[range]:
        """Return where the messages are among the ids."""
        places = [range(0)] * n_messages
        located = [piece for ids, texts in self._encoded for piece in self._locate(ids, texts)]
        for place, number in located + self._repeated:
            known = places[number] or place
            places[number] = range(min(known.start, place.start), max(known.stop, place.stop))
        return places

    def _encode_texts(self) -> None:
        start = len(self._ids)
        self._ids += self._tokenizer.encode("".join(text for text, _ in self._texts))
        self._encoded.append((range(start, len(self._ids)), self._texts))
        self._texts = []

    def _locate(self, ids: range, texts: Sequence[tuple[str, int | None]]) -> Iterator[tuple[range, int]]:
        """Yield where the contents among the texts are, found by counting bytes, and their messages' numbers."""
        ends = list(
            accumulate(len(self._tokenizer.token_bytes(token_id)) for token_id in self._ids[ids.start : ids.stop])
        )
        n_bytes = 0
        for text, number in texts:
            start = n_bytes + self._n_bytes(text[: len(text) - len(text.lstrip())])
            n_bytes += self._n_bytes(text)
            if number is not None and (content := text.strip()):
                stop = start + self._n_bytes(content)
                yield ids[bisect_right(ends, start) : bisect_left(ends, stop) + 1], number

    def _n_bytes(self, text: str) -> int:
        """Return how many bytes the tokens of a text have."""
        normalized = self._tokenizer.vocabulary.pre_tokenizer.normalize(text)
        return len(self._tokenizer.representable(normalized).encode())
