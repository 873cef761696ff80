"""Passwords are kept as argon2id hashes, and what checking one takes tells nothing of whose it is."""

import threading

import pytest
from accounts_app import quick_passwords
from argon2 import PasswordHasher, Type, extract_parameters

from chat.limits import LimitExceeded
from chat.passwords import MAX_AT_ONCE, MAX_WAITING, BadPassword, Passwords

PASSWORD = "correct horse"


class SlowHasher(PasswordHasher):
    """Hashes when the test says so, and counts."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.go = threading.Event()
        self.checked: list[str] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:  # type: ignore[override]
        with self._lock:
            self.checked.append(str(hash))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(30)
        with self._lock:
            self.at_once -= 1
        return super().verify(hash, password)


def test_a_password_is_known_again_and_another_is_not() -> None:
    passwords = quick_passwords()
    kept = passwords.hash(PASSWORD)
    assert passwords.check(kept, PASSWORD)
    assert not passwords.check(kept, PASSWORD.upper())
    assert not passwords.check(None, PASSWORD)
    assert PASSWORD not in kept


def test_what_is_kept_is_argon2id_as_rfc_9106_recommends() -> None:
    parameters = extract_parameters(Passwords().hash(PASSWORD))
    assert parameters.type is Type.ID
    assert (parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (65_536, 3, 4)


def test_for_an_unknown_name_as_much_is_computed() -> None:
    hasher = SlowHasher()
    hasher.go.set()
    passwords = Passwords(hasher)
    kept = passwords.hash(PASSWORD)
    passwords.check(kept, "wrong")
    passwords.check(None, "wrong")
    known, unknown = map(extract_parameters, hasher.checked)
    assert known == unknown


@pytest.mark.parametrize("password", ["", "short", "x" * 9, "x" * 201])
def test_a_password_that_cannot_be_one_is_refused_unquoted(password: str) -> None:
    with pytest.raises(BadPassword, match=rf"^password: expected 10 to 200 characters, got {len(password)}$"):
        quick_passwords().hash(password)


@pytest.mark.parametrize("password", ["x" * 10, "x" * 200, "\ud800 a lone surrogate", "Straße auf dem Mond", "🐴" * 10])
def test_any_characters_make_a_password(password: str) -> None:
    passwords = quick_passwords()
    assert passwords.check(passwords.hash(password), password)


def test_it_does_not_matter_how_a_keyboard_composes_letters() -> None:
    passwords = quick_passwords()
    assert passwords.check(passwords.hash("Bücherregal"), "Bu\u0308cherregal")


def test_a_hash_that_is_none_fits_no_password() -> None:
    assert not quick_passwords().check("damaged", PASSWORD)


def test_a_hash_with_other_parameters_is_outdated() -> None:
    kept = quick_passwords().hash(PASSWORD)
    assert not quick_passwords().is_outdated(kept)
    assert Passwords().is_outdated(kept)


def test_two_are_checked_at_once_some_wait_and_more_are_refused() -> None:
    hasher = SlowHasher()
    passwords = Passwords(hasher)

    def check() -> None:
        with passwords.turn():
            passwords.check(None, "wrong")

    threads = [threading.Thread(target=check) for _ in range(MAX_AT_ONCE + MAX_WAITING)]
    for thread in threads:
        thread.start()
    while passwords._places._value or hasher.at_once < MAX_AT_ONCE:  # type: ignore[attr-defined]
        threading.Event().wait(0.01)
    with pytest.raises(LimitExceeded, match="passwords: at most 10 are checked at a time"):
        check()
    hasher.go.set()
    for thread in threads:
        thread.join()
    assert (len(hasher.checked), hasher.most_at_once) == (10, 2)
    assert not passwords.check(None, "wrong")  # there is room again
