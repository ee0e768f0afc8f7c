"""One object that is too large for memory: its parts are read once each, sent to every target, or compared where it is there.

`PartedCopy` is the object's state between its jobs. It knows no ledger: whoever drives it commits each `UploadStarted` before
it asks for parts, and each `PartSent` before it asks to finish, so that a killed run goes on at the next part (design,
invariant 1). Jobs run in threads; `PartedCopy` itself is touched by the driving thread alone.

The digest is composite: the SHA-256 over the parts' SHA-256s. Parts can then be hashed side by side, and a resumed copy does
not read again what it has sent. Only where the source's ETag is a plain MD5 are sent parts read again (not sent again),
because nothing else can show that the whole is what the source has.

Where nothing guards the way from the source, two reads of each part must agree, unless the whole is proven. Where the ETag can
prove it, parts are read once, and once more before the end only if it did not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from migrate.errors import CorruptBodyError, MigrateError, NotFoundError, StoreError, UnsupportedError
from migrate.model import (
    Attributes,
    CopyResult,
    Evidence,
    ObjectInfo,
    Outcome,
    PlannedCopy,
    PlannedObject,
    Receipt,
)
from migrate.pauses import PausePoint, pause_at
from migrate.stores.base import PartInfo, Store
from migrate.transfer.caller import Caller
from migrate.transfer.existing import Wanted, drop_uploads, holds, kept_parts, look_at, may_keep
from migrate.transfer.integrity import composite_etag, composite_parts, part_bytes_for, part_ranges
from migrate.transfer.parts import (
    Begun,
    Finished,
    Job,
    OrderedMd5,
    PartDone,
    PartSent,
    Taken,
    Upload,
    UploadStarted,
    new_part,
    whole_digest,
)
from migrate.transfer.whole import (
    DriftedError,
    as_drift,
    check_source,
    check_unguarded,
    failed,
    kept_attributes,
    occupied,
    read_tags,
)


@dataclass(slots=True)
class _Open:
    """A copy that is under way: sent to an upload, or compared with what is there."""

    copy: PlannedCopy
    upload: UploadStarted | None
    taken: Taken | None = None
    parts: dict[int, PartSent] = field(default_factory=dict)
    joining: bool = False  # the store was asked to join the parts, whether or not it answered


class PartedCopy:
    """The copies of one large object, from the first look to the receipts."""

    def __init__(
        self,
        planned: PlannedObject,
        copies: Sequence[PlannedCopy],
        known: Mapping[int, Upload],
        repairs: Mapping[int, str | None],
        *,
        caller: Caller,
        configured_part_bytes: int,
        now: Callable[[], datetime],
    ) -> None:
        self.planned = planned
        self._copies = tuple(copies)
        self._known = known
        self._repairs = repairs
        self._caller = caller
        self._now = now
        self.part_bytes = part_bytes_for(planned.size, planned.etag, configured_part_bytes)
        self._ranges = part_ranges(planned.size, self.part_bytes)
        self._open: dict[int, _Open] = {}
        self._begun: Begun | None = None
        self._ordered: OrderedMd5 | None = None
        self._parts_left = 0
        self._reads_all = False  # also parts that every copy has
        self._may_doubt = False  # what was read once may be bent, until the ETag proves the whole

    # the driving thread

    def begin(self) -> Job:
        """The first job. Its Begun goes to `on_begun`."""
        return Job(0, self._begin)

    def on_begun(self, begun: Begun) -> Iterator[Job]:
        """Take note; the parts' jobs, in order. What `begun.started` names must be durable before they are run."""
        self._begun = begun
        for copy in self._copies:
            upload = begun.uploads.get(copy.ordinal)
            if upload is not None:
                self._open[copy.ordinal] = _Open(copy, upload.started, parts=dict(upload.parts))
            elif copy.ordinal in begun.taken:
                self._open[copy.ordinal] = _Open(copy, None, begun.taken[copy.ordinal])
        if not self._open:
            return iter(())
        may_prove = begun.etag_md5 is not None or composite_parts(self.planned.etag) == len(self._ranges)
        self._may_doubt = may_prove and not self._caller.store(self.planned.store).guarded
        self._reads_all = begun.etag_md5 is not None
        return self._part_jobs()

    def on_part(self, done: PartDone) -> PartDone:
        """Take note of a part; what of it is news. The news in `sent` must be durable before the jobs of `end` are run."""
        self._parts_left -= 1
        sent = tuple(part for part in done.sent if part.ordinal in self._open)
        for part in (*sent, *(part for part in done.equal if part.ordinal in self._open)):
            self._open[part.ordinal].parts[part.number] = part
        # several parts may fail at once: the first one decides
        news = tuple(result for result in done.failed if self._open.pop(result.ordinal, None) is not None)
        if not self._open and self._ordered is not None:
            self._ordered.give_up()
        return PartDone(done.number, done.size, sent, (), news)

    @property
    def is_open(self) -> bool:
        """Whether some copy still needs parts or its end."""
        return bool(self._open)

    @property
    def parts_are_done(self) -> bool:
        return self._parts_left == 0

    def end(self) -> Iterator[Job]:
        """The jobs after those of the parts: the last one; or, once, every part's again, if the proof has not come out.

        What is sent again replaces what was sent, here and in the ledger, where it is news as any part.
        """
        if self._may_doubt and not self._is_proven():
            self._may_doubt, self._reads_all = False, True
            return self._part_jobs()
        return iter((self.finish(),))

    def finish(self) -> Job:
        """The last job: join the parts at each target."""
        copies = tuple(self._open.values())
        return Job(0, lambda: Finished(tuple(self._finish(copy) for copy in copies)))

    def give_up(self, started: Sequence[UploadStarted]) -> Job:
        """Instead of `on_begun`, where nobody may go on: take away the uploads that were just begun, and no others."""
        stores = {copy.ordinal: copy.store for copy in self._copies}

        def abort() -> Finished:
            for upload in started:
                self._abort(stores[upload.ordinal], upload)
            return Finished(())

        return Job(0, abort)

    # in threads

    def _begin(self) -> Begun:
        begun = self._look()
        for copy in self._copies:
            if copy.ordinal not in begun.uploads:
                # none is gone on with: once it has its outcome the ledger forgets its upload, and no part may stay at the target
                self._quietly(copy.store, partial(drop_uploads, key=self.planned.target_key))
        return begun

    def _look(self) -> Begun:
        try:
            info = self._caller.call(self.planned.store, lambda store: store.head(self.planned.key))
            check_source(self.planned, info)
            tags = read_tags(self.planned.store, info, self._caller)
        except DriftedError as drift:
            return self._nothing(self._source_results(drift))
        except StoreError as error:
            return self._nothing(self._source_results(as_drift(error)))
        wanted = Wanted(self.planned.target_key, kept_attributes(info), tags, info.etag_md5)
        settled: list[CopyResult] = []
        started: list[UploadStarted] = []
        uploads: dict[int, Upload] = {}
        taken: dict[int, Taken] = {}
        for copy in self._copies:
            try:
                found = self._caller.call(copy.store, partial(self._begin_at, copy=copy, wanted=wanted))
            except (DriftedError, StoreError) as error:
                settled.append(_ended(copy, error))
                continue
            if isinstance(found, CopyResult):
                settled.append(found)
            elif isinstance(found, Taken):
                taken[copy.ordinal] = found
            else:
                uploads[copy.ordinal] = found
                known = self._known.get(copy.ordinal)
                if known is None or found.started != known.started:
                    started.append(found.started)
        return Begun(tuple(settled), tuple(started), uploads, taken, wanted.attributes, tags, info.etag_md5)

    def _begin_at(self, store: Store, *, copy: PlannedCopy, wanted: Wanted) -> Upload | Taken | CopyResult:
        """The upload to go on with, or a new one; where the target has an object already, what to compare with, or the result."""
        key = wanted.key
        if not store.capabilities.multipart:
            raise UnsupportedError(store.name, "multipart", "the store takes no object in parts")
        if wanted.tags and not store.capabilities.tags:
            raise UnsupportedError(store.name, "tags", "the store keeps no tags")
        known = self._known.get(copy.ordinal)
        parts = self._complete(known)
        taken = look_at(store, wanted, self.planned.size, parts, replaceable=self._repairs.get(copy.ordinal))
        if taken is not None:
            return taken if taken.equal is None else self._settle(store, copy, wanted, taken, parts or ())
        if known is not None and known.started.part_bytes == self.part_bytes:
            kept = kept_parts(store, key, known) if known.started.attributes == wanted.digest else None
            if kept is not None:
                return Upload(known.started, kept)
        drop_uploads(store, wanted.key)  # from a life whose ledger entry was lost: parts in the wrong hands
        upload_id = store.create_upload(key, attributes=wanted.attributes)
        pause_at(PausePoint.UPLOAD_CREATED)
        return Upload(UploadStarted(copy.ordinal, upload_id, self.part_bytes, wanted.digest), {})

    def _settle(
        self,
        store: Store,
        copy: PlannedCopy,
        wanted: Wanted,
        taken: Taken,
        parts: Sequence[PartSent],
        evidence: Evidence | None = None,
    ) -> CopyResult:
        """The result where the target key is taken, and it is known whether the content is equal: then it is `parts`."""
        if taken.equal and may_keep(store, wanted, taken):
            outcome = Outcome.COPIED if taken.ours else Outcome.PRESENT
            evidence = evidence or self._final_evidence(parts)
            return self._receipt(outcome, copy.ordinal, parts, wanted.digest, taken.found, evidence)
        return occupied(copy)

    def _part_jobs(self) -> Iterator[Job]:
        if self._begun is not None and self._begun.etag_md5 is not None:
            self._ordered = OrderedMd5()
        numbers = [
            number
            for number in range(1, len(self._ranges) + 1)
            if self._reads_all or any(number not in copy.parts for copy in self._open.values())
        ]
        self._parts_left = len(numbers)
        return (
            Job(self._ranges[number - 1][1], partial(self._send_part, number, agreed=not self._may_doubt))
            for number in numbers
        )

    def _send_part(self, number: int, *, agreed: bool) -> PartDone:
        """Read a part and send it to the copies that lack it. `agreed`: two reads must agree where nothing guards the way."""
        size = self._ranges[number - 1][1]
        # what is there is compared first, since then the part may have to be read again
        opened = sorted(self._open.values(), key=lambda copy: copy.upload is not None)
        if not self._reads_all and all(number in copy.parts for copy in opened):
            return PartDone(number, size, (), (), ())
        heard = {copy.parts[number].sha256 for copy in opened if number in copy.parts}
        try:
            body = self._read(number, heard if agreed else None)
        except (DriftedError, StoreError) as error:
            if self._ordered is not None:
                self._ordered.give_up()
            for copy in list(self._open.values()):
                self._abort(copy.copy.store, copy.upload)
            return PartDone(number, size, (), (), self._source_results(error))
        if self._ordered is not None:
            self._ordered.feed(number, body)
        sent: list[PartSent] = []
        equal: list[PartSent] = []
        gone: list[CopyResult] = []
        part = new_part(number, body)
        for copy in opened:
            known = copy.parts.get(number)
            if known is not None and known.sha256 == part.sha256:
                continue  # else an earlier life sent other bytes: the MD5 of what is read now would not speak for them
            mine = replace(part, ordinal=copy.copy.ordinal)
            try:
                if copy.upload is not None:
                    sent.append(self._put_part(copy.copy.store, copy.upload, mine, body))
                elif copy.taken is not None and self._has(copy.copy.store, copy.taken, mine):
                    equal.append(mine)
                elif not agreed:
                    return self._send_part(number, agreed=True)
                else:
                    gone.append(occupied(copy.copy))
            except StoreError as error:
                self._abort(copy.copy.store, copy.upload)
                gone.append(failed(copy.copy, error))
        return PartDone(number, size, tuple(sent), tuple(equal), tuple(gone))

    def _has(self, store_name: str, taken: Taken, part: PartSent) -> bool:
        """Whether what is there is equal in this part: a request of its own, so that what fails is tried again from here."""
        start = self._ranges[part.number - 1][0]
        key = self.planned.target_key
        return self._caller.call(store_name, lambda store: holds(store, key, taken.found, start, part))

    def _read(self, number: int, heard: Collection[bytes] | None) -> bytes:
        """The bytes of a part.

        Where nothing guards the way, two reads must agree. `heard` are the SHA-256s that earlier reads gave, and count as
        one. None leaves it to a later proof.
        """
        start, length = self._ranges[number - 1]
        self._caller.rate.wait(length)

        def read(store: Store) -> bytes:
            with store.get(self.planned.key, if_match=self.planned.etag, start=start, length=length) as download:
                check_source(self.planned, download.info)
                body = download.read()
            if len(body) != length:
                raise CorruptBodyError(
                    store.name, "GET", f"{len(body)} bytes came instead of {length}", key=self.planned.key
                )
            if heard is not None and not store.guarded and not (heard and hashlib.sha256(body).digest() in heard):
                check_unguarded(self.planned, store, body, self._caller.rate, start=start)
            return body

        try:
            return self._caller.call(self.planned.store, read)
        except StoreError as error:
            raise as_drift(error) from error

    def _put_part(self, store_name: str, upload: UploadStarted, part: PartSent, body: bytes) -> PartSent:
        etag = self._caller.call(
            store_name,
            lambda store: store.put_part(self.planned.target_key, upload.upload_id, part.number, body, md5=part.md5),
        )
        pause_at(PausePoint.PART_SENT)
        return replace(part, etag=etag)

    def _finish(self, copy: _Open) -> CopyResult:
        assert self._begun is not None, "finish comes after on_begun"
        parts = _in_order(copy)
        if len(parts) != len(self._ranges):
            raise MigrateError(
                f"{len(parts)} of {len(self._ranges)} parts are confirmed, and the copy was to be finished"
            )
        begun, name = self._begun, copy.copy.store
        wanted = Wanted(self.planned.target_key, begun.attributes, begun.tags, begun.etag_md5)
        try:
            evidence = self._final_evidence(parts)
            if copy.upload is None:
                taken, equal = copy.taken, True  # part by part
            else:
                upload = copy.upload
                ended = self._caller.call(name, lambda store: self._join(store, copy, upload, wanted, parts, evidence))
                if isinstance(ended, CopyResult):
                    return ended
                taken, equal = ended, all(self._has(name, ended, part) for part in parts)
                self._abort(name, upload)
            assert taken is not None, "a copy without an upload is compared"
            settled = replace(taken, equal=equal)
            return self._caller.call(
                name, lambda store: self._settle(store, copy.copy, wanted, settled, parts, evidence)
            )
        except (DriftedError, StoreError) as error:
            self._abort(name, copy.upload)
            return _ended(copy.copy, error)

    def _join(
        self,
        store: Store,
        copy: _Open,
        upload: UploadStarted,
        wanted: Wanted,
        parts: Sequence[PartSent],
        evidence: Evidence,
    ) -> CopyResult | Taken:
        """Join the parts, unless the key is taken by now: no store is sure to refuse that by itself (invariant 2).

        Where only reading what is there can say whether it is equal, that is left to whoever asked.
        """
        look = partial(
            look_at, store, wanted, self.planned.size, parts, replaceable=self._repairs.get(copy.copy.ordinal)
        )
        taken = look(joining=copy.joining)
        if taken is not None:
            if taken.equal is None:
                return taken
            result = self._settle(store, copy.copy, wanted, taken, parts, evidence)
            store.abort_upload(wanted.key, upload.upload_id)
            return result
        listed = [PartInfo(part.number, part.etag, part.size) for part in parts]
        copy.joining = copy.copy.ordinal not in self._repairs
        pause_at(PausePoint.PARTS_COMPLETE)
        try:
            done = store.complete_upload(wanted.key, upload.upload_id, listed, tags=wanted.tags)
        except NotFoundError:  # somebody may have joined it since
            taken = look(asked=True, joining=copy.joining)
            if taken is None:
                raise
            return taken if taken.equal is None else self._settle(store, copy.copy, wanted, taken, parts, evidence)
        pause_at(PausePoint.PARTS_JOINED)
        found = replace(store.head(wanted.key), version_id=done.version_id)
        expected = composite_etag([part.md5 for part in parts])
        if (found.size, found.etag) != (self.planned.size, done.etag) or (
            store.capabilities.etag_is_md5 and found.etag != expected
        ):
            raise CorruptBodyError(store.name, "complete", "the joined object is not what was sent", key=found.key)
        wanted.demand_kept(store, found)
        drop_uploads(store, wanted.key)  # of a request to begin one that reached the store twice
        return self._receipt(Outcome.COPIED, copy.copy.ordinal, parts, wanted.digest, found, evidence)

    def _final_evidence(self, parts: Sequence[PartSent]) -> Evidence:
        """What the parts prove. CorruptBodyError where they were all read, and are not what the source's MD5 says."""
        if self._ordered is None or self._begun is None:
            return self._evidence(parts)
        if self._ordered.digest() != self._begun.etag_md5:
            raise CorruptBodyError(
                self.planned.store, "GET", "the MD5 of what came is not the ETag", key=self.planned.key
            )
        return Evidence.MD5

    def _is_proven(self) -> bool:
        """Whether the source's ETag shows that what each open copy has is what the source has."""
        if self._ordered is not None and self._begun is not None:
            return self._ordered.digest() == self._begun.etag_md5
        return all(self._evidence(_in_order(copy)) is Evidence.COMPOSITE for copy in self._open.values())

    def _evidence(self, parts: Sequence[PartSent]) -> Evidence:
        return (
            Evidence.COMPOSITE if composite_etag([part.md5 for part in parts]) == self.planned.etag else Evidence.LENGTH
        )

    def _complete(self, known: Upload | None) -> list[PartSent] | None:
        if known is None or known.started.part_bytes != self.part_bytes or len(known.parts) != len(self._ranges):
            return None
        return [known.parts[number] for number in sorted(known.parts)]

    def _receipt(
        self,
        outcome: Outcome,
        ordinal: int,
        parts: Sequence[PartSent],
        digest: bytes,
        found: ObjectInfo,
        evidence: Evidence,
    ) -> CopyResult:
        receipt = Receipt(
            whole_digest(parts), self.part_bytes, digest, found.etag, found.version_id, evidence, self._now()
        )
        return CopyResult(ordinal, outcome, receipt)

    def _abort(self, store_name: str, upload: UploadStarted | None) -> None:
        if upload is not None:
            self._quietly(store_name, lambda store: store.abort_upload(self.planned.target_key, upload.upload_id))

    def _quietly(self, store_name: str, request: Callable[[Store], None]) -> None:
        """Take parts away from a target; what cannot be taken away now is found by the next look for orphan uploads."""
        try:
            self._caller.call(store_name, request)
        except StoreError:
            return

    def _source_results(self, error: Exception) -> tuple[CopyResult, ...]:
        copies = [entry.copy for entry in list(self._open.values())] if self._begun else list(self._copies)
        return tuple(_ended(copy, error) for copy in copies)

    @staticmethod
    def _nothing(settled: tuple[CopyResult, ...]) -> Begun:
        return Begun(settled, (), {}, {}, Attributes(), {}, None)


def _in_order(copy: _Open) -> list[PartSent]:
    return [copy.parts[number] for number in sorted(copy.parts)]


def _ended(copy: PlannedCopy, error: Exception) -> CopyResult:
    """How a copy ends at an error: drifted with its source, or quarantined."""
    if isinstance(error, DriftedError):
        return CopyResult(copy.ordinal, Outcome.DRIFTED, reason=error.reason)
    assert isinstance(error, StoreError), "only these two are caught"
    return failed(copy, error)
