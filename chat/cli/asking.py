"""What commands ask their user for."""

import sys

import typer

from chat.settings import SettingsError


def read_password(from_stdin: bool) -> str:
    """Return the password that is typed twice, unseen, or that stdin has; raises SettingsError."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise SettingsError("password: there is no terminal to ask on: give it to --password-stdin")
    try:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    except typer.Abort:
        raise SettingsError("password: none was given, so nothing is changed") from None


def confirm(question: str) -> None:
    """Ask before something is erased; raises SettingsError without a yes."""
    if not sys.stdin.isatty():
        raise SettingsError("There is no terminal to ask on: say --yes if it is to be erased.")
    try:
        is_sure = typer.confirm(question)
    except typer.Abort:
        is_sure = False
    if not is_sure:
        raise SettingsError("Nothing is erased.")
