"""Accounts and API keys: who they are, and how much is theirs."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from storage.database import Database
from storage.errors import StorageError
from storage.queries import check_owner
from storage.tables import ApiKey, Conversation, EndedSession, Message, Scope, Site, User, utc_now


class UserNotFound(StorageError):
    """There is no such account."""

    def __init__(self, user: str) -> None:
        super().__init__(f"There is no account {user!r}.")


class NameTaken(StorageError):
    """Another account has the name, be it in other letter cases."""

    def __init__(self, name: str) -> None:
        super().__init__(f"name: there is an account {name!r} already.")


class LastAdmin(StorageError):
    """Without this account nobody could administer the others."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name!r} is the only administrator: make another account one first.")


class TooManyKeys(StorageError):
    """The owner has as many API keys as one may have."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"There are {limit:,} API keys already, and no more are possible: revoke one first.")


class KeyNotFound(StorageError):
    """The owner has no such API key, or has revoked it."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"There is no API key {key_id}.")


@dataclass(frozen=True, slots=True)
class Holdings:
    """How much an owner has: counts, and never what it says."""

    n_conversations: int = 0
    n_messages: int = 0
    n_tokens: int = 0  # of prompts and replies
    last_active_at: datetime | None = None


class AccountStore:
    """All accounts and keys; one object serves all threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, password_hash: str, *, is_admin: bool, first_id: str) -> User:
        """Add an account, the first one with the given id and as an administrator; raises NameTaken."""
        with self._database.write() as session:
            if _by_name(session, name):
                raise NameTaken(name)
            user = User(name=name, password_hash=password_hash, is_admin=is_admin)
            if not session.scalar(select(exists(select(User.id)))):
                user.id, user.is_admin = first_id, True
            session.add(user)
        return user

    def all(self) -> list[User]:
        """Return the accounts, the oldest first."""
        with self._database.read() as session:
            return list(session.scalars(select(User).order_by(User.created_at, User.name)))

    def some(self, ids: Collection[str]) -> dict[str, User]:
        """Return those of these accounts that there are, by their ids."""
        with self._database.read() as session:
            return {user.id: user for user in session.scalars(select(User).where(User.id.in_(ids)))}

    def named(self, name: str) -> User | None:
        """Return the account of a name, in whatever letter cases."""
        with self._database.read() as session:
            return _by_name(session, name)

    def get(self, user_id: str) -> User:
        """Return an account; raises UserNotFound."""
        with self._database.read() as session:
            return find_user(session, user_id)

    def holdings(self) -> dict[str, Holdings]:
        """Return how much each owner has who has anything."""
        of_messages = (
            select(
                Message.conversation_id,
                func.count().label("n"),
                func.sum(func.coalesce(Message.prompt_tokens, 0) + func.coalesce(Message.completion_tokens, 0)).label(
                    "n_tokens"
                ),
            )
            .group_by(Message.conversation_id)
            .subquery()
        )
        query = (
            select(
                Conversation.owner_id,
                func.count(),
                func.coalesce(func.sum(of_messages.c.n), 0),
                func.coalesce(func.sum(of_messages.c.n_tokens), 0),
                func.max(Conversation.updated_at),
            )
            .outerjoin(of_messages, of_messages.c.conversation_id == Conversation.id)
            .group_by(Conversation.owner_id)
        )
        with self._database.read() as session:
            return {owner_id: Holdings(*counts) for owner_id, *counts in session.execute(query)}

    def change(
        self,
        user_id: str,
        *,
        password_hash: str | None = None,
        is_admin: bool | None = None,
        keep_keys: bool = False,
    ) -> User:
        """Change what is not None; another password ends all sessions, and all API keys unless they are to be kept.

        Raises UserNotFound, LastAdmin.
        """
        with self._database.write() as session:
            user = find_user(session, user_id)
            if is_admin is not None:
                if not is_admin:
                    check_other_admin(session, user)
                user.is_admin = is_admin
            if password_hash is not None:
                user.password_hash = password_hash
                user.session_epoch += 1
                if not keep_keys:
                    _revoke_keys(session, user_id)
        return user

    def rehash(self, user_id: str, old_hash: str, password_hash: str) -> None:
        """Keep another hash of the same password, unless the old hash is no longer the account's."""
        unchanged = update(User).where(User.id == user_id, User.password_hash == old_hash)
        with self._database.write() as session:
            session.execute(unchanged.values(password_hash=password_hash))

    def end_sessions(self, user_id: str) -> None:
        """End all sessions of an account, whose API keys stay; raises UserNotFound."""
        with self._database.write() as session:
            find_user(session, user_id).session_epoch += 1

    def end_session(self, session_id: str, *, forget_before: datetime) -> None:
        """End one session; those that had ended by a moment are forgotten."""
        with self._database.write() as session:
            session.execute(delete(EndedSession).where(EndedSession.ended_at < forget_before))
            session.merge(EndedSession(id=session_id, ended_at=utc_now()))

    def has_ended(self, session_id: str) -> bool:
        """Tell whether somebody has logged out of a session."""
        with self._database.read() as session:
            return session.get(EndedSession, session_id) is not None

    def lock_out(self, user_id: str) -> None:
        """End all sessions and API keys of an account, its password and its sites, so that nothing more comes from it.

        For who is to be erased, and administers nothing any more. Raises UserNotFound, LastAdmin.
        """
        with self._database.write() as session:
            user = find_user(session, user_id)
            check_other_admin(session, user)
            user.session_epoch += 1
            user.password_hash = ""  # that of no password
            user.is_admin = False  # or nobody might be left who can log in and administer
            _revoke_keys(session, user_id)
            session.execute(update(Site).where(Site.owner_id == user_id).values(enabled=False))

    def add_key(
        self, owner_id: str, name: str, scopes: Sequence[Scope], *, prefix: str, digest: str, limit: int
    ) -> ApiKey:
        """Add an API key, of which only the digest is kept.

        Raises OwnerGone, and TooManyKeys for an owner who has `limit` of them.
        """
        key = ApiKey(owner_id=owner_id, name=name, scopes=list(scopes), prefix=prefix, digest=digest)
        with self._database.write() as session:
            check_owner(session, owner_id)
            n_keys = session.scalar(select(func.count()).select_from(ApiKey).where(*_good_keys(owner_id)))
            if n_keys is not None and n_keys >= limit:
                raise TooManyKeys(limit)
            session.add(key)
        return key

    def keys(self, owner_id: str | None = None) -> list[ApiKey]:
        """Return the keys that are not revoked, of an owner or of all, the oldest first."""
        query = select(ApiKey).where(*_good_keys(owner_id)).order_by(ApiKey.created_at, ApiKey.id)
        with self._database.read() as session:
            return list(session.scalars(query))

    def find_key(self, digest: str) -> tuple[ApiKey, User | None] | None:
        """Return the key of a digest, unless it is revoked, and the account that it acts for, if that is one."""
        query = (
            select(ApiKey, User)
            .outerjoin(User, User.id == ApiKey.owner_id)
            .where(ApiKey.digest == digest, ApiKey.revoked_at.is_(None))
        )
        with self._database.read() as session:
            found = session.execute(query).one_or_none()
            return found and (found[0], found[1])

    def note_use(self, key_id: str) -> None:
        """Keep that a key is used now."""
        with self._database.write() as session:
            if key := session.get(ApiKey, key_id):
                key.last_used_at = utc_now()

    def revoke_key(self, key_id: str, owner_id: str | None = None) -> ApiKey:
        """End a key, of an owner or of whoever has it; raises KeyNotFound."""
        with self._database.write() as session:
            key = session.get(ApiKey, key_id)
            if key is None or key.revoked_at or owner_id not in (None, key.owner_id):
                raise KeyNotFound(key_id)
            key.revoked_at = utc_now()
        return key


def find_user(session: Session, user_id: str) -> User:
    """Return an account; raises UserNotFound."""
    user = session.get(User, user_id)
    if user is None:
        raise UserNotFound(user_id)
    return user


def check_other_admin(session: Session, user: User) -> None:
    """Raise LastAdmin if an account is the only administrator."""
    others = exists().where(User.is_admin, User.id != user.id)
    if user.is_admin and not session.scalar(select(others)):
        raise LastAdmin(user.name)


def _revoke_keys(session: Session, owner_id: str) -> None:
    session.execute(update(ApiKey).where(*_good_keys(owner_id)).values(revoked_at=utc_now()))


def _good_keys(owner_id: str | None) -> list[ColumnElement[bool]]:
    """Return what holds for the keys that are not revoked, of an owner or of all."""
    is_good = ApiKey.revoked_at.is_(None)
    return [is_good] if owner_id is None else [is_good, ApiKey.owner_id == owner_id]


def _by_name(session: Session, name: str) -> User | None:
    return session.scalar(select(User).where(func.lower(User.name) == name.lower()))
