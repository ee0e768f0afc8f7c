"""The ledger's size and speed, through its public interface, in the order in which a worker calls it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain
from pathlib import Path

import pg
import psycopg

from bench.figures import Figure, Measured, Subject, Target
from bench.filled import receipt_of
from bench.stage import Stage
from migrate.ledger import Lease, Ledger, PlanEntry, ProcessIdentity, UserTally
from migrate.model import BatchInfo, CopyResult, Level, Outcome, Purpose, UserInfo
from migrate.worker.loop import GROUP_RESULTS
from migrate.worker.seals import Seals

_BATCH = 2_000  # the spec's default
_SMALL_BATCH = 10  # where only the batches count
_PLAN = "b" * 64
_USER = "u0000000"


@dataclass(frozen=True, slots=True)
class Filling:
    """A ledger with one user and one plan, whose batches are leased, recorded and ended."""

    ledger: Ledger
    plan_id: int
    run_id: int
    worker_id: int
    now: datetime
    size: int


def registered(url: str, batches: int, size: int = _BATCH, idle_users: int = 0) -> Filling:
    """A new ledger with `batches` batches of `size` copies of one user, and users for whom nothing is to be copied."""
    ledger, now = Ledger.open(url), datetime.now(UTC)
    run_id = ledger.start_run(
        verb="run",
        operator="bench",
        host="bench",
        country="IE",
        tool_version="bench",
        arguments={},
        plan=_PLAN,
        now=now,
    )
    copies = batches * size
    entry = PlanEntry(_PLAN, "bench", now, Level.CONTENT, 1 + idle_users, copies, copies, copies * 1024, batches)
    infos = [
        BatchInfo(number, 0, 1, size, size, size * 1024, sha256(b"%d" % number).digest())
        for number in range(1, batches + 1)
    ]
    where = ("IE", "IE", "planned", "eea-uk-1", "home", None, "all", 0)
    user = UserInfo(_USER, *where, copies, copies, copies * 1024, 1, batches)
    nothing = (0, 0, 0, None, None)
    others = (UserInfo(f"u{number:07d}", *where, *nothing) for number in range(1, idle_users + 1))
    plan_id = ledger.register(entry, infos, chain([user], others), run_id, now)
    return Filling(ledger, plan_id, run_id, ledger.start_worker(run_id, ProcessIdentity.current(), now), now, size)


def results(batch: int, size: int, now: datetime) -> list[CopyResult]:
    """The outcomes of a batch, with receipts as copying leaves them."""
    found = []
    for ordinal in range(size):
        body = b"%d %d" % (batch, ordinal)
        found.append(CopyResult(ordinal, Outcome.COPIED, receipt_of(ordinal, body, sha256(body).hexdigest()[:32], now)))
    return found


def record(filling: Filling, batches: int) -> tuple[list[Lease], float]:
    """Lease `batches` batches and record their receipts in groups. The leases, and the seconds that recording took."""
    sizes = dict.fromkeys(range(filling.size), 1024)
    leases, seconds = [], 0.0
    for number in range(1, batches + 1):
        lease = filling.ledger.lease(filling.plan_id, filling.worker_id, Purpose.COPY)
        assert lease is not None, "as many batches are pending as are asked for"
        leases.append(lease)
        made = results(number, filling.size, filling.now)
        begun = time.monotonic()
        for start in range(0, filling.size, GROUP_RESULTS):
            group = made[start : start + GROUP_RESULTS]
            filling.ledger.record(lease, group, sizes=sizes, run_id=filling.run_id, now=filling.now)
        seconds += time.monotonic() - begun
    return leases, seconds


def finish(filling: Filling, leases: Sequence[Lease], seals: Seals) -> float:
    """End the batches, with their seals; the seconds that it took."""
    begun = time.monotonic()
    for lease in leases:
        rows = filling.ledger.copy_rows(lease)
        receipts = [(row.ordinal, row.outcome, row.receipt) for row in rows if row.receipt is not None]
        seal = seals.write_receipts(lease.number, lease.fence, receipts)
        filling.ledger.finish_copy(lease, seal, {_USER: UserTally(good=len(rows))})
    return time.monotonic() - begun


def compact_size(path: Path) -> int:
    """The bytes of a SQLite ledger without free pages."""
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.commit()
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def sqlite(stage: Stage) -> Iterator[Measured]:
    """A million receipts, open and then sealed; and batches alone, sealed."""
    batches = stage.sizes.receipts // _BATCH
    folder = stage.folder("ledger")
    rates, cycles, opens, files = [], [], [], []
    for turn in range(stage.sizes.rounds):
        path = folder / f"ledger-{turn}.sqlite"
        filling = registered(f"sqlite:///{path}", batches)
        before = compact_size(path)
        leases, seconds = record(filling, batches)
        rates.append(batches * _BATCH / seconds)
        opens.append((compact_size(path) - before) / (batches * _BATCH))
        seals = Seals(folder / f"seals-{turn}", _PLAN)
        cycles.append(batches * _BATCH / (seconds + finish(filling, leases, seals)))
        filling.ledger.close()
        found = [file.stat().st_size for file in (folder / f"seals-{turn}").rglob("*.parquet")]
        files.append(sum(found) / (batches * _BATCH))
    yield Measured("ledger: an open receipt", opens)
    yield Measured("ledger: receipts a second", rates, note=f"in groups of {GROUP_RESULTS}, each durable")
    yield Measured(
        "ledger: receipts a second, to the seal", cycles, note="the batch's seal is written and chained, too"
    )
    yield Measured("ledger: a sealed receipt", files, note="in the batch's Parquet file")
    yield Measured("ledger: a user", [_user(folder, stage.sizes.sealed_batches)])
    yield Measured("ledger: a sealed batch", [_sealed_batch(folder, stage.sizes.sealed_batches)], note=_SEALED)


_SEALED = "its row among the batches, and its seal, in a ledger without free pages"


def _user(folder: Path, users: int) -> float:
    """The bytes of a user's row, with its indexes."""
    sizes = []
    for count in (0, users):
        path = folder / f"users-{count}.sqlite"
        registered(f"sqlite:///{path}", 1, _SMALL_BATCH, idle_users=count).ledger.close()
        sizes.append(compact_size(path))
    return (sizes[1] - sizes[0]) / users


def _sealed_batch(folder: Path, batches: int) -> float:
    """The bytes that a ledger grows by with a batch that is done, over an empty one."""
    sizes = []
    for count in (1, batches):
        path = folder / f"sealed-{count}.sqlite"
        filling = registered(f"sqlite:///{path}", count, _SMALL_BATCH)
        leases, _ = record(filling, count)
        finish(filling, leases, Seals(folder / f"sealed-{count}", _PLAN))
        filling.ledger.close()
        sizes.append(compact_size(path))
    return (sizes[1] - sizes[0]) / (batches - 1)


def postgres(stage: Stage) -> Iterator[Measured]:
    """The same on PostgreSQL."""
    batches = max(1, stage.sizes.receipts // _BATCH // 4)
    rates, opens = [], []
    with pg.postgres(durable=True) as server:
        for _ in range(stage.sizes.rounds):
            with server.database() as url:
                filling = registered(url, batches)
                before = _database_size(url)
                _, seconds = record(filling, batches)
                rates.append(batches * _BATCH / seconds)
                opens.append((_database_size(url) - before) / (batches * _BATCH))
                filling.ledger.close()
    yield Measured("ledger: PostgreSQL, an open receipt", opens)
    yield Measured("ledger: PostgreSQL, receipts a second", rates)


def _database_size(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM FULL")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(row[0]) if row else 0


def _bytes(name: str, most: float | None) -> Figure:
    return Figure(f"ledger: {name}", "bytes", target=None if most is None else Target(most=most, of_ratio=False))


SUBJECTS = (
    Subject(
        "ledger",
        (
            _bytes("an open receipt", 130),
            _bytes("a sealed batch", 200),
            _bytes("a user", None),
            Figure("ledger: receipts a second", "receipts/s", target=Target(least=50_000, of_ratio=False)),
            Figure("ledger: receipts a second, to the seal", "receipts/s"),
            _bytes("a sealed receipt", 80),
        ),
        sqlite,
    ),
    Subject(
        "ledger-postgres",
        (_bytes("PostgreSQL, an open receipt", None), Figure("ledger: PostgreSQL, receipts a second", "receipts/s")),
        postgres,
    ),
)
