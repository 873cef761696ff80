"""The folder of everything that is kept: who may change it, and how an older database in it is upgraded."""

from pathlib import Path

import pytest
from conftest import upgrade

from chat.data_folder import lock_data, open_database
from chat.settings import SettingsError
from storage.database import Database


@pytest.fixture
def old_data(tmp_path: Path) -> Path:
    """A data folder whose database has the first schema."""
    database = Database(tmp_path / "parley.db")
    with database.write() as session:
        upgrade(session, "0001")
    database.close()
    return tmp_path


def test_an_older_database_is_backed_up_before_it_is_upgraded(old_data: Path) -> None:
    with open_database(old_data) as database:
        assert not database.is_outdated()
    [backup] = (old_data / "backups").iterdir()
    kept = Database(backup)
    assert kept.is_outdated()
    kept.close()


def test_a_current_or_new_database_is_not_backed_up(tmp_path: Path) -> None:
    for _ in range(2):
        with open_database(tmp_path):
            pass
    assert not (tmp_path / "backups").exists()


def test_an_older_database_is_upgraded_for_a_command_that_has_the_folder_alone(old_data: Path) -> None:
    with open_database(old_data, alone=True) as database:
        assert not database.is_outdated()
    assert len(list((old_data / "backups").iterdir())) == 1


def test_nobody_else_changes_a_folder_that_is_had_alone(tmp_path: Path) -> None:
    refused = pytest.raises(SettingsError, match="in use by another Parley")
    with open_database(tmp_path, alone=True), refused, lock_data(tmp_path):
        pass


def test_an_older_database_that_another_parley_uses_is_left_alone(old_data: Path) -> None:
    with lock_data(old_data), pytest.raises(SettingsError, match="in use by another Parley"), open_database(old_data):
        pass
    database = Database(old_data / "parley.db")
    assert database.is_outdated()
    database.close()
