"""One check and its verdict. Reads the target again and trusts nothing that the copier wrote but the receipt's two digests;
at both ends not even those, nor the count of tags in an object's headers (design, invariant 8). Knows no ledger.

What could not be checked is UNKNOWN, never a MATCH (invariant 9). A store that is down raises UnreachableError: then nothing
is said about any copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

from migrate.errors import NotFoundError, PreconditionError, StoreError
from migrate.model import (
    CheckResult,
    Level,
    ObjectInfo,
    PlannedCopy,
    PlannedObject,
    Receipt,
    Verdict,
    attributes_digest,
    composite_sha256,
)
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.transfer.integrity import demand_same, digest_of, part_ranges
from migrate.transfer.whole import DriftedError, as_drift, check_source, kept_attributes, read_tags


@dataclass(frozen=True, slots=True)
class Extra:
    """An object under a user's target prefix that no copy stands for."""

    store: str
    key: str
    user_id: str
    size: int


class _Ends(Protocol):
    """How the ends of one object are read: headers, and the content's digest in the form of a receipt.

    What a network bends is not the same again: a digest that is not the expected one is had twice. For that alone the source's
    is compared with the receipt's.
    """

    def source(self, receipt: Receipt) -> tuple[ObjectInfo, bytes]: ...

    def target(self, copy: PlannedCopy, receipt: Receipt, expected: bytes) -> tuple[ObjectInfo, bytes]: ...


def check_object(
    planned: PlannedObject, receipts: Mapping[int, Receipt], level: Level, caller: Caller
) -> list[CheckResult]:
    """Check the copies of one object that have a receipt, by reading them. `level` is content or both-ends."""
    return _verdicts(planned, receipts, level, caller, _Whole(planned, caller))


def _verdicts(
    planned: PlannedObject, receipts: Mapping[int, Receipt], level: Level, caller: Caller, ends: _Ends
) -> list[CheckResult]:
    copies = [copy for copy in planned.copies if copy.ordinal in receipts]
    if level is Level.CONTENT:
        return [
            _compare(copy, receipts[copy.ordinal], _expected(receipts[copy.ordinal]), caller, ends) for copy in copies
        ]
    sources: dict[int, tuple[bytes, bytes]] = {}
    results: list[CheckResult] = []
    for copy in copies:
        receipt = receipts[copy.ordinal]
        try:
            if receipt.part_bytes not in sources:
                sources[receipt.part_bytes] = _source_digests(planned, receipt, caller, ends)
        except DriftedError as drift:
            results.append(_without_source(copy, receipt, f"source_{drift.reason}", caller, ends))
        except StoreError as error:
            results.append(_without_source(copy, receipt, f"source_{error.code}", caller, ends))
        else:
            results.append(_compare(copy, receipt, sources[receipt.part_bytes], caller, ends, always=True))
    return results


def _expected(receipt: Receipt) -> tuple[bytes, bytes]:
    return receipt.sha256, receipt.attributes


def _without_source(copy: PlannedCopy, receipt: Receipt, reason: str, caller: Caller, ends: _Ends) -> CheckResult:
    """The source cannot be compared with: what differs from its receipt is wrong all the same, what does not is UNKNOWN."""
    result = _compare(copy, receipt, _expected(receipt), caller, ends, always=True)
    if result.verdict is Verdict.MATCH:
        return CheckResult(copy.ordinal, Verdict.UNKNOWN, reason, result.etag)
    if result.verdict is Verdict.MISMATCH:
        return CheckResult(copy.ordinal, Verdict.MISMATCH, f"receipt_{result.reason}", result.etag)
    return result


def _source_digests(planned: PlannedObject, receipt: Receipt, caller: Caller, ends: _Ends) -> tuple[bytes, bytes]:
    """The source's digests of content, and of attributes and tags, in the receipt's form."""
    try:
        info, sha256 = ends.source(receipt)
        tags = read_tags(planned.store, info, caller, always=True)
    except (NotFoundError, PreconditionError) as error:
        raise as_drift(error) from error
    return sha256, attributes_digest(kept_attributes(info), tags)


def _compare(
    copy: PlannedCopy,
    receipt: Receipt,
    expected: tuple[bytes, bytes],
    caller: Caller,
    ends: _Ends,
    *,
    always: bool = False,
) -> CheckResult:
    """The verdict on one copy. `always`: its tags are asked for even where its headers count none."""
    sha256, attributes = expected
    try:
        info, digest = ends.target(copy, receipt, sha256)
        if digest != sha256:
            return CheckResult(copy.ordinal, Verdict.MISMATCH, "content", info.etag)
        if _has_attributes(copy.store, info, attributes, caller, always=always):
            return CheckResult(copy.ordinal, Verdict.MATCH, None, info.etag)
        return CheckResult(copy.ordinal, Verdict.MISMATCH, "attributes", info.etag)
    except NotFoundError:
        return CheckResult(copy.ordinal, Verdict.MISSING, "not_found")
    except StoreError as error:
        return CheckResult(copy.ordinal, Verdict.UNKNOWN, error.code)


def _has_attributes(store: str, info: ObjectInfo, expected: bytes, caller: Caller, *, always: bool) -> bool:
    """Whether attributes and tags are those of the digest `expected`. A count of none is not enough to call them different."""
    kept = kept_attributes(info)
    if attributes_digest(kept, read_tags(store, info, caller, always=always)) == expected:
        return True
    if always or info.tag_count:
        return False
    return attributes_digest(kept, read_tags(store, info, caller, always=True)) == expected


class _Whole:
    """Each end is one GET."""

    def __init__(self, planned: PlannedObject, caller: Caller) -> None:
        self._planned = planned
        self._caller = caller

    def source(self, receipt: Receipt) -> tuple[ObjectInfo, bytes]:
        planned = self._planned
        self._caller.rate.wait(planned.size)

        def read(store: Store) -> tuple[ObjectInfo, bytes]:
            with store.get(planned.key, if_match=planned.etag) as download:
                check_source(planned, download.info)
                return download.info, digest_of(download, receipt.part_bytes)

        return self._read(planned.store, read, receipt.sha256)

    def target(self, copy: PlannedCopy, receipt: Receipt, expected: bytes) -> tuple[ObjectInfo, bytes]:
        def read(store: Store) -> tuple[ObjectInfo, bytes]:
            with store.get(self._planned.target_key) as download:
                return download.info, digest_of(download, receipt.part_bytes)

        return self._read(copy.store, read, expected)

    def _read(
        self, name: str, read: Callable[[Store], tuple[ObjectInfo, bytes]], expected: bytes
    ) -> tuple[ObjectInfo, bytes]:
        def agreed(store: Store) -> tuple[ObjectInfo, bytes]:
            info, digest = read(store)
            if digest != expected:
                demand_same(digest, read(store)[1], store.name)
            return info, digest

        return self._caller.call(name, agreed)


# in parts


class _PartedEnd:
    """One end of a large object: what the first look showed, and the digests of the parts that were read since."""

    def __init__(self, store: str, key: str, parts: int) -> None:
        self.store = store
        self.key = key
        self.info: ObjectInfo | None = None
        self.error: Exception | None = None
        self.digests = [b""] * parts

    def seen(self) -> tuple[ObjectInfo, bytes]:
        """Headers and composite digest; raises what went wrong."""
        if self.error is not None:
            raise self.error
        assert self.info is not None, "every end was looked at"
        return self.info, composite_sha256(self.digests)


def _head(store: Store, key: str) -> ObjectInfo:
    return store.head(key)


class PartedCheck:
    """The check of a large object whose receipts have its parts' size: each part of each end is a GET of its own.

    They are read side by side, and what fails is tried again from its part and not from the beginning. Every GET carries
    If-Match with the ETag of the first look, so that nothing is read half old, half new. Nothing says what one part should be,
    but the receipt says what they make together: only an end that is something else is read again where nothing guards the
    way to it. Jobs run in threads, each at a place of its own; `parts` and `take_part` are the driving thread's.
    """

    def __init__(self, planned: PlannedObject, receipts: Mapping[int, Receipt], level: Level, caller: Caller) -> None:
        self.planned = planned
        self.receipts = receipts
        self._level = level
        self._caller = caller
        part_bytes = next(iter(receipts.values())).part_bytes
        self._ranges = part_ranges(planned.size, part_bytes)
        self._source = _PartedEnd(planned.store, planned.key, len(self._ranges)) if level is Level.BOTH_ENDS else None
        self._targets = {
            copy.ordinal: _PartedEnd(copy.store, planned.target_key, len(self._ranges))
            for copy in planned.copies
            if copy.ordinal in receipts
        }
        self._left = 0
        self._rounds = 0

    @staticmethod
    def serves(planned: PlannedObject, receipts: Mapping[int, Receipt]) -> bool:
        """Whether the object has several parts, of the same size in all receipts."""
        sizes = {receipt.part_bytes for receipt in receipts.values()}
        return len(sizes) == 1 and 0 < min(sizes) < planned.size

    def look(self) -> None:
        """The first job: the headers of each end."""
        for end in self._ends():
            try:
                end.info = self._caller.call(end.store, partial(_head, key=end.key))
                if end is self._source:
                    check_source(self.planned, end.info)
            except (DriftedError, StoreError) as error:
                end.error = error

    def parts(self) -> list[Callable[[], None]]:
        """The next jobs that read parts, in order: those of every end, then those of the ends in doubt; then there are none.

        Where the source is not what was copied, the targets' are read all the same.
        """
        ends = [
            end
            for end in self._ends()
            if end.error is None and end.info is not None and end.info.size == self.planned.size
        ]
        self._rounds += 1
        if self._rounds > 1:
            ends = [end for end in ends if self._rounds == 2 and self._is_in_doubt(end)]
        jobs: list[Callable[[], None]] = [
            partial(self._read_part, end, index) for index in range(len(self._ranges)) for end in ends
        ]
        self._left = len(jobs)
        return jobs

    def take_part(self) -> bool:
        """One of them has ended; whether it was the last one."""
        self._left -= 1
        return self._left == 0

    def judge(self) -> list[CheckResult]:
        """The last job: a verdict a copy."""
        return _verdicts(self.planned, self.receipts, self._level, self._caller, self)

    def source(self, receipt: Receipt) -> tuple[ObjectInfo, bytes]:
        assert self._source is not None, "only at both ends"
        return self._source.seen()

    def target(self, copy: PlannedCopy, receipt: Receipt, expected: bytes) -> tuple[ObjectInfo, bytes]:
        return self._targets[copy.ordinal].seen()

    def _ends(self) -> list[_PartedEnd]:
        return [*([self._source] if self._source is not None else []), *self._targets.values()]

    def _is_in_doubt(self, end: _PartedEnd) -> bool:
        """Whether a network may have bent what was read: it is not what a receipt says, and nothing guards the way."""
        expected = {receipt.sha256 for receipt in self.receipts.values()}
        return not self._caller.store(end.store).guarded and composite_sha256(end.digests) not in expected

    def _read_part(self, end: _PartedEnd, index: int) -> None:
        """Read a part. Where it was read before, two reads have to agree."""
        if end.error is not None:
            return
        assert end.info is not None, "a part is read after the first look"
        start, length = self._ranges[index]
        etag, before = end.info.etag, end.digests[index]
        if end is self._source:
            self._caller.rate.wait(length)

        def read(store: Store) -> bytes:
            with store.get(end.key, if_match=etag, start=start, length=length) as download:
                return digest_of(download, 0)

        def agreed(store: Store) -> bytes:
            digest = read(store)
            if before and digest != before:
                demand_same(digest, read(store), store.name)
            return digest

        try:
            end.digests[index] = self._caller.call(end.store, agreed)
        except StoreError as error:
            end.error = error


def check_removed(planned: PlannedObject, copy: PlannedCopy, caller: Caller) -> CheckResult:
    """The check of a tombstone: MATCH where nothing is at its target key. `Caller` looks twice for what is not there."""
    try:
        found = caller.call(copy.store, lambda store: store.head(planned.target_key))
    except NotFoundError:
        return CheckResult(copy.ordinal, Verdict.MATCH, None)
    except StoreError as error:
        return CheckResult(copy.ordinal, Verdict.UNKNOWN, error.code)
    return CheckResult(copy.ordinal, Verdict.MISMATCH, "not_removed", found.etag)


# by listing


class Expected(NamedTuple):
    """A copy as a listing should show it."""

    ordinal: int
    key: str
    size: int
    etag: str


def check_head(store: str, expected: Expected, caller: Caller) -> CheckResult:
    """Existence, size and ETag by a HEAD, where no literal prefix allows a listing."""
    try:
        found = caller.call(store, lambda opened: opened.head(expected.key))
    except NotFoundError:
        return CheckResult(expected.ordinal, Verdict.MISSING, "not_found")
    except StoreError as error:
        return CheckResult(expected.ordinal, Verdict.UNKNOWN, error.code)
    return _by_listing(expected, found)


@dataclass(frozen=True, slots=True)
class PrefixCheck:
    """What a listing of one user's prefix at one store showed."""

    results: tuple[CheckResult, ...]
    extras: tuple[Extra, ...]
    failed: str | None = None  # why the listing could not be had


def check_prefix(
    store: str,
    user_id: str,
    prefix: str,
    expected: Sequence[Expected],
    key_from: str | None,
    key_until: str | None,
    caller: Caller,
) -> PrefixCheck:
    """List one user's prefix, and compare with the copies that are expected there.

    Keys before `key_from` and from `key_until` on belong to other batches of the same user. A listing that fails makes every
    copy UNKNOWN; it never reads as missing objects (invariant 4).
    """
    wanted = {item.key: item for item in expected}
    results: list[CheckResult] = []
    extras: list[Extra] = []

    def list_all(opened: Store) -> None:
        results.clear()
        extras.clear()
        seen: set[str] = set()
        for page in opened.list(prefix, start_after=_just_before(key_from)):
            if key_until is not None and page and not in_range(page[0].key, None, key_until):
                break
            for info in page:
                item = wanted.get(info.key)
                if item is not None:
                    seen.add(info.key)
                    results.append(_by_listing(item, info))
                elif in_range(info.key, key_from, key_until):
                    extras.append(Extra(store, info.key, user_id, info.size))
        results.extend(
            CheckResult(item.ordinal, Verdict.MISSING, "not_found") for key, item in wanted.items() if key not in seen
        )

    try:
        caller.call(store, list_all)
    except StoreError as error:
        return PrefixCheck(
            tuple(CheckResult(item.ordinal, Verdict.UNKNOWN, error.code) for item in expected), (), str(error)
        )
    return PrefixCheck(tuple(results), tuple(extras))


def _just_before(key: str | None) -> str:
    """A key that sorts before `key`, and close to it: a listing can begin there."""
    return key[:-1] if key else ""


def in_range(key: str, key_from: str | None, key_until: str | None) -> bool:
    """Whether the key lies in [from, until), in the byte order of its UTF-8."""
    raw = key.encode("utf-8", "surrogateescape")
    if key_from is not None and raw < key_from.encode("utf-8", "surrogateescape"):
        return False
    return key_until is None or raw < key_until.encode("utf-8", "surrogateescape")


def _by_listing(expected: Expected, found: ObjectInfo) -> CheckResult:
    if found.size != expected.size:
        return CheckResult(expected.ordinal, Verdict.MISMATCH, "size", found.etag)
    if found.etag != expected.etag:
        return CheckResult(expected.ordinal, Verdict.MISMATCH, "etag", found.etag)
    return CheckResult(expected.ordinal, Verdict.MATCH, None, found.etag)


def is_sampled(batch_digest: bytes, ordinal: int, sample_ppm: int) -> bool:
    """Whether a copy is in the sample: decided by the SHA-256 of its place, the same for every worker and every try."""
    if sample_ppm >= 1_000_000:
        return True
    digest = hashlib.sha256(b"sample:%b:%d" % (batch_digest, ordinal)).digest()
    return int.from_bytes(digest[:8], "big") % 1_000_000 < sample_ppm
