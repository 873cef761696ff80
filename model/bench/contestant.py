"""What is measured, behind one set of verbs: Parley and its peers, each in a process of its own."""

from collections.abc import Sequence
from typing import Protocol

from model.sampling import Floats

Tokens = Sequence[int]


class Contestant(Protocol):
    """A program with the weights loaded. All of them use greedy sampling, and go on after tokens that end a reply."""

    def describe(self) -> str:
        """Say what computes, in one line."""

    def prefill(self, token_ids: Tokens) -> float:
        """Read a prompt of which nothing is cached; returns the seconds to its first new token."""

    def decode(self, prompts: Sequence[Tokens], n_tokens: int) -> float:
        """Continue all prompts together, which have one length; returns the seconds of `n_tokens` for each of them.

        The time begins with the first new tokens, which are not counted.
        """

    def chat(self, turns: Sequence[Tokens], n_reply: int) -> list[float]:
        """Answer one turn after another with `n_reply` tokens, keeping what is computed.

        Returns the seconds to the first token of each reply.
        """

    def greedy(self, prompts: Sequence[Tokens], n_tokens: int) -> list[list[int]]:
        """Return for each prompt the `n_tokens` that follow: the most likely ones that do not end a reply."""

    def logits(self, token_ids: Tokens, n_last: int) -> Floats:
        """Return the logits after each of the last tokens of a text, (n_last, V) in fp32. Nothing else comes after."""
