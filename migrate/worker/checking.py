"""Checking one leased batch at a level: the tasks that look, the verdicts that they leave, and what is there too much."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import NamedTuple

from migrate.errors import IntegrityError, SealLostError, UnreachableError
from migrate.layout import CompiledRule, has_loose_rules, is_for_all, literal_prefix
from migrate.ledger import (
    EXTRA,
    FULL_SAMPLE_PPM,
    SEAL_LOST,
    CheckCounts,
    Lease,
    Ledger,
    NewFinding,
    SealKind,
    UserCheck,
)
from migrate.model import CheckResult, Level, PlannedCopy, PlannedObject, Receipt, Verdict, is_stand_in
from migrate.pauses import PausePoint, pause_at
from migrate.planner.kept import Kept
from migrate.spec import Spec
from migrate.transfer.caller import Caller
from migrate.verify import (
    Expected,
    Extra,
    PartedCheck,
    PrefixCheck,
    check_head,
    check_object,
    check_prefix,
    check_removed,
    is_sampled,
)
from migrate.worker.kept import as_cut_over
from migrate.worker.pool import Task
from migrate.worker.seals import Seals
from migrate.worker.work import Tally

_SEALS_FOLDER = "seals"  # where a finding about a sealed file says that it is
_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class CheckTools:
    """What checking needs, the same for every batch of a worker. `at_site`: by target store, all those of its site; `kept`: what
    the plan's line keeps of users."""

    ledger: Ledger
    caller: Caller
    seals: Seals
    spec: Spec
    rules: tuple[CompiledRule, ...]
    at_site: Mapping[str, Sequence[str]]
    pass_id: int
    level: Level
    sample_ppm: int
    kept: Callable[[Collection[str]], Kept]
    run_id: int
    now: Callable[[], datetime]


@dataclass(frozen=True, slots=True)
class _Checked:
    results: Sequence[CheckResult]
    extras: Sequence[Extra]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Step:
    """One job of a large object's check has ended: its first look, or a part."""

    parted: PartedCheck
    is_part: bool


def _step(parted: PartedCheck, job: Callable[[], None], *, is_part: bool = False) -> _Step:
    job()
    return _Step(parted, is_part)


def _judge(parted: PartedCheck) -> _Checked:
    return _Checked(parted.judge(), (), parted.planned.size * len(parted.receipts))


class _Place(NamedTuple):
    """One user's prefix at one store."""

    store: str
    user_id: str
    prefix: str


def user_prefixes(rules: Sequence[CompiledRule], user_id: str) -> list[str]:
    """The user's target prefixes, none of them within another. A stand-in has none: nobody's EXTRA objects are looked for."""
    if is_stand_in(user_id):
        return []
    found = sorted(
        {prefix for rule in rules if not rule.shared and (prefix := literal_prefix(rule, user_id)) is not None}
    )
    return [prefix for prefix in found if not any(prefix != other and prefix.startswith(other) for other in found)]


def not_listed(store: str, why: str) -> UnreachableError:
    """A target that may not be listed is not one without EXTRA objects (invariants 4 and 9)."""
    return UnreachableError(why, remedy=f"Let this machine list {store}: EXTRA objects cannot be seen without.")


class CheckWork:
    """The check of one batch in one pass."""

    def __init__(self, lease: Lease, objects: Sequence[PlannedObject], tools: CheckTools) -> None:
        pause_at(PausePoint.CHECK_LEASED)
        self.lease = lease
        late = tools.ledger.late_of({planned.user_id for planned in objects})
        self._objects, self._late_receipts = as_cut_over(objects, late, tools.spec)
        self._tools = tools
        self._level = tools.level
        self._is_full = tools.sample_ppm >= FULL_SAMPLE_PPM
        self._users = {copy.ordinal: planned.user_id for planned in objects for copy in planned.copies}
        # who lives at the new home writes there: what is at the targets is not ours to judge any more
        self._away = tools.ledger.away_among(set(self._users.values()))
        self._extras: dict[tuple[str, str], Extra] = self._known_extras()
        self._lost: SealLostError | None = None
        self._due, self._has_begun_all = 0, False  # tasks of which nothing was heard yet
        self._sealed_only: list[CheckResult] = []  # equal, and told by the sealed file alone
        self._tally = Tally()
        wanted = self._wanted()
        # what a deeper look found different is not called equal by this one
        known = {
            row.ordinal: row for row in tools.ledger.deeper_differences(lease, tools.level) if row.ordinal in wanted
        }
        wanted -= known.keys()
        self._todo = self._read_receipts(wanted)
        # without a receipt there is nothing to compare with: that ends the check of this batch, and of no other
        self._results = [
            *(CheckResult(row.ordinal, row.verdict, row.reason, row.etag) for row in known.values()),
            *(CheckResult(ordinal, Verdict.UNKNOWN, SEAL_LOST) for ordinal in sorted(wanted - self._todo.keys())),
        ]

    def _wanted(self) -> set[int]:
        """The copies to be checked: those that have a receipt, are in the sample, and have no verdict yet.

        What was found wrong is looked at again: the verdict may be from before the check was begun anew.
        """
        ledger, lease = self._tools.ledger, self.lease
        opened = self._without_receipt()
        rows = ledger.verdict_rows(lease)
        self._with_a_row = {row.ordinal for row in rows}
        known = {
            row.ordinal for row in rows if row.verdict in (Verdict.MATCH, Verdict.UNKNOWN) and row.reason != SEAL_LOST
        }
        return {
            ordinal
            for ordinal in self._users
            if ordinal not in opened
            and ordinal not in known
            and self._users[ordinal] not in self._away
            and is_sampled(lease.batch.digest, ordinal, self._tools.sample_ppm)
        }

    def _without_receipt(self) -> set[int]:
        """A batch that is checked is done: its open rows are those without a receipt."""
        return {row.ordinal for row in self._tools.ledger.copy_rows(self.lease)}

    def _read_receipts(self, wanted: Collection[int]) -> dict[int, Receipt]:
        """Their receipts; none at all where a seal is lost."""
        seals = self._tools.ledger.seals(self.lease.plan_id, self.lease.number, SealKind.RECEIPTS)
        try:
            receipts = self._tools.seals.read_receipts(seals, wanted)
        except SealLostError as error:
            self._lost = error
            return {}
        return {ordinal: receipt for ordinal, (_, receipt) in receipts.items()} | {
            ordinal: receipt for ordinal, receipt in self._late_receipts.items() if ordinal in receipts
        }

    def _known_extras(self) -> dict[tuple[str, str], Extra]:
        """What a look through whole stores found of this batch's users, by store and key: told with a user's first batch."""
        if not self._is_full or not has_loose_rules(self._tools.rules):
            return {}
        rows = self._tools.ledger.findings(
            self.lease.plan_id, _ALL, pass_id=self._tools.pass_id, kind=EXTRA, number=self.lease.number
        )
        return {
            (finding.store, finding.key): Extra(finding.store, finding.key, finding.user_id, finding.size_bytes or 0)
            for finding in (row.finding for row in rows)
            if finding.key is not None and finding.user_id is not None and finding.user_id not in self._away
        }

    def tasks(self) -> Iterator[Task]:
        for task in self._tasks():
            self._due += 1
            yield task
        self._has_begun_all = True

    def _tasks(self) -> Iterator[Task]:
        for planned in self._objects:
            for copy in planned.copies:
                if planned.is_tombstone and copy.ordinal in self._todo:
                    yield Task(self, 0, partial(self._check_removed, planned, copy))
        if self._is_full or self._level is Level.LISTING:
            yield from self._listing_tasks()
        if self._level is not Level.LISTING:
            for planned in self._objects:
                if planned.is_tombstone:
                    continue
                receipts = {
                    copy.ordinal: self._todo[copy.ordinal] for copy in planned.copies if copy.ordinal in self._todo
                }
                if receipts and PartedCheck.serves(planned, receipts):
                    parted = PartedCheck(planned, receipts, self._level, self._tools.caller)
                    yield Task(self, 0, partial(_step, parted, parted.look))
                elif receipts:
                    yield Task(self, 0, partial(self._read, planned, receipts))

    def _check_removed(self, planned: PlannedObject, copy: PlannedCopy) -> _Checked:
        return _Checked([check_removed(planned, copy, self._tools.caller)], (), 0)

    def _read(self, planned: PlannedObject, receipts: Mapping[int, Receipt]) -> _Checked:
        results = check_object(planned, receipts, self._level, self._tools.caller)
        return _Checked(results, (), planned.size * len(receipts))

    def _listing_tasks(self) -> Iterator[Task]:
        """A listing a user, prefix and store, where the layout allows it; a HEAD a copy where it does not.

        Each object has a copy at its user's home and one at the backup, so their stores' sites are where the user belongs. A full
        pass lists every target store there, also one that takes none of these copies.
        """
        expected: dict[_Place, list[Expected]] = {}
        user_id, stores_seen = "", set[str]()
        prefixes: list[str] = []
        prefix: str | None = None
        planned_keys: dict[_Place, set[str]] = defaultdict(set)
        loose: list[tuple[str, Expected]] = []
        here = {planned.user_id for planned in self._objects if not is_stand_in(planned.user_id)} - self._away
        for kept_of, kept in self._tools.kept(here).items():
            for each in user_prefixes(self._tools.rules, kept_of):
                for store, key in kept:
                    planned_keys[_Place(store, kept_of, each)].add(key)
        for planned in self._objects:
            if planned.user_id in self._away:
                continue
            if planned.user_id != user_id:
                user_id, stores_seen = planned.user_id, set()
                prefixes, prefix = user_prefixes(self._tools.rules, user_id), None
            if prefix is None or not planned.target_key.startswith(prefix):
                prefix = next((found for found in prefixes if planned.target_key.startswith(found)), None)
            for copy in planned.copies:
                if copy.store not in stores_seen:
                    stores_seen.add(copy.store)
                    for store in self._tools.at_site[copy.store] if self._is_full else (copy.store,):
                        for each in prefixes:
                            expected.setdefault(_Place(store, user_id, each), [])
                if prefix is not None:
                    planned_keys[_Place(copy.store, user_id, prefix)].add(planned.target_key)
                if self._level is not Level.LISTING or copy.ordinal not in self._todo or planned.is_tombstone:
                    continue
                item = Expected(copy.ordinal, planned.target_key, planned.size, self._todo[copy.ordinal].etag)
                if prefix is None:
                    loose.append((copy.store, item))
                else:
                    expected[_Place(copy.store, user_id, prefix)].append(item)
        for place, items in expected.items():
            yield Task(self, 0, partial(self._list, place, items, planned_keys[place]))
        for store, item in loose:
            yield Task(self, 0, partial(self._head, store, item))

    def _list(self, place: _Place, items: Sequence[Expected], planned_keys: set[str]) -> _Checked:
        batch = self.lease.batch
        found: PrefixCheck = check_prefix(
            place.store, place.user_id, place.prefix, items, batch.key_from, batch.key_until, self._tools.caller
        )
        if found.failed is not None and not items:
            # nothing was said of any copy here, so nothing would show that EXTRA objects were not looked for
            raise not_listed(place.store, found.failed)
        extras = [
            extra
            for extra in (found.extras if self._is_full else ())
            if extra.key not in planned_keys and not is_for_all(self._tools.rules, place.store, extra.key)
        ]
        return _Checked(found.results, extras, 0)

    def _head(self, store: str, item: Expected) -> _Checked:
        return _Checked([check_head(store, item, self._tools.caller)], (), 0)

    def take(self, event: object) -> Iterable[Task]:
        self._due -= 1
        if isinstance(event, _Step):
            tasks = self._take_step(event)
            self._due += len(tasks)
            return tasks
        assert isinstance(event, _Checked), "a checking task returns one of these two"
        self._results += event.results
        self._extras.update({(extra.store, extra.key): extra for extra in event.extras})
        self._tally.copies += len(event.results)
        self._tally.failures += sum(result.verdict is not Verdict.MATCH for result in event.results)
        self._tally.size_bytes += event.size_bytes
        return ()

    def left_over(self, _event: object) -> Iterable[Task]:
        return ()  # a check begins nothing at a store

    def _take_step(self, step: _Step) -> list[Task]:
        """The parts after the first look, and after the last part those that are read again; then the verdicts."""
        parted = step.parted
        if step.is_part and not parted.take_part():
            return []
        tasks = [Task(self, 0, partial(_step, parted, job, is_part=True)) for job in parted.parts()]
        return tasks or [Task(self, 0, partial(_judge, parted))]

    @property
    def _is_over(self) -> bool:
        return self._has_begun_all and not self._due

    @property
    def buffered(self) -> int:
        """Listings are soon made again, so their verdicts wait for the batch's end."""
        return 0 if self._level is Level.LISTING and not self._is_over else len(self._results)

    def commit(self) -> None:
        """Write the verdicts that a killed run should not have to find again.

        Once the batch is over, those that say equal would stand there for a moment only, until the sealed file has them: they are
        written where they take the place of older ones.
        """
        if not self.buffered:
            return
        rows = self._results
        if self._is_over:
            older = self._with_a_row | self._tools.ledger.differing_copies(self.lease)
            rows = [row for row in rows if row.verdict is not Verdict.MATCH or row.ordinal in older]
            written = {row.ordinal for row in rows}
            self._sealed_only += [row for row in self._results if row.ordinal not in written]
        self._tools.ledger.record_verdicts(self.lease, rows, run_id=self._tools.run_id, now=self._tools.now())
        self._with_a_row.update(row.ordinal for row in rows)
        self._results = []

    def finish(self) -> None:
        tools = self._tools
        if not self._is_over:  # invariant 9: an EXTRA object may stand where nobody has looked
            raise IntegrityError(f"the check of batch {self.lease.number} would end before all of it was looked at")
        rows = tools.ledger.verdict_rows(self.lease) if self._with_a_row else []
        results = [CheckResult(row.ordinal, row.verdict, row.reason, row.etag) for row in rows] + self._sealed_only
        number = self.lease.number
        findings = [
            NewFinding(EXTRA, extra.store, extra.key, extra.user_id, extra.size, number)
            for extra in self._extras.values()
        ]
        if self._lost is not None:
            findings.append(NewFinding(SEAL_LOST, _SEALS_FOLDER, self._lost.path, number=number))
        seal = tools.seals.write_verdicts(self.lease.number, self.lease.fence, tools.pass_id, results)
        pause_at(PausePoint.VERDICTS_SEALED)
        users = self._user_checks(results)
        tools.ledger.finish_check(
            self.lease,
            seal,
            users,
            self._counts(results),
            findings,
            run_id=tools.run_id,
            now=tools.now(),
            away=self._copies_away({result.ordinal for result in results}),
            sealed_only=len(self._sealed_only),
        )
        tools.seals.forget_verdicts(self.lease.number, tools.pass_id, self.lease.fence)
        self._tally.users += len(users)
        self._tally.batches += 1

    def _copies_away(self, judged: Collection[int]) -> int:
        """Copies with a receipt that nobody judges; some were `judged` before their user moved."""
        opened = self._without_receipt() if self._away else set()
        return sum(
            user in self._away and ordinal not in opened and ordinal not in judged
            for ordinal, user in self._users.items()
        )

    def _counts(self, results: Sequence[CheckResult]) -> CheckCounts:
        verdicts = [result.verdict for result in results]
        return CheckCounts(
            match=verdicts.count(Verdict.MATCH),
            mismatch=verdicts.count(Verdict.MISMATCH),
            missing=verdicts.count(Verdict.MISSING),
            unknown=verdicts.count(Verdict.UNKNOWN),
            extra=len(self._extras),
        )

    def _user_checks(self, results: Sequence[CheckResult]) -> dict[str, UserCheck]:
        """By user; an EXTRA object counts as one that could not be called equal, so that it holds the user back."""
        found: dict[str, UserCheck] = {}
        for result in results:
            old = found.get(self._users[result.ordinal], UserCheck())
            is_match, is_unknown = result.verdict is Verdict.MATCH, result.verdict is Verdict.UNKNOWN
            found[self._users[result.ordinal]] = UserCheck(
                old.matched + is_match, old.wrong + (not is_match and not is_unknown), old.unknown + is_unknown
            )
        for extra in self._extras.values():
            old = found.get(extra.user_id, UserCheck())
            found[extra.user_id] = UserCheck(0, old.wrong + 1, old.unknown)
        return found

    def tally(self) -> Tally:
        tally, self._tally = self._tally, Tally()
        return tally
