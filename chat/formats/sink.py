"""A file for libraries that want one, whose content goes on in pieces."""

from io import RawIOBase
from typing import Any


class Sink(RawIOBase):
    """A file that can only be written to, from its beginning to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._n_written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._n_written += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._n_written

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken
