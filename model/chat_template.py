"""Messages to token ids, by the template that came with the checkpoint.

The template is Jinja from a file that somebody else wrote, and the contents are text that somebody else typed, so
neither is trusted: the template runs in a sandbox with a deadline, and it never sees the contents. It is rendered
with placeholders; then its own text is scanned for control tokens, and the contents are encoded as ordinary text.
"""

import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, NoReturn

from jinja2 import TemplateError, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from model.errors import CheckpointError
from model.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]

RENDER_SECONDS = 1.0
MAX_RENDERED_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a prompt. `token_ids` are those the model wrote, to be repeated exactly in place of content."""

    role: Role
    content: str
    token_ids: tuple[int, ...] = ()


class ChatTemplate:
    """Renders messages into the ids that the checkpoint was trained to answer."""

    def __init__(self, source: str, tokenizer: Tokenizer, variables: dict[str, str]) -> None:
        """Compile the template; `variables` are the names it may use, such as bos_token."""
        # The last two leave constant expressions to rendering: here no deadline guards them
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=_finalize)
        environment.globals.update(variables, raise_exception=_raise_exception)
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # not only TemplateError: a stranger's program may end in any
            raise CheckpointError(f"chat template: expected Jinja, found {_one_line(error)}") from None
        self._tokenizer = tokenizer
        self._nonce = secrets.token_hex(8)
        self._placeholder = re.compile(rf"<{self._nonce}:(\d+)>")
        self._control = re.compile("|".join(map(re.escape, tokenizer.control_tokens)) or r"(?!)")

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Return the prompt's ids, ending with the opening of the assistant's turn (the generation prompt).

        Raises CheckpointError when the template fails, takes longer than a second or writes over a million characters.
        """
        prompt = _Prompt(self._tokenizer)
        # re.split with a group alternates the template's own text with the numbers of the contents
        for i, part in enumerate(self._placeholder.split(self._render(messages))):
            if i % 2:
                prompt.add_content(messages[int(part)])
            else:
                self._add_template_text(prompt, part)
        return prompt.finish()

    def _render(self, messages: Sequence[ChatMessage]) -> str:
        stand_ins = [{"role": m.role, "content": f"<{self._nonce}:{i}>"} for i, m in enumerate(messages)]
        try:
            with _deadline(RENDER_SECONDS):
                parts = self._template.generate(messages=stand_ins, add_generation_prompt=True)
                return "".join(_limited(parts, MAX_RENDERED_CHARS))
        except (Exception, TemplateTimeout) as error:  # whatever a stranger's program ends in
            raise CheckpointError(f"chat template: {_one_line(error)}") from error

    def _add_template_text(self, prompt: "_Prompt", text: str) -> None:
        end = 0
        for match in self._control.finditer(text):
            prompt.add_text(text[end : match.start()])
            prompt.add_ids([self._tokenizer.control_tokens[match.group()]])
            end = match.end()
        prompt.add_text(text[end:])


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, with * and ** for small operands only: no deadline can interrupt 'x' * 10**10."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not (_is_small(left) and _is_small(right)):
            raise SecurityError(f"{operator} takes small operands only")
        return super().call_binop(context, operator, left, right)


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    return value


def _is_small(operand: object) -> bool:
    if isinstance(operand, str):
        return len(operand) < 1000
    return isinstance(operand, (int, float)) and abs(operand) < 1000


class _Prompt:
    """Ids under construction. Neighbouring texts are encoded as one, as if the prompt had been a single string."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._text: list[str] = []

    def add_text(self, text: str) -> None:
        self._text.append(text)

    def add_ids(self, token_ids: Sequence[int]) -> None:
        self._ids += self._tokenizer.encode("".join(self._text))
        self._ids += token_ids
        self._text.clear()

    def add_content(self, message: ChatMessage) -> None:
        if message.token_ids:
            self.add_ids(message.token_ids)
        else:
            self.add_text(message.content)

    def finish(self) -> list[int]:
        self.add_ids([])
        return self._ids


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _limited(parts: Iterator[str], max_chars: int) -> Iterator[str]:
    for part in parts:
        max_chars -= len(part)
        if max_chars < 0:
            raise ValueError(f"it writes more than {MAX_RENDERED_CHARS:,} characters")
        yield part


class TemplateTimeout(BaseException):
    """No Exception, since filters such as `int` catch some of those."""


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise TemplateTimeout in whatever Python code this thread runs once the time is over.

    A trace function is the one way to end an endless loop of a template without a process of its own. The time is
    that of this thread on a processor: a busy machine must not make a harmless template fail.
    """
    end = time.thread_time() + seconds

    def trace(frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if time.thread_time() > end:
            raise TemplateTimeout(f"it ran longer than {seconds:g} s")
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(previous)
