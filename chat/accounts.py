"""Accounts: who there is, who somebody is that shows a password, a session or an API key."""

import hashlib
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import cast, get_args

from chat.data_folder import LOCAL_OWNER
from chat.errors import ChatError
from chat.identity import Identity
from chat.limits import LimitExceeded, RateLimiter
from chat.lockout import Lockout
from chat.passwords import Passwords
from chat.sessions import LIFE, Session
from chat.text import clean
from storage.accounts import AccountStore, NameTaken, UserNotFound
from storage.errors import StorageError
from storage.tables import ApiKey, Scope, User, utc_now

KEY_PREFIX = "parley_"
SHOWN_CHARS = 12  # of a key, by which its owner knows it
NOTE_USE_AFTER = timedelta(hours=1)
LOGINS_PER_MINUTE = 20  # of one address, to whatever accounts

SCOPES: tuple[Scope, ...] = get_args(Scope)
MAX_NAME = 60
_NAME = re.compile(rf"[A-Za-z0-9._@-]{{1,{MAX_NAME}}}")
MAX_KEY_NAME = 60
MAX_KEYS = 100  # of an owner

logger = logging.getLogger(__name__)


class WrongPassword(ChatError):
    """There is no such account, or this is not its password; the text does not tell which."""

    def __init__(self) -> None:
        super().__init__("The name or the password is wrong.")


class BadName(ChatError):
    """No account or key can be called so."""


class BadScopes(ChatError):
    """No key can be for this."""


class NoAccount(ChatError):
    """There are no accounts yet: whoever sits at the machine has nothing to log in to or out of."""

    def __init__(self) -> None:
        super().__init__("There are no accounts yet: add one first.")


class OldPasswordNeeded(ChatError):
    """One's own password is changed where the old one is asked for, or an open page would be enough to take it over."""

    def __init__(self) -> None:
        super().__init__("password: expected none for your own account: POST /api/account/password changes it.")


class NotRemovable(ChatError):
    """The account cannot be removed; the text says why."""


class Accounts:
    """Accounts and API keys, as their owners and administrators use them. Threads may share it.

    The first account is the local owner's: it takes over what was theirs, it stays, and before it there is none.
    """

    def __init__(self, store: AccountStore, passwords: Passwords | None = None) -> None:
        self._store = store
        self._passwords = passwords or Passwords()
        self._lockout = Lockout()
        self._limiter = RateLimiter()

    @property
    def exist(self) -> bool:
        """Whether there are any, so that everybody must log in."""
        return bool(self._store.some([LOCAL_OWNER]))

    def add(self, name: str, password: str, *, is_admin: bool) -> User:
        """Add an account, the first one as an administrator; raises BadName, BadPassword, NameTaken."""
        self.check_new(name)
        return self._store.add(name, self._passwords.hash(password), is_admin=is_admin, first_id=LOCAL_OWNER)

    def check_new(self, name: str) -> None:
        """Raise BadName or NameTaken if no account can be added that is called so."""
        if not _NAME.fullmatch(name):
            rule = f"1 to {MAX_NAME} of the letters a to z, digits and . _ - @"
            raise BadName(f"name: expected {rule}, got {name[:80]!r}")
        if self._store.named(name):
            raise NameTaken(name)

    def named(self, name: str) -> User:
        """Return the account of a name; raises UserNotFound."""
        user = self._store.named(name)
        if user is None:
            raise UserNotFound(name)
        return user

    def log_in(self, name: str, password: str, address: str) -> User:
        """Return whose name and password these are; raises WrongPassword, and LimitExceeded for who may not try."""
        self._limiter.take("logins", address, LOGINS_PER_MINUTE, 60)
        called = name[: MAX_NAME + 1]  # no longer name is an account's, and what is counted is remembered
        with self._passwords.turn():  # or a busy moment would count as a wrong password
            self._lockout.begin(called, address)
            user = self._store.named(called)
            kept = user.password_hash if user else None
            if not self._passwords.check(kept, password) or user is None:
                raise WrongPassword
        self._lockout.succeed(called, address)
        if self._passwords.is_outdated(user.password_hash):
            self._strengthen(user, password)
        return user

    def change(
        self, user_id: str, *, password: str | None = None, is_admin: bool | None = None, keep_keys: bool = False
    ) -> User:
        """Change what is not None; another password ends all sessions, and all API keys unless they are to be kept.

        Raises BadPassword, UserNotFound, LastAdmin: nothing is changed then.
        """
        kept = None if password is None else self._passwords.hash(password)
        return self._store.change(user_id, password_hash=kept, is_admin=is_admin, keep_keys=keep_keys)

    def check_removable(self, user: User) -> None:
        """Raise NotRemovable for the account that cannot be removed."""
        if user.id == LOCAL_OWNER:
            raise NotRemovable(
                f"{user.name!r} is the first account, for which the command line acts: it cannot be removed."
            )

    def add_key(self, owner_id: str, name: str, scopes: Sequence[str]) -> tuple[ApiKey, str]:
        """Return a new API key as it is kept, and itself, which is not.

        Raises BadName, BadScopes, OwnerGone, TooManyKeys.
        """
        name = " ".join(clean(name).split())
        if not 1 <= len(name) <= MAX_KEY_NAME:
            raise BadName(f"name: expected 1 to {MAX_KEY_NAME} characters, got {len(name)}")
        for scope in scopes:
            if scope not in SCOPES:
                raise BadScopes(f"scopes: expected some of {', '.join(SCOPES)}, got {scope[:80]!r}")
        if not scopes:
            raise BadScopes(f"scopes: expected some of {', '.join(SCOPES)}, got none")
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        chosen = cast(list[Scope], [scope for scope in SCOPES if scope in scopes])
        kept = self._store.add_key(
            owner_id, name, chosen, prefix=key[:SHOWN_CHARS], digest=_digest(key), limit=MAX_KEYS
        )
        return kept, key

    def of_key(self, key: str) -> Identity | None:
        """Return who a key acts for; None if there is no such key, or no longer."""
        found = self._store.find_key(_digest(key))
        if found is None:
            return None
        kept, user = found
        if user is None and kept.owner_id != LOCAL_OWNER:
            return None
        if kept.last_used_at is None or utc_now() - kept.last_used_at > NOTE_USE_AFTER:
            self._note_use(kept)
        scopes = frozenset(cast(list[Scope], kept.scopes))
        if user and not user.is_admin:
            scopes -= {"metrics"}  # which are of all accounts
        return Identity(kept.owner_id, user.name if user else None, is_admin=False, scopes=scopes)

    def of_session(self, session: Session | None) -> Identity | None:
        """Return whose a session is, the local owner without one while there are no accounts; None for strangers."""
        users = self._store.some({LOCAL_OWNER, session.user_id} if session else {LOCAL_OWNER})
        if not users:
            return Identity(LOCAL_OWNER, None, is_admin=True)
        user = users.get(session.user_id) if session else None
        if session is None or user is None or user.session_epoch != session.epoch or self._store.has_ended(session.id):
            return None
        return Identity(user.id, user.name, is_admin=user.is_admin)

    def end_session(self, session: Session) -> None:
        """End one session: whoever has a copy of its token is a stranger then."""
        self._store.end_session(session.id, forget_before=utc_now() - LIFE)

    def _strengthen(self, user: User, password: str) -> None:
        try:
            self._store.rehash(user.id, user.password_hash, self._passwords.hash(password))
        except (LimitExceeded, StorageError) as error:  # the password was right, and the old hash is still good
            logger.warning("The password of account %s could not be hashed anew: %s", user.id, error)

    def _note_use(self, key: ApiKey) -> None:
        try:
            self._store.note_use(key.id)
        except StorageError as error:  # a disk that is full must not keep a program from reading
            logger.warning("The use of API key %s could not be noted: %s", key.id, error)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
