"""Others than this machine's users reach the server only where there are accounts."""

import socket
from pathlib import Path
from typing import Any

import pytest
from accounts_app import PASSWORD
from command_line import run_app

from chat.reach import check_reach
from chat.settings import SettingsError, load_settings

OPEN: list[dict[str, Any]] = [
    {"host": "0.0.0.0"},
    {"host": "::"},
    {"host": ""},
    {"host": "192.0.2.1"},
    {"host": "localhost.evil.example"},
    {"hosts": "chat.example.org"},
    {"proxies": "10.0.0.0/8"},
]


def settings(data: Path, **values: str) -> Any:
    return load_settings(data=data, **values)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_on_loopback_no_account_is_needed(tmp_path: Path, host: str) -> None:
    check_reach(settings(tmp_path, host=host))


@pytest.mark.parametrize("values", OPEN, ids=str)
def test_beyond_it_there_must_be_one(tmp_path: Path, values: dict[str, str]) -> None:
    data = tmp_path / "data"
    with pytest.raises(SettingsError, match="there are no accounts.*: add one first, with `parley user add NAME`"):
        check_reach(settings(data, **values))
    assert not data.exists()
    run_app("user", "list", "--data", str(data))
    with pytest.raises(SettingsError):  # a database alone is no account
        check_reach(settings(data, **values))
    assert run_app("user", "add", "ada", "--password-stdin", "--data", str(data), text=PASSWORD).returncode == 0
    check_reach(settings(data, **values))


def test_the_server_asks_this_first(tmp_path: Path, tiny_path: Path) -> None:
    def refusal() -> str:
        port = str(taken.getsockname()[1])
        ended = run_app(
            "serve", "--host", "0.0.0.0", "--port", port, "--data", str(tmp_path), "--model", str(tiny_path)
        )
        assert ended.returncode == 2
        return ended.stderr

    with socket.create_server(("0.0.0.0", 0)) as taken:
        assert refusal().startswith("parley: host: others can reach '0.0.0.0', and there are no accounts")
        run_app("user", "add", "ada", "--password-stdin", "--data", str(tmp_path), text=PASSWORD)
        assert refusal().startswith("parley: Port ")  # it gets further then
