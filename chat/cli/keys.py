"""`parley key`: the API keys with which programs come in, made, listed and revoked; Parley may be running."""

import json
from typing import Annotated, Any

import typer

from chat.accounts import SCOPES, Accounts, BadScopes
from chat.cli.flags import JsonFlag, takes_settings
from chat.data_folder import LOCAL_OWNER, open_database
from chat.settings import Settings, SettingsError
from storage.accounts import AccountStore
from storage.database import Database
from storage.tables import ApiKey

keys_cli = typer.Typer(help="The API keys with which programs come in.")

UserFlag = Annotated[str | None, typer.Option("--user", help="The account that the key acts for; the first without.")]


@keys_cli.command()
@takes_settings("data")
def add(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help=f"What it may do: {', '.join(SCOPES)}; repeatable.", metavar="SCOPE")
    ],
    user: UserFlag = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key, and print it this once: only a digest of it is kept."""
    with open_database(settings.data) as database:
        accounts = Accounts(AccountStore(database))
        owner_id = LOCAL_OWNER if user is None else accounts.named(user).id
        try:
            made, key = accounts.add_key(owner_id, name, scope)
        except BadScopes as error:
            raise SettingsError(str(error).replace("scopes", "--scope", 1)) from None
        row = _row(database, made)
    typer.echo(json.dumps({**row, "key": key}, ensure_ascii=False) if as_json else key)


@keys_cli.command("list")
@takes_settings("data")
def list_(
    settings: Settings,
    user: Annotated[str | None, typer.Option("--user", help="Only those of this account.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """List the keys that are not revoked."""
    with open_database(settings.data) as database:
        store = AccountStore(database)
        rows = [_row(database, key) for key in store.keys(user and Accounts(store).named(user).id)]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        for row in rows:
            _print(row)


@keys_cli.command()
@takes_settings("data")
def revoke(settings: Settings, key_id: Annotated[str, typer.Argument(help="As `parley key list` names it.")]) -> None:
    """End a key: it is refused from now on."""
    with open_database(settings.data) as database:
        AccountStore(database).revoke_key(key_id)


def _row(database: Database, key: ApiKey) -> dict[str, Any]:
    owner = AccountStore(database).some([key.owner_id]).get(key.owner_id)
    return {
        "id": key.id,
        "name": key.name,
        "user": owner.name if owner else None,
        "prefix": key.prefix,
        "scopes": key.scopes,
        "created_at": key.created_at.isoformat(),
        "last_used_at": key.last_used_at.isoformat() if key.last_used_at else None,
    }


def _print(row: dict[str, Any]) -> None:
    used = f"last used {row['last_used_at'][:10]}" if row["last_used_at"] else "never used"
    scopes = ",".join(row["scopes"])
    typer.echo("  ".join([row["id"], f"{row['prefix']}…", row["user"] or "local owner", scopes, used, row["name"]]))
