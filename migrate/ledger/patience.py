"""Waiting for SQLite's lock, so that a signal is heard meanwhile.

Nothing can interrupt SQLite while it waits by itself. So its own waits are short, and stand in a loop: between two of them
Python runs its signal handlers, and the loop ends early once a stop was asked for. A statement that was refused as busy has
done nothing, and a COMMIT that was leaves its transaction open (sqlite.org, "SQLITE_BUSY"): each can be tried again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 30.0
ONE_WAIT_SECONDS = 0.25  # SQLite's own
_PAUSE_SECONDS = 0.01  # where SQLite sees that waiting is of no use, it does not wait


class Patience:
    """How long the connections of one ledger wait. `gives_up_at`: in `time.monotonic` seconds, None while nobody says stop."""

    def __init__(self) -> None:
        self.gives_up_at: Callable[[], float | None] = lambda: None

    def wait_for(self, call: Callable[[], T]) -> T:
        """What `call` returns; sqlite3.OperationalError where the lock could not be had in time."""
        until = time.monotonic() + BUSY_TIMEOUT_SECONDS
        while True:
            try:
                return call()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY):
                    raise
                asked = self.gives_up_at()
                if time.monotonic() >= (until if asked is None else min(until, asked)):
                    raise
                time.sleep(_PAUSE_SECONDS)


class PatientCursor(sqlite3.Cursor):
    """Waits in `execute`. What has many rows stands in a transaction that has the lock already."""

    def execute(self, *words: Any) -> PatientCursor:
        connection = self.connection
        assert isinstance(connection, PatientConnection)
        return connection.patience.wait_for(lambda: super(PatientCursor, self).execute(*words))


class PatientConnection(sqlite3.Connection):
    """Waits in `execute` and `commit`, as long as its ledger's patience lasts."""

    def __init__(
        self, path: str, *, patience: Patience, check_same_thread: bool = True, factory: object = None
    ) -> None:  # `factory` is this class, and comes along
        super().__init__(path, timeout=ONE_WAIT_SECONDS, check_same_thread=check_same_thread)
        self.patience = patience

    def cursor(self, factory: Any = PatientCursor) -> Any:
        return super().cursor(factory)

    def execute(self, *words: Any) -> Any:  # sqlite3's own does not go by the cursor's `execute`
        return self.cursor().execute(*words)

    def commit(self) -> None:
        self.patience.wait_for(super().commit)
