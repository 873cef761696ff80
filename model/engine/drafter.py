"""Guesses at how a text goes on, from what it has said before (prompt-lookup decoding, Saxena 2023)."""

from collections.abc import Iterable

# Tokens at the end that are looked for earlier, the most telling first. SmolLM2 writes 70 % of what is proposed after
# three, but 15 % of what is proposed after two alone, which does not pay.
LENGTHS = (5, 4, 3)


class Drafter:
    """Finds the end of a text earlier in it, and proposes what followed there."""

    def __init__(self, token_ids: Iterable[int]) -> None:
        """Read a prompt."""
        self._token_ids: list[int] = []
        self._followed: dict[tuple[int, ...], int] = {}  # tokens to the place after them, where they came last
        for token_id in token_ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        """Read one more token."""
        place = len(self._token_ids)
        for length in LENGTHS:
            if length <= place:
                self._followed[tuple(self._token_ids[place - length :])] = place
        self._token_ids.append(token_id)

    def propose(self, n: int) -> list[int]:
        """Return the `n` tokens that followed when the text last was as at its end; none if it never was.

        Where they overlap the end, they go on by repeating themselves.
        """
        for length in LENGTHS:
            place = self._followed.get(tuple(self._token_ids[-length:]))
            if place is not None:
                period = len(self._token_ids) - place
                return [self._token_ids[place + i % period] for i in range(n)]
        return []
