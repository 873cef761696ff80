"""The secret is made once, readable for its user alone, and never one that can be guessed."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from command_line import run_app

from chat.secret import SECRET_BYTES, load_secret
from chat.settings import SettingsError


def test_it_is_made_once_and_kept(tmp_path: Path) -> None:
    secret = load_secret(tmp_path)
    assert len(secret) == SECRET_BYTES
    assert load_secret(tmp_path) == secret
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_those_who_start_at_once_have_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    together, link = Barrier(2, timeout=20), os.link

    def link_together(made: str, path: Path) -> None:
        together.wait()
        link(made, path)

    monkeypatch.setattr(os, "link", link_together)
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(load_secret, (tmp_path, tmp_path))
    assert first == second == load_secret(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_one_that_could_not_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        load_secret(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_is_made_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(made: Path, path: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    secret = load_secret(tmp_path)
    assert load_secret(tmp_path) == secret
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    assert load_secret(tmp_path) != load_secret(tmp_path / "other")


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    load_secret(tmp_path)
    os.umask(before)
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600


def test_what_a_crash_left_half_written_is_none(tmp_path: Path) -> None:
    (tmp_path / ".secret-x").write_bytes(b"half")
    assert len(load_secret(tmp_path)) == SECRET_BYTES


GUESSABLE = [
    b"",
    b"changeme",
    b"changeme" * 4,
    bytes(32),
    bytes(range(16)) * 2,
    b"the quick brown fox jumps over t",
    os.urandom(31),
    os.urandom(16).hex().encode(),
]


@pytest.mark.parametrize("secret", GUESSABLE, ids=range(len(GUESSABLE)))
def test_one_that_can_be_guessed_is_refused(tmp_path: Path, secret: bytes) -> None:
    (tmp_path / "secret.key").write_bytes(secret)
    with pytest.raises(SettingsError, match=r"secret\.key must be 32 random bytes") as refused:
        load_secret(tmp_path)
    assert "changeme" not in str(refused.value)
    assert (tmp_path / "secret.key").read_bytes() == secret


def test_a_server_does_not_start_with_one(tmp_path: Path, tiny_path: Path) -> None:
    (tmp_path / "secret.key").write_bytes(b"changeme" * 4)
    ended = run_app("serve", "--data", str(tmp_path), "--model", str(tiny_path), "--port", "0")
    assert ended.returncode == 2
    assert f"parley: The secret {tmp_path}/secret.key must be 32 random bytes" in ended.stderr
    assert "Traceback" not in ended.stderr
