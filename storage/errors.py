"""What can go wrong between a question and the file it is kept in.

StorageError
  + DatabaseUnusable        the file cannot be opened, read or written
  + DatabaseTooNew          the file was written by a newer Parley
  + ConversationNotFound    no such conversation, or another owner's
  + MessageNotFound         no such message, or another owner's
  + ConversationBusy        the reply to be answered is still being written
  + ConversationMoved       somebody has gone on with it meanwhile
  + OwnerGone               whose it would be has no account any more

What only one module raises is defined there.
"""

from pathlib import Path


class StorageError(Exception):
    """Base of everything below; its text is one line, fit for a user."""


class DatabaseUnusable(StorageError):
    """The database cannot be used; the text names the file, what is wrong and what to do."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"Cannot use the database {path}: {reason}.")
        self.path = path


class DatabaseTooNew(StorageError):
    """The schema has a revision that this version of Parley does not know; nothing has been changed."""

    def __init__(self, path: Path, found: str, newest: str) -> None:
        super().__init__(
            f"The database {path} has schema revision {found}, but this Parley knows only up to {newest}: "
            "install a newer Parley, or choose another data folder."
        )
        self.path = path


class ConversationNotFound(StorageError):
    """The owner has no such conversation; the text does not tell whether somebody else has."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"There is no conversation {conversation_id}.")


class MessageNotFound(StorageError):
    """The owner has no such message; the text does not tell whether somebody else has."""

    def __init__(self, message_id: str) -> None:
        super().__init__(f"There is no message {message_id}.")


class ConversationBusy(StorageError):
    """A turn cannot follow a reply that is still being written."""

    def __init__(self) -> None:
        super().__init__("The last reply is still being written: wait for its end, or stop it.")


class ConversationMoved(StorageError):
    """The conversation no longer ends where the sender has seen it end; nothing has been stored."""

    def __init__(self) -> None:
        super().__init__(
            "The conversation has gone on elsewhere, for example in another tab: read it, then send again."
        )


class OwnerGone(StorageError):
    """The account has been removed since it was let in; nothing has been stored."""

    def __init__(self) -> None:
        super().__init__("This account has been removed.")
