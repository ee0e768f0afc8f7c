"""A small plan in a ledger, and the steps of a worker, for the contract tests of the ledger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from migrate.ledger import (
    FULL_SAMPLE_PPM,
    CheckCounts,
    Lease,
    Ledger,
    NewFinding,
    NewSeal,
    Pass,
    PlanEntry,
    ProcessIdentity,
    UserCheck,
    UserTally,
    counts,
)
from migrate.model import (
    BatchInfo,
    CheckResult,
    CopyResult,
    Evidence,
    Level,
    Outcome,
    Purpose,
    Receipt,
    UserInfo,
    Verdict,
)

NOW = datetime(2026, 11, 24, 3, 4, 5, 678901, tzinfo=UTC)
PLAN = "ab" * 32
SIZE = 10  # of each copy

# Who owns which copy of which batch: two users in batch 0, one split over 1 and 2, one with a single copy in 3.
OWNERS = {0: ["anna", "anna", "anna", "bjorn"], 1: ["carla"] * 3, 2: ["carla"] * 2, 3: ["dag"]}
WAVES = {0: 0, 1: 1, 2: 1, 3: 2}


def batch_infos() -> list[BatchInfo]:
    bounds = {1: (None, "m"), 2: ("m", None)}
    return [
        BatchInfo(
            number=number,
            wave=WAVES[number],
            users=len(set(owners)),
            objects=len(owners),
            copies=len(owners),
            size_bytes=SIZE * len(owners),
            digest=hashlib.sha256(b"batch %d" % number).digest(),
            key_from=bounds.get(number, (None, None))[0],
            key_until=bounds.get(number, (None, None))[1],
        )
        for number, owners in OWNERS.items()
    ]


def user_info(
    user_id: str, *, state: str = "planned", wave: int | None = 0, batches: Sequence[int] = (), copies: int = 0
) -> UserInfo:
    return UserInfo(
        user_id=user_id,
        country="NO",
        country_given="NO",
        state=state,
        scope_rule="list",
        home="hamar",
        backup="dublin",
        placement_rule="nordic",
        wave=wave,
        objects=copies,
        copies=copies,
        size_bytes=SIZE * copies,
        first_batch=min(batches, default=None),
        last_batch=max(batches, default=None),
    )


def user_infos() -> list[UserInfo]:
    counts: Counter[str] = Counter()
    batches: dict[str, list[int]] = {}
    for number, owners in OWNERS.items():
        counts.update(owners)
        for owner in owners:
            batches.setdefault(owner, []).append(number)
    users = [
        user_info(name, wave=WAVES[batches[name][0]], batches=batches[name], copies=count)
        for name, count in counts.items()
    ]
    return [*users, user_info("empty", wave=1), user_info("held", state="held", wave=None)]


def plan_entry(digest: str = PLAN, batches: Sequence[BatchInfo] | None = None, users: int | None = None) -> PlanEntry:
    infos = batch_infos() if batches is None else batches
    return PlanEntry(
        digest=digest,
        name="clover",
        built_at=NOW,
        verify_level=Level.CONTENT,
        users=len(user_infos()) if users is None else users,
        objects=sum(info.objects for info in infos),
        copies=sum(info.copies for info in infos),
        size_bytes=sum(info.size_bytes for info in infos),
        batches=len(infos),
    )


def receipt(ordinal: int, *, outcome: Outcome = Outcome.COPIED, etag: str | None = None) -> CopyResult:
    digest = hashlib.sha256(b"copy %d" % ordinal).digest()
    return CopyResult(
        ordinal,
        outcome,
        Receipt(
            sha256=digest,
            part_bytes=0,
            attributes=digest[::-1],
            etag=etag or digest.hex()[:32],
            version_id=None,
            evidence=Evidence.MD5,
            at=NOW,
        ),
    )


def quarantined(ordinal: int, reason: str = "denied") -> CopyResult:
    return CopyResult(ordinal, Outcome.QUARANTINED, None, reason, "403 at the target")


def new_seal(rows: int, name: str = "seal") -> NewSeal:
    return NewSeal(rows, hashlib.sha256(name.encode()).digest())


@dataclass(slots=True)
class World:
    """A ledger with a registered plan, and one worker of one run."""

    ledger: Ledger
    plan_id: int
    run_id: int
    worker_id: int

    @staticmethod
    def make(ledger: Ledger) -> World:
        run_id = start_run(ledger)
        plan_id = ledger.register(plan_entry(), batch_infos(), user_infos(), run_id, NOW)
        return World(ledger, plan_id, run_id, ledger.start_worker(run_id, ProcessIdentity.current(), NOW))

    def lease(self, worker_id: int | None = None) -> Lease:
        lease = self.ledger.lease(self.plan_id, worker_id or self.worker_id, Purpose.COPY)
        assert lease is not None
        return lease

    def give_back(self) -> None:
        """Return what the worker has leased, as it does when it stops."""
        self.ledger.end_worker(self.worker_id)

    def record(self, lease: Lease, results: Iterable[CopyResult]) -> None:
        sizes = dict.fromkeys(range(len(OWNERS[lease.number])), SIZE)
        self.ledger.record(lease, list(results), sizes=sizes, run_id=self.run_id, now=NOW)

    def finish(self, lease: Lease) -> None:
        """End a batch as a worker does: seal the open receipts, credit what was not credited before."""
        rows = self.ledger.copy_rows(lease)
        receipts = sum(row.receipt is not None for row in rows)
        tallies: dict[str, UserTally] = {}
        for row in rows:
            if row.tallied:
                continue
            owner = OWNERS[lease.number][row.ordinal]
            old = tallies.get(owner, UserTally())
            good, bad = row.receipt is not None, row.outcome is Outcome.QUARANTINED
            tallies[owner] = UserTally(old.good + good, old.quarantined + bad, old.other + (not good and not bad))
        seal = new_seal(receipts, f"receipts-{lease.number}-{lease.fence}") if receipts else None
        self.ledger.finish_copy(lease, seal, tallies)

    def copy_batch(self, *failed: int) -> Lease:
        """Lease the next batch and copy all of it, but quarantine the ordinals that are named."""
        lease = self.lease()
        rows = {row.ordinal: row for row in self.ledger.copy_rows(lease)}
        again = {ordinal for ordinal, row in rows.items() if row.outcome is Outcome.PENDING}
        todo = range(len(OWNERS[lease.number])) if lease.fresh else sorted(again)
        self.record(lease, [quarantined(n) if n in failed else receipt(n) for n in todo])
        self.finish(lease)
        return lease

    def copy_all(self) -> None:
        for _ in OWNERS:
            self.copy_batch()

    def start_pass(
        self,
        level: Level = Level.CONTENT,
        sample_ppm: int = FULL_SAMPLE_PPM,
        waves: Sequence[int] | None = None,
        now: datetime = NOW,
    ) -> Pass:
        found, _ = self.ledger.start_pass(self.plan_id, level, sample_ppm, waves, self.run_id, now)
        return found

    def look_at_empty(self, found: Pass, *extras: NewFinding) -> None:
        """Look for the users who have no copies; find `extras`."""
        users = [user.user_id for user in self.ledger.users_without_copies(found, "", 100)]
        self.ledger.record_looks(found, users, extras, self.run_id, NOW)

    def lease_check(self, found: Pass) -> Lease | None:
        return self.ledger.lease(self.plan_id, self.worker_id, Purpose.VERIFY, pass_id=found.id)

    def check(self, lease: Lease, wrong: dict[int, Verdict] | None = None, *extras: NewFinding) -> None:
        """Check a leased batch: MATCH for all but the ordinals that are named; find `extras`."""
        wrong = wrong or {}
        results = [
            CheckResult(ordinal, wrong.get(ordinal, Verdict.MATCH), etag="seen" if ordinal in wrong else None)
            for ordinal in range(len(OWNERS[lease.number]))
        ]
        self.ledger.record_verdicts(lease, results, self.run_id, NOW)
        self.finish_check(lease, results, *extras)

    def finish_check(self, lease: Lease, results: Sequence[CheckResult], *extras: NewFinding) -> None:
        users: dict[str, UserCheck] = {}
        for result in results:
            owner = OWNERS[lease.number][result.ordinal]
            old = users.get(owner, UserCheck())
            match, unknown = result.verdict is Verdict.MATCH, result.verdict is Verdict.UNKNOWN
            users[owner] = UserCheck(
                old.matched + match, old.wrong + (not match and not unknown), old.unknown + unknown
            )
        for extra in extras:
            assert extra.user_id is not None
            old = users.get(extra.user_id, UserCheck())
            users[extra.user_id] = UserCheck(0, old.wrong + 1, old.unknown)
        counts = Counter(result.verdict for result in results)
        self.ledger.finish_check(
            lease,
            new_seal(len(results), f"verdicts-{lease.number}-{lease.fence}"),
            users,
            CheckCounts(
                counts[Verdict.MATCH],
                counts[Verdict.MISMATCH],
                counts[Verdict.MISSING],
                counts[Verdict.UNKNOWN],
                len(extras),
            ),
            extras,
            run_id=self.run_id,
            now=NOW,
        )

    def check_all(self, found: Pass) -> None:
        while (lease := self.lease_check(found)) is not None:
            self.check(lease)

    def verify_all(self) -> None:
        """Copy all, and verify everybody who moves."""
        self.copy_all()
        found = self.start_pass()
        self.check_all(found)
        self.look_at_empty(found)
        assert self.ledger.end_pass(found.id, NOW)

    def freeze(self, user_id: str, ledger: Ledger | None = None) -> str:
        """Begin a user's freeze; the token."""
        by = ledger or self.ledger
        return by.begin_freeze(user_id, self.plan_id, self.run_id, from_site="us", to_site="hamar", now=NOW)

    def cut_over(self, user_id: str, frozen_ms: int = 40) -> None:
        """Freeze a user, and flip."""
        self.ledger.flipped(user_id, self.freeze(user_id), self.run_id, at=NOW, frozen_ms=frozen_ms)

    def hold(self, user_id: str, ledger: Ledger | None = None) -> bool:
        """Put a user on hold."""
        return (ledger or self.ledger).hold(user_id, "a claim", operator="op", run_id=self.run_id, now=NOW)

    def state(self, user_id: str) -> str:
        user = self.ledger.user(user_id)
        assert user is not None
        return user.state.value

    def execute(self, statement: str, **values: Any) -> None:
        """Change the database behind the ledger's back."""
        with self.ledger._database.write() as connection:
            connection.execute(text(statement), values)

    def demand_sums(self) -> None:
        """Invariant 3: every wave's outcomes add up to its copies, and all counters are the sums over their rows."""
        for wave in self.ledger.progress(self.plan_id):
            assert sum(wave.outcomes.values()) == wave.copies
            assert min(wave.outcomes.values()) >= 0
        for of in (counts.USERS, counts.BATCHES, counts.CHECKS):
            assert self._summed(of, of.name, f"sum({of.table})") == self._summed(of, of.table, "count(*)")

    def _summed(self, of: counts.Counted, table: str, number: str) -> list[Any]:
        """By owner, wave and state: how many and the sums, without what is all zero."""
        by = [f"coalesce(wave, {counts.NOWHERE}) AS wave" if name == "wave" else name for name in of.key]
        sums = ", ".join(f"sum({name})" for name in of.sums)
        groups = ", ".join(str(place + 1) for place in range(len(by)))
        with self.ledger._database.read() as connection:
            rows = connection.execute(text(f"SELECT {', '.join(by)}, {number}, {sums} FROM {table} GROUP BY {groups}"))
            return sorted(tuple(row) for row in rows if any(row[len(by) :]))


def start_run(ledger: Ledger) -> int:
    return ledger.start_run(
        verb="run",
        operator="op",
        host="host-1",
        country="IE",
        tool_version="0.1.0",
        arguments={"wave": 1},
        plan=PLAN,
        now=NOW,
    )
