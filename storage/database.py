"""The SQLite file: how it is opened, who may write when, and which schema it has.

One connection writes, and its transactions begin IMMEDIATE: a reader that turns into a writer would fail
at once with "database is locked", whatever its timeout. Four more connections read, and cannot write.
"""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from storage.errors import DatabaseTooNew, DatabaseUnusable
from storage.fair_lock import FairLock

try:
    from pysqlite3 import dbapi2  # brings a newer SQLite than most Pythons are linked with

    dbapi = dbapi2
except ImportError:
    dbapi = sqlite3

logger = logging.getLogger(__name__)

PRAGMAS = (
    "busy_timeout=5000",
    "journal_mode=WAL",
    "synchronous=FULL",  # NORMAL may lose the last acknowledged messages when the power fails
    "foreign_keys=ON",
    "secure_delete=ON",
    # before 3.45, triggers could not write into the search index then
    f"trusted_schema={'OFF' if tuple(map(int, dbapi.sqlite_version.split('.'))) >= (3, 45) else 'ON'}",
    "cell_size_check=ON",
    "mmap_size=0",  # an I/O error under a memory map is a SIGBUS instead of an exception
    "wal_autocheckpoint=1000",
    "journal_size_limit=16777216",
)

REASONS = {
    sqlite3.SQLITE_ERROR: "its tables are not those of Parley; move it away or choose another data folder",
    sqlite3.SQLITE_BUSY: "another program keeps it locked; close that program and try again",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its folder writable",
    sqlite3.SQLITE_IOERR: "reading or writing it failed; check the disk",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; make the file and its folder writable",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database; move it away or choose another data folder",
}

# What a backup fails with has no code, but a text.
CODES = {"database or disk is full": sqlite3.SQLITE_FULL, "disk I/O error": sqlite3.SQLITE_IOERR}

IN_MEMORY = Path(":memory:")  # what SQLite takes for the name of a file that is none

VERSIONS = Path(__file__).parent / "migrations" / "versions"
SCHEMA = text("SELECT type, name, sql FROM sqlite_master")  # integrity_check passes types that are no UTF-8
REVISIONS = sorted(file.name[:4] for file in VERSIONS.glob("[0-9]*.py"))


def sqlite_version() -> str:
    """The version of the SQLite library in use."""
    return str(dbapi.sqlite_version)


def has_wal_reset_bug(version: str) -> bool:
    """Whether two connections may corrupt a WAL file in this SQLite: https://sqlite.org/wal.html#walresetbug"""
    found = tuple(int(part) for part in version.split("."))
    fixed = found >= (3, 51, 3) or (3, 50, 7) <= found < (3, 51) or (3, 44, 6) <= found < (3, 45)
    return not fixed


def backups_of(path: Path) -> list[Path]:
    """Return the backups in the folder beside a database, the oldest first: their names say when they were made."""
    return sorted((path.parent / "backups").glob(f"{path.stem}-*.db"))


def reason(path: Path, code: int) -> str:
    """Return why a database cannot be used, by a primary result code of SQLite, and the newest backup if it helps."""
    backups = backups_of(path) if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else []
    return f"{REASONS[code]}; the newest backup is {backups[-1]}" if backups else REASONS[code]


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise DatabaseUnusable for what SQLite says of a file."""
    try:
        yield
    except NoConnection as error:
        raise DatabaseUnusable(path, "too many use it at once; try again") from error
    except (DatabaseError, dbapi.DatabaseError) as error:
        original = getattr(error, "orig", error)
        # The low byte is SQLite's primary result code; the others tell details of it.
        code = getattr(original, "sqlite_errorcode", CODES.get(str(original), 0)) & 0xFF
        if str(original).startswith("Could not decode to UTF-8"):  # without a code, and never written so
            code = sqlite3.SQLITE_CORRUPT
        if code not in REASONS:
            raise
        raise DatabaseUnusable(path, reason(path, code)) from error


class Database:
    """An SQLite file, created readable for its user alone. Threads may share it."""

    def __init__(self, path: Path | None) -> None:
        """Open a file, or, for None, a database that is in memory alone and is gone when it is closed."""
        self.path = path or IN_MEMORY
        self._turn_to_write = FairLock()
        if path is None:
            pragmas = (*PRAGMAS, "temp_store=MEMORY")
            self._writer = self._reader = _engine(IN_MEMORY, begin="BEGIN IMMEDIATE", pool_size=1, pragmas=pragmas)
            return
        _create(path)
        self._writer = _engine(path, begin="BEGIN IMMEDIATE", pool_size=1, pragmas=PRAGMAS)
        if has_wal_reset_bug(sqlite_version()):
            logger.warning("SQLite %s can corrupt a busy file: using one connection only", sqlite_version())
            self._reader = self._writer
        else:
            self._reader = _engine(path, begin="BEGIN", pool_size=4, pragmas=(*PRAGMAS, "query_only=ON"))

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the database from its first query on."""
        with explained(self.path), Session(self._reader, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose changes are all on the disk at the end, or none of them after an exception.

        Writers wait for each other: do nothing slow inside, and open no other session of this database.
        """
        with (
            self._turn_to_write,
            explained(self.path),
            Session(self._writer, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    def check(self) -> None:
        """Read the whole file, for the start: raises DatabaseUnusable if its structure or an index is damaged.

        Measured: 0.7 to 1 s for each 100 MB that the system has in memory, 2 s from a slow disk.
        """
        try:
            with self.read() as session:
                session.execute(SCHEMA).all()
                found = session.scalar(text("PRAGMA integrity_check(1)"))
        except UnicodeDecodeError:  # SQLite quotes what is damaged
            found = None
        if found != "ok":
            raise DatabaseUnusable(self.path, reason(self.path, _code_in(found or "")))

    def is_outdated(self) -> bool:
        """Whether the file has an older schema, which `migrate` would change."""
        with explained(self.path), self._writer.begin() as connection:
            return _revision(connection) in REVISIONS[:-1]

    def migrate(self) -> None:
        """Bring the schema to the newest revision, in one transaction; raises DatabaseTooNew."""
        with explained(self.path), self._writer.begin() as connection:
            found = _revision(connection)
            if found == REVISIONS[-1]:
                return
            if found is not None and found not in REVISIONS:
                raise DatabaseTooNew(self.path, found, REVISIONS[-1])
            _upgrade(connection)

    def close(self) -> None:
        """Close all connections; the last one folds the WAL file back into the database."""
        self._reader.dispose()
        self._writer.dispose()


def _code_in(found: str) -> int:
    """Return the result code that an integrity check tells of: a page may be unreadable rather than damaged."""
    code = re.search(r"error code=(\d+)", found)
    is_known = code and int(code[1]) & 0xFF in REASONS
    return int(code[1]) & 0xFF if code and is_known else sqlite3.SQLITE_CORRUPT


def _create(path: Path) -> None:
    # O_EXCL, as an existing file must not be opened here: closing it would drop this process's locks on it.
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, mode=0o600))
    except FileExistsError:
        if path.is_dir():
            raise DatabaseUnusable(path, "it is a folder; choose a file") from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise DatabaseUnusable(path, REASONS[sqlite3.SQLITE_READONLY]) from None
    except OSError as error:
        raise DatabaseUnusable(path, f"it cannot be created ({error.strerror}); check its folder") from error


def _engine(path: Path, *, begin: str, pool_size: int, pragmas: tuple[str, ...]) -> Engine:
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=dbapi,
        poolclass=QueuePool,  # for a database in memory too: threads take turns at its one connection
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=30,
        hide_parameters=True,  # they are conversations, and errors get into logs
        # None keeps the driver from its own BEGIN, which comes late and is never IMMEDIATE; and the pool gives a
        # connection to one thread at a time.
        connect_args={"isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def set_pragmas(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _upgrade(connection: Connection) -> None:
    # Imported here, since a start with a current schema has no use for Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "storage:migrations")
    command.upgrade(config, "head")
