"""What can go wrong in a dialogue. The texts are one line, fit for a user.

ChatError
  + BlankMessage     nothing to send
  + MessageTooLong   more than the model, or the server, takes
  + PromptFailed     the model's template or tokenizer gives no prompt for it
  + UnknownPreset    there is no preset of that name
  + NothingSelected  no conversation is to be exported
  + UnknownFormat    there is no format of that name
  + Unreadable       a file that was to be imported is not what it should be
  + NotPossible      the message is not one that this can be done with
  + KeyTaken         the idempotency key has come with another message
  + AlreadySent      the same request has come before
  + ModelNotReady    no model is loaded yet, or the one that was to be loaded cannot be used
  + ModelNotFound    the model in use has another name
  + ReplyFailed      a reply ended in an error
  + ShuttingDown     Parley ends, and with it what it was doing

What only one module raises is defined there.
"""

from collections.abc import Sequence


class ChatError(Exception):
    """Base of everything below."""


class BlankMessage(ChatError):
    """The message has no visible character."""

    def __init__(self) -> None:
        super().__init__("The message is empty: write something first.")


class MessageTooLong(ChatError):
    """The message alone does not fit, whatever else is left out of the prompt."""

    def __init__(self, size: int, limit: int, unit: str) -> None:
        super().__init__(f"The message is too long: it has {size:,} {unit}, and at most {limit:,} fit.")
        self.size = size
        self.limit = limit


class PromptFailed(ChatError):
    """The checkpoint gives no prompt for the message; the text is the reason that it had."""


class UnknownPreset(ChatError):
    """The name is none of those that there are."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(f"preset: expected one of {', '.join(names)}, got {name!r}")


class NothingSelected(ChatError):
    """None passes all that was asked for."""

    def __init__(self) -> None:
        super().__init__("No conversation is selected: there is nothing to export.")


class UnknownFormat(ChatError):
    """The name is none of those that there are."""

    def __init__(self, name: str, names: Sequence[str]) -> None:
        super().__init__(f"format: expected one of {', '.join(names)}, got {name!r}")


class Unreadable(ChatError):
    """The text names the place in the file, what was expected there and what was found."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")


class NotPossible(ChatError):
    """What is asked for makes no sense for this message; the text says why."""


class KeyTaken(NotPossible):
    """An idempotency key has come before, with another message."""

    def __init__(self) -> None:
        super().__init__("idempotency_key: expected one of its own, got that of another message.")


class AlreadySent(ChatError):
    """A request has come again: its message is stored, and its reply written or being written."""

    def __init__(self, message_id: str, reply_id: str | None) -> None:
        super().__init__("This message was sent already.")
        self.message_id = message_id
        self.reply_id = reply_id  # none once it has been deleted


class ModelNotReady(ChatError):
    """Nothing can be written yet; the text says why no model is there, if one could not be loaded."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason or "The model is still being loaded: try again in a moment.")


class ModelNotFound(ChatError):
    """A model was asked for that is not the one in use."""

    def __init__(self, name: str, used: str) -> None:
        super().__init__(f"model: expected {used!r}, the model in use, got {name!r}")


class ReplyFailed(ChatError):
    """A reply could not be written to its end; the text is the engine's."""


class ShuttingDown(ChatError):
    """What was being done cannot be finished."""

    def __init__(self) -> None:
        super().__init__("Parley is shutting down: try again when it is back.")
