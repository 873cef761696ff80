"""The gate, the login and the routes on accounts over real databases, with passwords that are quickly hashed."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from argon2 import PasswordHasher
from conftest import ScriptedEngine
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from new_database import new_database

from chat.accounts import Accounts
from chat.api.accounts import account_routes
from chat.api.conversations import conversation_routes
from chat.api.errors import register_errors
from chat.api.gate import Gate
from chat.api.guard import Guard
from chat.api.login import login_routes
from chat.api.messages import message_routes
from chat.context import ContextBuilder
from chat.loaded_model import LoadedModel
from chat.passwords import Passwords
from chat.sessions import Sessions
from chat.workspace import Workspace, open_workspace
from model.checkpoint.checkpoint import Checkpoint
from model.engine.engine import Engine
from model.engine.generation import Generation, Usage
from model.sampling_params import SamplingParams

SECRET = bytes(range(32))
PASSWORD = "correct horse"


class ObedientEngine(ScriptedEngine):
    """Ends what is cancelled, as a real engine does."""

    def submit(self, *arguments: Any, **options: Any) -> Generation:
        generation = super().submit(*arguments, **options)
        generation._on_cancel = lambda: generation.finish("cancelled", Usage(7, 2, 3, None, 99.6))
        return generation


def quick_passwords() -> Passwords:
    """Argon2id with parameters that take no time."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@dataclass
class AccountsApp:
    """An application, and clients of it that are somebody."""

    app: FastAPI
    accounts: Accounts
    sessions: Sessions
    kept: Workspace
    temporary: Workspace
    engine: ObedientEngine

    def stranger(self, base_url: str = "http://testserver") -> TestClient:
        """Return a client that has no session yet, and follows no redirection."""
        return TestClient(self.app, base_url=base_url, follow_redirects=False, raise_server_exceptions=False)

    def add(self, name: str, *, is_admin: bool = False) -> str:
        """Add an account, and return its id."""
        return self.accounts.add(name, PASSWORD, is_admin=is_admin).id

    def logged_in(self, name: str) -> TestClient:
        """Return a client with a session of an account, which is added if there is none of its name."""
        if not self.kept.accounts.named(name):
            self.add(name)
        client = self.stranger()
        assert log_in(client, name).status_code == 303
        return client

    def key(self, owner_id: str, *scopes: str) -> dict[str, str]:
        """Return the headers with which a program comes that has a new key."""
        return {"Authorization": f"Bearer {self.accounts.add_key(owner_id, 'test', scopes)[1]}"}


def log_in(client: TestClient, name: str, password: str = PASSWORD, **fields: str) -> Response:
    """Send the form of the login page."""
    return client.post("/login", data={"name": name, "password": password, **fields})


@contextmanager
def open_accounts_app(path: Path, checkpoint: Checkpoint) -> Iterator[AccountsApp]:
    """Serve accounts and conversations over a new database."""
    engine = ObedientEngine()
    builder = ContextBuilder(checkpoint.chat_template, checkpoint.tokenizer, checkpoint.config.n_ctx)
    model = LoadedModel("tiny", "abc", cast(Engine, engine), builder, SamplingParams())
    with (
        closing(new_database(path)) as database,
        closing(new_database(path.with_name("temporary.db"))) as memory,
        open_workspace(database, lambda: model) as kept,
        open_workspace(memory, lambda: model) as temporary,
    ):
        accounts, sessions = Accounts(kept.accounts, quick_passwords()), Sessions(SECRET)
        app = FastAPI()
        app.add_middleware(Gate, accounts=accounts, sessions=sessions)
        app.add_middleware(Guard)
        register_errors(app)
        app.include_router(login_routes(accounts, sessions))
        app.include_router(account_routes(accounts, sessions, kept, temporary), prefix="/api")
        for workspace, prefix in ((kept, "/api"), (temporary, "/api/temporary")):
            app.include_router(conversation_routes(workspace), prefix=prefix)
            app.include_router(message_routes(workspace), prefix=prefix)
        yield AccountsApp(app, accounts, sessions, kept, temporary, engine)
        engine.close()
