"""New databases, migrated once and copied: that takes as long as many a test."""

from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from storage.database import Database


def new_database(path: Path) -> Database:
    """Return an open database over a new file."""
    path.write_bytes(_migrated())
    return Database(path)


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "parley.db"
        with closing(Database(path)) as database:
            database.migrate()
        return path.read_bytes()
