"""Passwords as they are kept: hashes by argon2id, a few at a time, since each takes 64 MiB and a tenth of a second."""

import base64
import secrets
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from chat.errors import ChatError
from chat.limits import LimitExceeded
from chat.text import clean

MIN_CHARS = 10
MAX_CHARS = 200
MAX_AT_ONCE = 2
MAX_WAITING = 8


class BadPassword(ChatError):
    """Not one that an account could have; the text does not quote it."""


class Passwords:
    """Hashes passwords, and tells whether one is that of a hash. Threads may share it."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turns = threading.BoundedSemaphore(MAX_AT_ONCE)
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE + MAX_WAITING)
        self._of_nobody = _hash_of_nobody(self._hasher)

    def hash(self, password: str) -> str:
        """Return what to keep of a password; raises BadPassword, LimitExceeded."""
        password = _normal(password)
        if not MIN_CHARS <= len(password) <= MAX_CHARS:
            raise BadPassword(f"password: expected {MIN_CHARS} to {MAX_CHARS} characters, got {len(password)}")
        with self.turn():
            return self._hasher.hash(password)

    def check(self, kept: str | None, password: str) -> bool:
        """Tell, in a turn, whether a password is that of a hash; for None, nobody's, it takes as long."""
        try:
            return self._hasher.verify(kept or self._of_nobody, _normal(password)) and kept is not None
        except (VerificationError, InvalidHashError):
            return False

    def is_outdated(self, kept: str) -> bool:
        """Tell whether a hash was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(kept)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until few enough hash; raises LimitExceeded if too many wait already."""
        if not self._places.acquire(blocking=False):  # or all threads of the server would wait here
            raise LimitExceeded(f"passwords: at most {MAX_AT_ONCE + MAX_WAITING} are checked at a time.", 1)
        try:
            with self._turns:
                yield
        finally:
            self._places.release()


def _normal(password: str) -> str:
    """Return one text for what looks the same, whatever keyboard it was typed on."""
    return unicodedata.normalize("NFKC", clean(password))


def _hash_of_nobody(hasher: PasswordHasher) -> str:
    salt, digest = (
        base64.b64encode(secrets.token_bytes(n)).decode().rstrip("=") for n in (hasher.salt_len, hasher.hash_len)
    )
    costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"
