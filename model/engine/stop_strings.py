"""Finding stop strings in text that arrives in pieces."""


class StopStrings:
    """Passes text on, holding back whatever could still become a stop string."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self._stop = stop
        self._held = ""
        self._n_exempt = 0  # so many of the characters held back end no stop string
        self.found = False

    def add(self, text: str, *, may_stop: bool = True) -> str:
        """Return what is safe to show now; once a stop string is found, what came before it.

        Of several, it is the one that is complete first, so that it does not matter where the text is cut. Where the
        text may not stop yet, a stop string may begin but not end.
        """
        self._held += text
        if not may_stop:
            self._n_exempt = len(self._held)
        found = [(at + len(stop), at) for stop in self._stop if (at := self._find(stop)) >= 0]
        if found:
            self.found = True
            return self._release(min(found)[1])
        return self._release(len(self._held) - self._longest_beginning())

    def finish(self) -> str:
        """Return what was held back, now that no more text comes."""
        return "" if self.found else self._release(len(self._held))

    def _find(self, stop: str) -> int:
        return self._held.find(stop, max(0, self._n_exempt + 1 - len(stop)))

    def _longest_beginning(self) -> int:
        """Return how many of the last characters are the beginning of a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0

    def _release(self, length: int) -> str:
        released, self._held = self._held[:length], self._held[length:]
        self._n_exempt = max(0, self._n_exempt - length)
        return released
