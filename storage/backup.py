"""Copies of the database: made while others write to it, checked before they have their name, and brought back."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

from storage.database import REVISIONS, SCHEMA, dbapi, explained, reason
from storage.errors import DatabaseTooNew, DatabaseUnusable, StorageError
from storage.tables import utc_now

PAGES = 1000  # that are copied between two calls of the progress function: 4 MB

Progress = Callable[[int, int], None]  # pages done, pages in all


class BackupExists(StorageError):
    """There is a file of that name; nothing has been written."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"There is already a file {path}: choose another name, or delete it.")


def back_up(path: Path, progress: Progress, target: Path | None = None) -> Path:
    """Copy a database as it is now, whoever else uses it, and return the copy's path.

    Its default name says when it was made, in UTC. Raises BackupExists, DatabaseUnusable, OSError.
    """
    if target is None:
        target = path.parent / "backups" / f"{path.stem}-{_stamp()}.db"
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _partial(target) as copy:
        if target.exists():  # asked once the partial file is ours, so that no other backup can come between
            raise BackupExists(target)
        _copy(path, "rw", copy, progress)
        copy.rename(target)
    _sync(target.parent)
    return target


def restore(backup: Path, path: Path, progress: Progress) -> Path | None:
    """Put a copy of a backup in a database's place; returns where the old database is now, if there was one.

    Nobody may have the database open, and it stays as it is unless all goes well.
    Raises DatabaseTooNew, DatabaseUnusable, OSError.
    """
    partial_path(path).unlink(missing_ok=True)  # of a restore that was cut off
    with _partial(path) as copy:
        _copy(backup, "ro", copy, progress)
        _check_schema(backup, copy)
        aside = _set_aside(path)
        copy.replace(path)
    _sync(path.parent)
    return aside


def copies_of(path: Path) -> list[Path]:
    """Return all files with copies of what a database has said: backups, old databases, copies that were cut off."""
    folder, backups = path.parent, path.parent / "backups"
    copies = [*backups.glob("*"), *folder.glob(f"{path.stem}-replaced-*"), partial_path(path)]
    return sorted(copy for copy in copies if copy.is_file())


def partial_path(path: Path) -> Path:
    """Return where a file is written until it is whole."""
    return path.with_name(f"{path.name}.partial")


def _stamp() -> str:
    return f"{utc_now():%Y%m%d-%H%M%S}"


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Make the file that becomes `target`, readable for its user alone; it goes again unless it is renamed."""
    partial = partial_path(target)
    try:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode=0o600))
    except FileExistsError:
        raise BackupExists(partial) from None
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: Path, mode: Literal["rw", "ro"], target: Path, progress: Progress) -> None:
    """Copy a database page by page into an empty file, check the copy and have it on the disk."""
    if not source.is_file():
        raise DatabaseUnusable(source, "there is no such file; choose another")
    try:
        with explained(source), closing(_open(source, mode)) as original:
            # One transaction for all pages, or each write of others would start the copy anew.
            original.execute("BEGIN")
            original.execute("SELECT count(*) FROM sqlite_master")
            with explained(target), closing(_open(target, "rw")) as copy:
                copy.execute("PRAGMA journal_mode=OFF")
                copy.execute("PRAGMA synchronous=OFF")
                original.backup(
                    copy, pages=PAGES, progress=lambda _, remaining, total: progress(total - remaining, total)
                )
                _check_sound(source, copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # WAL comes with the pages, and would need files beside it
    except UnicodeDecodeError:  # SQLite quotes what is damaged
        raise DatabaseUnusable(source, reason(source, sqlite3.SQLITE_CORRUPT)) from None
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _open(path: Path, mode: Literal["rw", "ro"]) -> sqlite3.Connection:
    connection: sqlite3.Connection = dbapi.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None
    )
    for pragma in ("busy_timeout=5000", "mmap_size=0", "trusted_schema=OFF", "cell_size_check=ON"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _check_sound(source: Path, copy: sqlite3.Connection) -> None:
    with explained(source):  # the copy is as the source is
        copy.execute(str(SCHEMA)).fetchall()
        [(found,)] = copy.execute("PRAGMA integrity_check(1)").fetchall()
        if found != "ok" or copy.execute("PRAGMA foreign_key_check").fetchone():
            raise DatabaseUnusable(source, reason(source, sqlite3.SQLITE_CORRUPT))


def _check_schema(backup: Path, copy: Path) -> None:
    """Raise DatabaseUnusable for a database of another program, DatabaseTooNew for one of a newer Parley."""
    with explained(copy), closing(_open(copy, "ro")) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
            raise DatabaseUnusable(backup, "it is not one of Parley; choose another file")
        [(revision,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    if revision not in REVISIONS:
        raise DatabaseTooNew(backup, revision, REVISIONS[-1])


def _set_aside(path: Path) -> Path | None:
    """Give a database a second name, under which it is kept, and return that."""
    if not path.exists():
        return None
    _fold(path)
    aside = path.with_name(f"{path.stem}-replaced-{_stamp()}.db")
    aside.hardlink_to(path)  # a link, so that the first name never stands for nothing
    return aside


def _fold(path: Path) -> None:
    """Bring the WAL back into its database, so that it is one file; raises DatabaseUnusable if others have it open."""
    try:
        with closing(_open(path, "rw")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # needs the file for itself
    except dbapi.DatabaseError as error:  # of a damaged one the WAL goes back when it is closed
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            with explained(path):
                raise
    assert not path.with_name(f"{path.name}-wal").exists(), "the next database would take this WAL for its own"


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
