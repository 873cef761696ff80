"""/account, /keys and /users: one's own account, API keys, and for administrators all accounts."""

import time
from collections.abc import Callable
from datetime import datetime

from fastapi import APIRouter
from fastapi import Request as Asked
from fastapi import Response as Answer
from pydantic import Field
from starlette.exceptions import HTTPException

from chat.accounts import Accounts, NoAccount, NotRemovable, OldPasswordNeeded
from chat.api.addresses import address_of
from chat.api.cookies import clear_session, set_session
from chat.api.errors import InvalidField, documented
from chat.api.identity import Admin, Person
from chat.api.schemas import Id, Response
from chat.given import Given, Text
from chat.identity import Identity
from chat.passwords import BadPassword
from chat.sessions import Sessions
from chat.workspace import Workspace
from storage.accounts import Holdings
from storage.erasure import Receipt
from storage.errors import ConversationBusy
from storage.tables import Scope, User

ERASURES = 5  # tries: what an account sent just before it was locked out may still begin a reply
SECONDS_BETWEEN = 0.2


class AccountModel(Response):
    """Who asks."""

    name: str | None = Field(
        description="Null for the local owner, who needs no login while there are no accounts.", examples=["ada"]
    )
    is_admin: bool = Field(examples=[False])
    has_accounts: bool = Field(examples=[True])


class PasswordChange(Given):
    """The password as it is, and as it is to be."""

    old: Text = Field(examples=["correct horse battery"])
    new: Text = Field(description="10 to 200 characters.")


class KeyModel(Response):
    """An API key, without itself."""

    id: Id
    name: str = Field(examples=["notebook"])
    prefix: str = Field(description="Its first characters.", examples=["parley_Xk3fA"])
    scopes: list[Scope]
    created_at: datetime
    last_used_at: datetime | None = Field(description="To within an hour.")


class Keys(Response):
    """One's API keys that are not revoked, the oldest first."""

    keys: list[KeyModel]


class NewKey(Given):
    """What a key is for."""

    name: Text = Field(examples=["notebook"])
    scopes: list[Scope] = Field(
        min_length=1,
        description="completions: /v1; read: GET of /api; write: all of /api but accounts, keys, backups and loading "
        "models; metrics: /metrics, for administrators.",
        examples=[["completions"]],
    )


class CreatedKey(KeyModel):
    """A new key, which is shown this once."""

    key: str = Field(examples=["parley_Xk3fA…"])


class UserModel(Response):
    """An account, and how much is its owner's: counts, and never what it says."""

    id: Id
    name: str = Field(examples=["ada"])
    is_admin: bool
    created_at: datetime
    n_conversations: int
    n_messages: int
    n_tokens: int = Field(description="Of prompts and replies.")
    last_active_at: datetime | None


class Users(Response):
    """All accounts, the oldest first."""

    users: list[UserModel]


class NewUser(Given):
    """A new account."""

    name: Text = Field(description="1 to 60 of the letters a to z, digits and . _ - @", examples=["ada"])
    password: Text = Field(description="10 to 200 characters.", examples=["correct horse battery"])
    is_admin: bool = Field(False, description="The first account is an administrator in any case.")


class UserChange(Given):
    """What is to be changed of an account; what is left out stays."""

    password: Text = Field(
        "",
        description="Of another's account, all of whose sessions and API keys end; POST /account/password is for one's "
        "own.",
        examples=["correct horse battery"],
    )
    is_admin: bool = False


def account_routes(accounts: Accounts, sessions: Sessions, kept: Workspace, temporary: Workspace) -> APIRouter:
    """Return the routes on one's own account and keys, and on all accounts."""
    routes = APIRouter()
    for own in (
        _own_routes(accounts, sessions, kept),
        _key_routes(accounts, kept),
        _user_routes(accounts, kept, temporary),
    ):
        routes.include_router(own)
    return routes


def _own_routes(accounts: Accounts, sessions: Sessions, kept: Workspace) -> APIRouter:
    routes = APIRouter(prefix="/account", tags=["account"])

    @routes.get("", summary="Who asks", responses=documented())
    def read_account(person: Person) -> AccountModel:
        """The local owner, while there are no accounts; an account then."""
        return AccountModel(name=person.name, is_admin=person.is_admin, has_accounts=accounts.exist)

    @routes.post("/password", status_code=204, summary="Change one's password", responses=documented(403, 409))
    def change_password(person: Person, change: PasswordChange, asked: Asked, answer: Answer) -> None:
        """All other sessions of the account end; its API keys stay, for each can be revoked by itself."""
        name = _account_name(person)
        accounts.log_in(name, change.old, address_of(asked.scope))
        try:
            user = accounts.change(person.owner_id, password=change.new, keep_keys=True)
        except BadPassword as error:
            raise InvalidField("new", str(error).replace("password", "new", 1), "bad_password") from None
        set_session(answer.headers, asked.scope, sessions.issue(user.id, user.session_epoch))

    @routes.post("/logout-everywhere", status_code=204, summary="End all one's sessions", responses=documented(409))
    def log_out_everywhere(person: Person, asked: Asked, answer: Answer) -> None:
        """This one too; API keys stay, as they are no sessions."""
        _account_name(person)
        kept.accounts.end_sessions(person.owner_id)
        clear_session(answer.headers, asked.scope)

    return routes


def _key_routes(accounts: Accounts, kept: Workspace) -> APIRouter:
    routes = APIRouter(prefix="/keys", tags=["account"])

    @routes.get("", summary="List one's API keys", responses=documented())
    def list_keys(person: Person) -> Keys:
        """Without those that are revoked."""
        return Keys(keys=[KeyModel.model_validate(key) for key in kept.accounts.keys(person.owner_id)])

    @routes.post("", status_code=201, summary="Make an API key", responses=documented(409))
    def add_key(person: Person, new: NewKey) -> CreatedKey:
        """The key is in the answer, and nowhere else: only a digest of it is kept."""
        if "metrics" in new.scopes and not person.is_admin:
            raise HTTPException(403, "Only an administrator may make a key for metrics, which are of all accounts.")
        made, key = accounts.add_key(person.owner_id, new.name, new.scopes)
        return CreatedKey(**KeyModel.model_validate(made).model_dump(), key=key)

    @routes.delete("/{key_id}", status_code=204, summary="Revoke an API key", responses=documented(404))
    def revoke_key(person: Person, key_id: str) -> None:
        """It is refused from now on."""
        kept.accounts.revoke_key(key_id, person.owner_id)

    return routes


def _user_routes(accounts: Accounts, kept: Workspace, temporary: Workspace) -> APIRouter:
    routes = APIRouter(prefix="/users", tags=["account"])

    @routes.get("", summary="List the accounts", responses=documented(403))
    def list_users(admin: Admin) -> Users:
        """How much each one has is counted; what it says is its owner's alone."""
        holdings = kept.accounts.holdings()
        return Users(users=[_user(user, holdings) for user in kept.accounts.all()])

    @routes.post("", status_code=201, summary="Add an account", responses=documented(403, 409))
    def add_user(admin: Admin, new: NewUser) -> UserModel:
        """The first one takes over what was the local owner's, and everybody must log in from then on."""
        return _user(accounts.add(new.name, new.password, is_admin=new.is_admin), kept.accounts.holdings())

    @routes.patch("/{user_id}", summary="Change an account", responses=documented(403, 404, 409))
    def change_user(admin: Admin, user_id: str, change: UserChange) -> UserModel:
        """The last administrator stays one. A new password for somebody else revokes all API keys of theirs."""
        given = change.model_dump(exclude_unset=True)
        if user_id == admin.owner_id and "password" in given:
            raise OldPasswordNeeded
        return _user(accounts.change(user_id, **given), kept.accounts.holdings())

    @routes.delete("/{user_id}", status_code=204, summary="Erase an account", responses=documented(403, 404, 409))
    def remove_user(admin: Admin, user_id: str) -> None:
        """It is locked out and its replies are stopped; then all that is its owner's is erased.

        Who is refused with conversation_busy asks again: the account stays locked out.
        """
        user = kept.accounts.get(user_id)
        if user.id == admin.owner_id:
            raise NotRemovable("Your own account cannot be removed by yourself.")
        accounts.check_removable(user)
        kept.accounts.lock_out(user.id)
        # the account goes with what is kept: last, for nobody can remove it a second time
        for workspace, erase in ((temporary, temporary.erasure.erase_all), (kept, kept.erasure.erase_owner)):
            for conversation_id in _erase(workspace, user.id, erase).conversation_ids:
                workspace.bus.publish(user.id, conversation_id)

    return routes


def _erase(workspace: Workspace, owner_id: str, erase: Callable[[str], Receipt]) -> Receipt:
    """Erase what is an owner's, whose replies are stopped; raises ConversationBusy if there are ever new ones."""
    for _ in range(ERASURES - 1):
        _stop_replies(workspace, owner_id)
        try:
            return erase(owner_id)
        except ConversationBusy:
            time.sleep(SECONDS_BETWEEN)
    _stop_replies(workspace, owner_id)
    return erase(owner_id)


def _stop_replies(workspace: Workspace, owner_id: str) -> None:
    for conversation_id in workspace.erasure.busy(owner_id):
        if turn := workspace.manager.turn(owner_id, conversation_id):
            turn.stop()
            turn.join()


def _account_name(person: Identity) -> str:
    if person.name is None:
        raise NoAccount
    return person.name


def _user(user: User, holdings: dict[str, Holdings]) -> UserModel:
    held = holdings.get(user.id, Holdings())
    return UserModel(
        id=user.id,
        name=user.name,
        is_admin=user.is_admin,
        created_at=user.created_at,
        n_conversations=held.n_conversations,
        n_messages=held.n_messages,
        n_tokens=held.n_tokens,
        last_active_at=held.last_active_at,
    )
