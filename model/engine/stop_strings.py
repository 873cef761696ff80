"""Finding stop strings in text that arrives in pieces."""


class StopStrings:
    """Passes text on, holding back whatever could still become a stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """Return what is safe to show now; once a stop string is found, what came before it.

        Of several, it is the one that is complete first, so that it does not matter where the text is cut.
        """
        self._held += text
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.found = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - self._longest_beginning())

    def finish(self) -> str:
        """Return what was held back, now that no more text comes."""
        return "" if self.found else self._release(len(self._held))

    def _longest_beginning(self) -> int:
        """Return how many of the last characters are the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        return released
