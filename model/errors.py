"""What can go wrong between a checkpoint and its tokens.

ModelError
  + CheckpointError    a file of weights that cannot be used
  + PromptTooLong      more tokens than the context holds
  + EngineBusy         the queue is full; try again later
  + EngineStopped      the engine has been closed, or its worker has died
"""


class ModelError(Exception):
    """Base of everything below; its text is one line, fit for a user."""


class CheckpointError(ModelError):
    """The checkpoint cannot be used; the text names the file, what was expected and what was found."""


class PromptTooLong(ModelError):
    """The prompt does not fit into the context."""

    def __init__(self, n_tokens: int, limit: int) -> None:
        super().__init__(f"The text has {n_tokens:,} tokens; at most {limit:,} fit into the model's context.")
        self.n_tokens = n_tokens
        self.limit = limit


class EngineBusy(ModelError):
    """The engine's queue is full, or one owner's share of it."""

    def __init__(self, text: str, retry_after: int = 1) -> None:
        super().__init__(text)
        self.retry_after = retry_after  # seconds until there may be a place, 1 or more


class EngineStopped(ModelError):
    """The engine does not run any more."""
