"""`parley user`: the accounts, listed, added, given another password, and erased; Parley may be running."""

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from chat.accounts import Accounts
from chat.cli.asking import confirm, read_password
from chat.cli.flags import JsonFlag, takes_settings
from chat.cli.keeping import print_receipt
from chat.data_folder import open_database
from chat.settings import Settings
from storage.accounts import AccountStore, Holdings
from storage.erasure import ErasureStore
from storage.tables import User

users_cli = typer.Typer(help="The accounts of those who share this Parley. Without any, nobody needs to log in.")

NameArgument = Annotated[str, typer.Argument(help="The account's name.")]
StdinFlag = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the first line of stdin, and ask nothing.")
]


@users_cli.command()
@takes_settings("data")
def add(
    settings: Settings,
    name: NameArgument,
    admin: Annotated[bool, typer.Option("--admin", help="An administrator, as the first account always is.")] = False,
    password_stdin: StdinFlag = False,
) -> None:
    """Add an account. The first one takes over what is here, and everybody must log in from then on."""
    with open_database(settings.data) as database:
        accounts = Accounts(AccountStore(database))
        accounts.check_new(name)  # before anything is asked
        user = accounts.add(name, read_password(password_stdin), is_admin=admin)
    typer.echo(f"Added {user.name}{', an administrator' if user.is_admin else ''}.")


@users_cli.command("list")
@takes_settings("data")
def list_(settings: Settings, as_json: JsonFlag = False) -> None:
    """List the accounts, and how much each one has."""
    with open_database(settings.data) as database:
        store = AccountStore(database)
        users, holdings = store.all(), store.holdings()
    (print_users_as_json if as_json else print_users)(users, holdings)


@users_cli.command()
@takes_settings("data")
def passwd(settings: Settings, name: NameArgument, password_stdin: StdinFlag = False) -> None:
    """Change an account's password, which ends all its sessions and revokes its API keys."""
    with open_database(settings.data) as database:
        accounts = Accounts(AccountStore(database))
        user = accounts.named(name)
        accounts.change(user.id, password=read_password(password_stdin))


@users_cli.command()
@takes_settings("data")
def remove(
    settings: Settings,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
) -> None:
    """Erase an account with all that is its owner's, and print a receipt."""
    with open_database(settings.data) as database:
        store = AccountStore(database)
        accounts = Accounts(store)
        user = accounts.named(name)
        accounts.check_removable(user)
        if not yes:
            confirm(f"Erase {user.name}, and all conversations, presets, sites and keys of theirs?")
        store.lock_out(user.id)  # or who keeps sending would keep it off
        receipt = ErasureStore(database).erase_owner(user.id)
    print_receipt(receipt)


def print_users(users: Sequence[User], holdings: dict[str, Holdings]) -> None:
    """Print a line for each account."""
    for user in users:
        held = holdings.get(user.id, Holdings())
        role = "administrator" if user.is_admin else "user"
        last = f", last active {held.last_active_at:%Y-%m-%d}" if held.last_active_at else ""
        typer.echo(
            f"{user.name}  {role}  {held.n_conversations:,} conversations, {held.n_messages:,} messages, "
            f"{held.n_tokens:,} tokens{last}"
        )


def print_users_as_json(users: Sequence[User], holdings: dict[str, Holdings]) -> None:
    """Print accounts for a program."""
    rows = []
    for user in users:
        held = holdings.get(user.id, Holdings())
        rows.append(
            {
                "id": user.id,
                "name": user.name,
                "is_admin": user.is_admin,
                "created_at": user.created_at.isoformat(),
                "n_conversations": held.n_conversations,
                "n_messages": held.n_messages,
                "n_tokens": held.n_tokens,
                "last_active_at": held.last_active_at.isoformat() if held.last_active_at else None,
            }
        )
    typer.echo(json.dumps(rows))
