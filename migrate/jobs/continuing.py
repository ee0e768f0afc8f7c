"""What a delta has to know of the plans before it: for which of their copies nothing is left to do, and what stands where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

import duckdb

from migrate.errors import SealLostError
from migrate.jobs.at_stores import etag_at
from migrate.jobs.elsewhere import demand_newest
from migrate.jobs.registered import no_copy_yet, registered
from migrate.ledger import Ledger, SealKind
from migrate.model import TOMBSTONES, Outcome, TargetRole, Verdict
from migrate.planner.digest import OBJECTS
from migrate.planner.folder import Plan, open_reader
from migrate.planner.kept import parents_of
from migrate.planner.line import CopyRef, Line
from migrate.sql import literal
from migrate.stopping import Stopping, never
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

_CHUNK = 10_000
_REMEMBERED = 16  # batches: they are asked for in order


@dataclass(frozen=True, slots=True)
class _Known:
    """Of one batch: the ETags of the receipts by ordinal, and the ordinals for which nothing is left to do or to prove. None: the
    copy drifted, and nobody knows whether a process that died has made it before."""

    etags: dict[int, str | None]
    sound: frozenset[int]


class LineReader:
    """Reads the line that a delta of `plan` continues. To be closed when the delta is built.

    LaterError where nothing of the plan was run, or a batch is under way; RefusedError where another delta continues it.
    """

    def __init__(self, plan: Plan, workspace: Workspace, ledger: Ledger) -> None:
        demand_newest(plan, ledger)
        self._plans = [*parents_of(plan), plan]
        self._ledger = ledger
        self._ids = [_id_of(each, ledger) for each in self._plans]
        ledger.demand_at_rest(self._ids)
        self._level = plan.spec.verify.level
        self._held = ExitStack()
        self._seals: list[Seals] = []
        for each in self._plans:
            seals = Seals(workspace.seals, each.digest)
            self._held.callback(seals.close)
            self._seals.append(seals)
        self._known = lru_cache(_REMEMBERED)(self._read)
        self._late_etags: dict[int, str | None] = {}
        self._back = frozenset(ledger.users_back(self._ids))

    def line(self, scratch: Path, opener: Callable[[str], Store], is_stopping: Stopping = never) -> Line:
        """The line; what it is told by lies in `scratch`. InterruptedRun when stopped.

        `opener` opens the targets: what a cutover that was killed has left there is asked for.
        """
        mark = self._ledger.mark_of(self._ids)
        away, unsound = scratch / "away.parquet", scratch / "unsound.parquet"
        for plan in self._plans:  # what is compared with the sources must be what was planned
            plan.check_users(is_stopping)
            plan.check_copies([batch.number for batch in plan.batches()], is_stopping)
        late = scratch / "late.parquet"
        connection = open_reader(spill=scratch)
        try:
            _write_users(connection, "away", self._ledger.users_away(self._ids), away)
            self._write_late(connection, late, Caller(opener, concurrency=lambda _: 1))
            self._find_unsound(connection, scratch, unsound, is_stopping)
        finally:
            connection.close()
        return Line(self._plans, away, unsound, late, self._receipts, mark)

    def close(self) -> None:
        self._held.close()

    def _write_late(self, connection: duckdb.DuckDBPyConnection, path: Path, caller: Caller) -> None:
        """Write down what cutovers have copied late, as one batch of a plan behind the newest. Copies of which nothing is proved
        are unsound; of the others the ETags are kept."""
        place = len(self._plans)
        connection.execute(f"CREATE TEMP TABLE late ({', '.join(f'{name} {kind}' for name, kind in OBJECTS.columns)})")
        connection.execute("CREATE TEMP TABLE unsound_late (plan INTEGER, batch INTEGER, ordinal INTEGER)")
        ordinal = 0
        copies = self._ledger.late_copies(self._ids)
        for _, group in groupby(copies, key=lambda copy: (copy.user_id, copy.store, copy.key)):
            of_object = {copy.role: copy for copy in group}
            home, backup = of_object[TargetRole.HOME], of_object.get(TargetRole.BACKUP)
            connection.execute(
                f"INSERT INTO late VALUES ({', '.join('?' * len(OBJECTS.columns))})",
                [
                    0,
                    ordinal,
                    home.user_id,
                    home.store,
                    home.key,
                    home.version_id,
                    home.etag,
                    home.size,
                    home.last_modified.replace(tzinfo=None),
                    home.category.value,
                    home.rule,
                    home.flag,
                    home.target_store,
                    None if backup is None else backup.target_store,
                    None,
                    None,
                    home.target_key,
                ],
            )
            is_back = home.user_id in self._back
            for step, copy in enumerate(each for each in (home, backup) if each is not None):
                if copy.receipt is not None:
                    self._late_etags[ordinal + step] = copy.receipt.etag
                elif copy.seen is not None and is_back and copy.role is TargetRole.BACKUP:
                    self._late_etags[ordinal + step] = copy.seen  # a rollback has seen that the backup site lagged
                if copy.receipt is not None and not is_back:
                    continue
                connection.execute("INSERT INTO unsound_late VALUES (?, 0, ?)", [place, ordinal + step])
                if copy.receipt is not None or is_back:
                    continue
                # nobody else writes at a target before the user lives there
                stands = etag_at(copy.target_store, copy.target_key, caller)
                if stands is None and copy.flag in TOMBSTONES:
                    stands = copy.seen  # it may be behind a delete marker
                if stands is not None:
                    self._late_etags[ordinal + step] = stands
            ordinal += 2
        connection.execute(f"COPY (FROM late ORDER BY ordinal) TO {literal(str(path))} (FORMAT parquet)")

    def _find_unsound(
        self, connection: duckdb.DuckDBPyConnection, scratch: Path, path: Path, is_stopping: Stopping
    ) -> None:
        """Write down the copies for which something is left to do. Of who is verified there are none, and no receipt is read;
        of who went back all, since the platform has written to their targets."""
        users = self._ledger.unproven_users(self._ids)
        _write_users(connection, "unproven", users, scratch / "unproven.parquet")
        connection.execute("CREATE TEMP TABLE sound (plan INTEGER, batch INTEGER, ordinal INTEGER)")
        for place, plan in enumerate(self._plans):
            begun = self._ledger.begun_batches(self._ids[place])
            for number in sorted(_batches_of(connection, plan) & begun):
                sound = sorted(self._known(place, number).sound)
                connection.execute(
                    "INSERT INTO sound SELECT ?, ?, unnest(CAST(? AS INTEGER[]))", [place, number, sound]
                )
        _write_users(connection, "back", iter(sorted(self._back)), scratch / "back.parquet")
        copies = " UNION ALL ".join(
            f"SELECT {place} AS plan, batch, ordinal, user_id FROM {plan.relation('copies')} AS c SEMI JOIN unproven AS u "
            "ON c.user_id = u.user_id"
            for place, plan in enumerate(self._plans)
        )
        connection.execute(
            f"COPY (SELECT c.plan, c.batch, c.ordinal FROM ({copies}) AS c LEFT JOIN sound AS s "
            "ON c.plan = s.plan AND c.batch = s.batch AND c.ordinal = s.ordinal "
            "WHERE s.plan IS NULL OR c.user_id IN (SELECT user_id FROM back) "
            f"UNION ALL FROM unsound_late) TO {literal(str(path))} (FORMAT parquet)"
        )

    def _receipts(self, copies: Sequence[CopyRef]) -> Iterable[tuple[int, int, int, str | None]]:
        for (place, number), group in groupby(copies, key=lambda copy: copy[:2]):
            if place == len(self._plans):
                etags = self._late_etags
                yield from ((place, number, ordinal, etags[ordinal]) for *_, ordinal in group if ordinal in etags)
                continue
            etags = self._known(place, number).etags
            yield from ((place, number, ordinal, etags[ordinal]) for *_, ordinal in group if ordinal in etags)

    def _read(self, place: int, number: int) -> _Known:
        proof, reader = self._ledger.proof(self._ids[place], number, self._level), self._seals[place]
        etags: dict[int, str | None] = {}
        received: dict[int, int] = {}
        matched: dict[int, int] = {}
        for seal in proof.seals:
            if seal.kind is SealKind.RECEIPTS:
                try:
                    receipts = reader.receipts_of(seal)
                except SealLostError:  # its copies are made anew: what is equal is `present`
                    receipts = []
                for ordinal, _, receipt in receipts:
                    etags[ordinal], received[ordinal] = receipt.etag, seal.sequence
                continue
            try:
                verdicts = reader.verdicts_of(seal)
            except SealLostError:  # what it said is not known any more, so nothing is proved by it
                verdicts = []
            for ordinal, verdict in verdicts:
                if verdict is Verdict.MATCH:
                    matched[ordinal] = seal.sequence
                else:
                    matched.pop(ordinal, None)
        for row in proof.rows:  # not sealed: without an outcome, put back, or nothing came of it
            received.pop(row.ordinal, None)
            if row.receipt is not None:
                etags[row.ordinal] = row.receipt.etag
            elif row.outcome is Outcome.PENDING and row.etag is not None:
                etags[row.ordinal] = row.etag  # what a verification saw, and the repair may replace
            elif row.outcome is Outcome.DRIFTED:
                etags.setdefault(row.ordinal, None)
        # as a repair would, a delta may replace what a verification saw
        etags |= {ordinal: seen for ordinal, seen in proof.wrong.items() if seen is not None}
        sound = frozenset(
            ordinal
            for ordinal, sequence in received.items()
            if matched.get(ordinal, 0) > sequence and ordinal not in proof.wrong
        )
        return _Known(etags, sound)


def _id_of(plan: Plan, ledger: Ledger) -> int:
    found = registered(plan, ledger)
    if found is None:
        raise no_copy_yet(plan)
    return found


def _write_users(connection: duckdb.DuckDBPyConnection, name: str, users: Iterator[str], path: Path) -> None:
    """Make a table of users, and a file of it."""
    connection.execute(f"CREATE TEMP TABLE {name} (user_id VARCHAR)")
    while chunk := list(islice(users, _CHUNK)):
        connection.execute(f"INSERT INTO {name} SELECT unnest(?)", [chunk])
    connection.execute(f"COPY {name} TO {literal(str(path))} (FORMAT parquet)")


def _batches_of(connection: duckdb.DuckDBPyConnection, plan: Plan) -> set[int]:
    """The batches of users for whom something is left."""
    rows = connection.execute(
        f"SELECT first_batch, last_batch FROM {plan.relation('users')} AS p SEMI JOIN unproven AS u ON p.user_id = u.user_id "
        "WHERE first_batch IS NOT NULL"
    )
    found: set[int] = set()
    while chunk := rows.fetchmany(_CHUNK):
        for first, last in chunk:
            found.update(range(first, last + 1))
    return found
