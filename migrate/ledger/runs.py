"""Runs and workers: who did something, and which processes take part in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from migrate.errors import LedgerError
from migrate.ledger import schema
from migrate.ledger.core import Core
from migrate.ledger.processes import ProcessIdentity
from migrate.ledger.rows import RunRow


class Runs(Core):
    """Every command that changes anything is a row in `runs`; receipts and verdicts point to it."""

    def start_run(
        self,
        *,
        verb: str,
        operator: str,
        host: str,
        country: str | None,
        tool_version: str,
        arguments: Mapping[str, Any],
        plan: str | None,
        now: datetime,
    ) -> int:
        """Write down that a command begins; its run id. `arguments` must be JSON and hold no secret."""
        row = {
            "verb": verb,
            "operator": operator,
            "host": host,
            "country": country,
            "tool_version": tool_version,
            "arguments": json.dumps(arguments, sort_keys=True, ensure_ascii=False),
            "plan_digest": plan,
            "started_at": now,
        }
        with self._write() as connection:
            return int(connection.execute(insert(schema.runs).values(row).returning(schema.runs.c.id)).scalar_one())

    def end_run(self, run_id: int, *, exit_code: int, now: datetime) -> None:
        """Write down how it ended. LedgerError if it has ended before."""
        runs = schema.runs
        with self._write() as connection:
            ended = connection.execute(
                update(runs)
                .where(runs.c.id == run_id, runs.c.ended_at.is_(None))
                .values(ended_at=now, exit_code=int(exit_code))
            ).rowcount
            if ended != 1:
                raise LedgerError(f"run {run_id} is not there, or has ended before")

    def run_failures(self, run_id: int) -> int:
        """How many copies this run has quarantined, over all its workers."""
        with self._read() as connection:
            return int(
                connection.execute(select(schema.runs.c.failures).where(schema.runs.c.id == run_id)).scalar_one()
            )

    def runs(self, limit: int) -> list[RunRow]:
        """The newest runs, newest first."""
        with self._read() as connection:
            rows = connection.execute(select(schema.runs).order_by(schema.runs.c.id.desc()).limit(limit)).all()
        return [
            RunRow(
                id=row.id,
                verb=row.verb,
                operator=row.operator,
                host=row.host,
                country=row.country,
                tool_version=row.tool_version,
                arguments=json.loads(row.arguments),
                plan=row.plan_digest,
                started_at=row.started_at,
                ended_at=row.ended_at,
                exit_code=row.exit_code,
                failures=row.failures,
            )
            for row in rows
        ]

    def start_worker(self, run_id: int, identity: ProcessIdentity, now: datetime) -> int:
        """Write down a process that is about to lease batches; its worker id."""
        row = {
            "run_id": run_id,
            "host": identity.host,
            "boot_id": identity.boot_id,
            "pid": identity.pid,
            "pid_started": identity.started,
            "started_at": now,
        }
        with self._write() as connection:
            return int(
                connection.execute(insert(schema.workers).values(row).returning(schema.workers.c.id)).scalar_one()
            )

    def beat(self, worker_id: int) -> None:
        """Show that a worker lives: others watch this number move, by their own clocks."""
        workers = schema.workers
        with self._write() as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(beat=workers.c.beat + 1))
