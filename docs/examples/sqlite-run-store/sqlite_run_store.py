"""Copies of runs in one file: an SQLite database."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass

from scalable_runs.stores import Object, RunStore, checked

_TABLE = (
    "CREATE TABLE IF NOT EXISTS objects"
    " (key TEXT PRIMARY KEY, data BLOB, modified REAL, version INTEGER) WITHOUT ROWID"
)
_PUT = (
    "INSERT INTO objects VALUES (?, ?, ?, 1) ON CONFLICT (key) DO UPDATE"
    " SET data = excluded.data, modified = excluded.modified, version = version + 1"
)


class SqliteStore(RunStore):
    """Several programs may write one run: a create is one transaction."""

    shared = True

    @dataclass(frozen=True)
    class Config:
        """The options in YAML: where the database is, and how long to wait for another writer."""

        path: str
        timeout: float = 30.0

    def __init__(self, config: Config) -> None:
        self.location = f"sqlite://{config.path}"
        self._config = config
        self._run(_TABLE)

    def _run(self, statement, values=()):
        try:
            with closing(sqlite3.connect(self._config.path, self._config.timeout)) as database:
                with database:
                    cursor = database.execute(statement, values)
                    return cursor.fetchall(), cursor.rowcount
        except sqlite3.Error as error:
            raise OSError(f"{self.location}: {error}") from error

    def get(self, key, start=0, length=None):
        length = 2**31 - 1 if length is None else length
        sql = "SELECT substr(data, ?, ?) FROM objects WHERE key = ?"
        rows, _ = self._run(sql, (start + 1, length, checked(key)))
        if not rows:
            raise FileNotFoundError(f"{self.location} has no object {key}")
        return rows[0][0] or b""  # SQLite has no part of an empty one

    def put(self, key, data):
        self._run(_PUT, (checked(key), data, time.time()))

    def create(self, key, data):
        sql = "INSERT OR IGNORE INTO objects VALUES (?, ?, ?, 1)"
        return self._run(sql, (checked(key), data, time.time()))[1] == 1

    def list(self, prefix="", after=""):
        sql = (
            "SELECT key, length(data), modified, version || '-' || modified FROM objects"
            " WHERE key > ? AND substr(key, 1, ?) = ? ORDER BY key"
        )
        return map(Object._make, self._run(sql, (after, len(prefix), prefix))[0])

    def delete(self, key):
        self._run("DELETE FROM objects WHERE key = ?", (checked(key),))
