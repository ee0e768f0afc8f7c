"""Waiting for SQLite's lock: in short waits, to an end, and no longer once a stop was asked for (design, section 7)."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ledgers import start_run

from migrate.errors import UnreachableError
from migrate.ledger import Ledger
from migrate.ledger.patience import ONE_WAIT_SECONDS


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture(params=["a writer", "a reader"])
def holder(request: pytest.FixtureRequest, ledger: Ledger, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection with an open transaction: of a writer, at which BEGIN waits, or of a reader, at which COMMIT does."""
    connection = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("BEGIN IMMEDIATE" if request.param == "a writer" else "BEGIN")
    connection.execute("SELECT count(*) FROM runs").fetchall()
    yield connection
    connection.close()


def test_a_write_goes_on_once_the_other_has_ended(ledger: Ledger, holder: sqlite3.Connection) -> None:
    """Several waits, one after the other, lose nothing and write nothing twice."""
    waits: list[float] = []
    waited = threading.Event()

    def watch() -> None:
        waits.append(time.monotonic())
        if len(waits) == 3:
            waited.set()

    ledger.heed(watch)
    writer = threading.Thread(target=start_run, args=(ledger,))
    writer.start()
    assert waited.wait(30)
    holder.execute("ROLLBACK")
    writer.join(30)
    assert len(ledger.runs(10)) == 1


def test_a_stop_ends_the_waiting_and_leaves_nothing_half_written(ledger: Ledger, holder: sqlite3.Connection) -> None:
    """Unreachable within two waits; the twin that is free is written at once, as the only row (Invariant 1)."""
    began = time.monotonic()
    ledger.heed(lambda: began)
    with pytest.raises(UnreachableError, match="locked"):
        start_run(ledger)
    assert time.monotonic() - began < 4 * ONE_WAIT_SECONDS + 1
    holder.execute("ROLLBACK")
    assert ledger.runs(10) == []
    start_run(ledger)
    assert len(ledger.runs(10)) == 1


def test_a_ledger_that_is_locked_is_opened_once_it_is_free(ledger: Ledger, tmp_path: Path) -> None:
    """Opening waits as any write does: its pragmas, too, meet another's commit on a slow disk, or a plan being registered."""
    connection = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(Ledger.open, ledger.url, create=False)
        with pytest.raises(TimeoutError):  # what does not wait fails after SQLite's own wait
            opening.result(4 * ONE_WAIT_SECONDS)
        connection.execute("ROLLBACK")
        opened = opening.result(30)
    assert opened.runs(10) == []
    opened.close()
    connection.close()


def test_what_is_not_a_lock_is_told_at_once(ledger: Ledger) -> None:
    """A statement that is wrong is not tried for half a minute."""
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no such table"), ledger._database.write() as connection:
        connection.exec_driver_sql("SELECT * FROM nowhere")
    assert time.monotonic() - began < 5
