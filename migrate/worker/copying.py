"""Copying one leased batch: which copies are still to be made, the tasks for them, and the receipts that they leave."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from migrate.ledger import FORGOTTEN_ELSEWHERE, CopyRow, Lease, Ledger, PartRow, SealKind, UploadRow, UserTally
from migrate.model import CopyResult, Outcome, PlannedCopy, PlannedObject
from migrate.pauses import PausePoint, pause_at
from migrate.privacy import Pseudonyms
from migrate.spec import Copying
from migrate.transfer.caller import Caller
from migrate.transfer.parted import PartedCopy
from migrate.transfer.parts import Begun, Finished, Job, PartDone, PartSent, Upload, UploadStarted, remembered_part
from migrate.transfer.removing import remove_copies
from migrate.transfer.whole import copy_whole
from migrate.worker.pool import Task
from migrate.worker.seals import Seals
from migrate.worker.work import Tally

_TALLIED_AS = {Outcome.COPIED: "good", Outcome.PRESENT: "good", Outcome.QUARANTINED: "quarantined"}


@dataclass(frozen=True, slots=True)
class CopyTools:
    """What copying needs, the same for every batch of a worker."""

    ledger: Ledger
    caller: Caller
    seals: Seals
    copying: Copying
    run_id: int
    now: Callable[[], datetime]
    pseudonyms: Pseudonyms | None
    log: Any


@dataclass(frozen=True, slots=True)
class _WholeDone:
    results: list[CopyResult]


@dataclass(frozen=True, slots=True)
class _Step:
    """An event of one object that goes in parts."""

    parted: PartedCopy
    event: object


class CopyWork:
    """The copies of one batch that have no outcome yet."""

    def __init__(self, lease: Lease, objects: Sequence[PlannedObject], tools: CopyTools) -> None:
        pause_at(PausePoint.BATCH_LEASED)
        self.lease = lease
        self._objects = objects
        self._tools = tools
        rows: list[CopyRow] = [] if lease.fresh else tools.ledger.copy_rows(lease)
        uploads: list[UploadRow] = [] if lease.fresh else tools.ledger.uploads(lease)
        self._uploads = {upload.ordinal: _remembered(upload) for upload in uploads}
        # what may be replaced: by the ETag that an earlier plan of the line has left, or that a verification saw
        self._replaceable = {
            copy.ordinal: copy.replaces for planned in objects for copy in planned.copies if copy.replaces is not None
        } | {row.ordinal: row.etag for row in rows if row.outcome is Outcome.PENDING and row.etag is not None}
        self._todo = self._open_ordinals(rows)
        # of who lives at the new home, or is forgotten, nothing is copied any more, whatever is pending of them
        self._owners = {planned.user_id for planned in objects}
        # before the look at who is away: whoever is forgotten after it is seen by the next one
        self._forgotten_seen = tools.ledger.forgotten_in(lease.plan_id)
        self._away = self._away_now()
        self._has_begun_all = False
        losing = {planned.user_id for planned in objects if planned.is_tombstone}
        self._on_hold = tools.ledger.held(losing) if losing else set()
        self._sizes = {copy.ordinal: planned.size for planned in objects for copy in planned.copies}
        self._results: list[CopyResult] = []
        self._parts: list[PartRow] = []
        # bytes of copies under way that have been counted: by this run's tally, or by that of an earlier one
        self._counted = Counter({upload.ordinal: sum(part.size for part in upload.parts) for upload in uploads})
        self._tally = Tally()
        self._recorded: set[str] = set()  # uploads that the ledger has from us

    def _open_ordinals(self, rows: Iterable[CopyRow]) -> set[int]:
        """The ordinals without an outcome. Once a batch was sealed, only what was put back is open."""
        lease, ledger = self.lease, self._tools.ledger
        if not lease.fresh and ledger.seals(lease.plan_id, lease.number, SealKind.RECEIPTS):
            return {row.ordinal for row in rows if row.outcome is Outcome.PENDING}
        every = {copy.ordinal for planned in self._objects for copy in planned.copies}
        return every - {row.ordinal for row in rows if row.outcome is not Outcome.PENDING}

    def tasks(self) -> Iterator[Task]:
        for planned in self._objects:
            copies = [copy for copy in planned.copies if copy.ordinal in self._todo]
            if not copies:
                continue
            if planned.user_id in self._away:
                yield Task(self, 0, partial(_withdraw, copies, self._away[planned.user_id]))
            elif planned.is_tombstone:
                yield Task(self, 0, partial(self._remove, planned, copies, planned.user_id in self._on_hold))
            elif planned.size >= self._tools.copying.multipart_from:
                yield self._step(self._parted(planned, copies))
            else:
                yield Task(self, planned.size, partial(self._copy_whole, planned, copies))
        self._has_begun_all = True

    def _heed_forgotten(self) -> None:
        """Who was forgotten since the last look: of their copies none is begun any more."""
        if self._has_begun_all:
            return
        number = self._tools.ledger.forgotten_in(self.lease.plan_id)
        if number != self._forgotten_seen:
            self._forgotten_seen = number
            self._away = self._away_now()

    def _away_now(self) -> dict[str, str]:
        """Why nothing is copied, of those users of whom nothing is."""
        ledger = self._tools.ledger
        away = ledger.away_among(self._owners)
        forgotten = ledger.forgotten_among(away) if away else {}
        reasons = {
            user_id: "forgotten" if plan_id == self.lease.plan_id else FORGOTTEN_ELSEWHERE
            for user_id, plan_id in forgotten.items()
        }
        return {user_id: reasons.get(user_id, "moved") for user_id in away}

    def _remove(self, planned: PlannedObject, copies: Sequence[PlannedCopy], is_on_hold: bool) -> _WholeDone:
        if is_on_hold:
            return _WholeDone([CopyResult(copy.ordinal, Outcome.DRIFTED, reason="on_hold") for copy in copies])
        return _WholeDone(remove_copies(planned, copies, self._replaceable, self._tools.caller, self._tools.now))

    def _copy_whole(self, planned: PlannedObject, copies: Sequence[PlannedCopy]) -> _WholeDone:
        return _WholeDone(copy_whole(planned, copies, self._replaceable, self._tools.caller, self._tools.now))

    def _parted(self, planned: PlannedObject, copies: Sequence[PlannedCopy]) -> PartedCopy:
        return PartedCopy(
            planned,
            copies,
            self._uploads,
            self._replaceable,
            caller=self._tools.caller,
            configured_part_bytes=self._tools.copying.part_bytes,
            now=self._tools.now,
        )

    def _step(self, parted: PartedCopy, job: Job | None = None) -> Task:
        job = job or parted.begin()
        return Task(self, job.cost, lambda: _Step(parted, job.run()))

    def take(self, event: object) -> Iterable[Task]:
        if isinstance(event, _WholeDone):
            self._settle(event.results)
            return ()
        assert isinstance(event, _Step), "a copying task returns one of these two"
        return self._take_step(event.parted, event.event)

    def left_over(self, event: object) -> Iterable[Task]:
        """Whoever has the batch now may have looked for uploads before these were begun: they are ours to take away."""
        if not isinstance(event, _Step) or not isinstance(event.event, Begun):
            return ()
        unknown = [started for started in event.event.started if started.upload_id not in self._recorded]
        return [self._step(event.parted, event.parted.give_up(unknown))] if unknown else ()

    def _take_step(self, parted: PartedCopy, event: object) -> Iterable[Task]:
        if isinstance(event, Begun):
            self._settle(event.settled)
            for started in event.started:
                # durable before its first part is sent, so that a killed run knows what it left behind
                self._start_upload(parted, started)
            for ordinal, upload in event.uploads.items():  # a part that the store has lost is sent, and counted, again
                self._counted[ordinal] = sum(part.size for part in upload.parts.values())
            jobs = list(parted.on_begun(event))
            if not jobs and parted.is_open:  # every part was there already
                jobs = list(parted.end())
            return [self._step(parted, job) for job in jobs]
        if isinstance(event, PartDone):
            news = parted.on_part(event)
            self._settle(news.failed)
            self._parts += [_part_row(part) for part in news.sent]
            for part in news.sent:
                self._counted[part.ordinal] += part.size
                self._tally.size_bytes += part.size
            if parted.parts_are_done and parted.is_open:
                self.commit()  # the parts are durable before the end that relies on them
                return [self._step(parted, job) for job in parted.end()]
            return ()
        assert isinstance(event, Finished), "a parted copy has these three events"
        self._settle(event.settled)
        return ()

    def _start_upload(self, parted: PartedCopy, started: UploadStarted) -> None:
        store = next(copy.store for copy in parted.planned.copies if copy.ordinal == started.ordinal)
        self._tools.ledger.start_upload(
            self.lease,
            started.ordinal,
            store=store,
            upload_id=started.upload_id,
            part_bytes=started.part_bytes,
            attributes=started.attributes,
            run_id=self._tools.run_id,
        )
        self._recorded.add(started.upload_id)
        pause_at(PausePoint.UPLOAD_RECORDED)

    def _settle(self, results: Iterable[CopyResult]) -> None:
        for result in results:
            self._results.append(result)
            self._tally.copies += 1
            if result.outcome.has_receipt:
                self._tally.size_bytes += self._sizes[result.ordinal] - self._counted.pop(result.ordinal, 0)
            else:
                self._tally.failures += result.outcome is Outcome.QUARANTINED
                self._say(result)

    def _say(self, result: CopyResult) -> None:
        """A line of log for a copy that came to nothing; `migrate status --failures` names user and key (invariant 10)."""
        named = {}
        if self._tools.pseudonyms is not None:
            planned = next(found for found in self._objects if any(c.ordinal == result.ordinal for c in found.copies))
            named["user"] = self._tools.pseudonyms.user(planned.user_id)
            named["object"] = self._tools.pseudonyms.object_key(planned.store, planned.key)
        self._tools.log.warning(
            f"copy_{result.outcome.value}",
            batch=self.lease.number,
            ordinal=result.ordinal,
            reason=result.reason,
            **named,
        )

    @property
    def buffered(self) -> int:
        return len(self._results) + len(self._parts)

    def commit(self) -> None:
        if self._parts:
            self._tools.ledger.record_parts(self.lease, self._parts)
            self._parts = []
            pause_at(PausePoint.PARTS_RECORDED)
        if self._results:
            self._tools.ledger.record(
                self.lease, self._results, sizes=self._sizes, run_id=self._tools.run_id, now=self._tools.now()
            )
            self._results = []
            pause_at(PausePoint.GROUP_COMMITTED)
        self._heed_forgotten()

    def finish(self) -> None:
        rows = self._tools.ledger.copy_rows(self.lease)
        receipts = [(row.ordinal, row.outcome, row.receipt) for row in rows if row.receipt is not None]
        seal = self._tools.seals.write_receipts(self.lease.number, self.lease.fence, receipts) if receipts else None
        pause_at(PausePoint.RECEIPTS_SEALED)
        tallies = self._tallies(rows)
        self._tools.ledger.finish_copy(self.lease, seal, tallies)
        pause_at(PausePoint.BATCH_FINISHED)
        self._tools.seals.forget_receipts(self.lease.number, self.lease.fence)
        self._tally.users += len(tallies)
        self._tally.batches += 1

    def _tallies(self, rows: Iterable[CopyRow]) -> dict[str, UserTally]:
        users = {copy.ordinal: planned.user_id for planned in self._objects for copy in planned.copies}
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for row in rows:
            if not row.tallied:
                counts[users[row.ordinal]][_TALLIED_AS.get(row.outcome, "other")] += 1
        return {user_id: UserTally(**count) for user_id, count in counts.items()}

    def tally(self) -> Tally:
        tally, self._tally = self._tally, Tally()
        return tally


def _withdraw(copies: Sequence[PlannedCopy], reason: str) -> _WholeDone:
    return _WholeDone([CopyResult(copy.ordinal, Outcome.WITHDRAWN, reason=reason) for copy in copies])


def _remembered(upload: UploadRow) -> Upload:
    parts = {
        part.part: remembered_part(upload.ordinal, part.part, part.etag, part.sha256, part.size)
        for part in upload.parts
    }
    return Upload(UploadStarted(upload.ordinal, upload.upload_id, upload.part_bytes, upload.attributes), parts)


def _part_row(part: PartSent) -> PartRow:
    return PartRow(part.ordinal, part.number, part.etag, part.sha256, part.size)
