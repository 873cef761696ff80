"""The folder of everything that is kept, which one process at a time may change."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout

from chat.progress import progress_bar
from chat.settings import SettingsError
from storage.backup import back_up
from storage.database import Database

LOCAL_OWNER = "local"  # whoever sits at this machine


@contextmanager
def lock_data(data: Path) -> Iterator[None]:
    """Make the data folder and hold its lock, so that no two processes write the same conversations."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = FileLock(data / "parley.lock", timeout=0).acquire()
    except Timeout:
        raise SettingsError(
            f"The data folder {data} is in use by another Parley: end that one, or choose another with --data."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The data folder {data} cannot be used ({error.strerror}): "
            "make it a writable folder, or choose another with --data."
        ) from None
    with held:
        yield


def upgrade(database: Database) -> None:
    """Bring a database to the newest schema; one that has rows in an older one is backed up before."""
    if database.is_outdated():
        with progress_bar("Backing up before the upgrade", "pages") as progress:
            back_up(database.path, progress)
    database.migrate()


@contextmanager
def open_database(data: Path, *, alone: bool = False) -> Iterator[Database]:
    """Open the database of a data folder with its newest schema, for this process `alone` or beside others.

    An older one is upgraded alone: a running Parley may be of the older version, and must not find a newer schema.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock_data(data) if alone else nullcontext(), closing(Database(data / "parley.db")) as database:
        with lock_data(data) if database.is_outdated() and not alone else nullcontext():
            upgrade(database)
        yield database
