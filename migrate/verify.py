"""One check and its verdict. Reads the target again and trusts nothing that the copier wrote but the receipt's two digests;
at both ends not even those, nor the count of tags in an object's headers (design, invariant 8). Knows no ledger.

What could not be checked is UNKNOWN, never a MATCH (invariant 9). A store that is down raises UnreachableError: then nothing
is said about any copy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

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
)
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.transfer.integrity import digest_of
from migrate.transfer.whole import DriftedError, as_drift, check_source, kept_attributes, read_tags


@dataclass(frozen=True, slots=True)
class Seen:
    """The source as it was read: its digests of content, and of attributes and tags, in the receipt's form."""

    sha256: bytes
    attributes: bytes


@dataclass(frozen=True, slots=True)
class Extra:
    """An object under a user's target prefix that no copy stands for."""

    store: str
    key: str
    user_id: str
    size: int


def check_object(
    planned: PlannedObject, receipts: Mapping[int, Receipt], level: Level, caller: Caller
) -> list[CheckResult]:
    """Check the copies of one object that have a receipt, by reading them. `level` is content or both-ends."""
    copies = [copy for copy in planned.copies if copy.ordinal in receipts]
    if level is Level.CONTENT:
        return [_check_content(planned, copy, receipts[copy.ordinal], caller) for copy in copies]
    sources: dict[int, Seen] = {}
    results: list[CheckResult] = []
    for copy in copies:
        part_bytes = receipts[copy.ordinal].part_bytes
        try:
            if part_bytes not in sources:
                sources[part_bytes] = _read_source(planned, part_bytes, caller)
        except DriftedError as drift:
            results.append(CheckResult(copy.ordinal, Verdict.UNKNOWN, f"source_{drift.reason}"))
        except StoreError as error:
            results.append(CheckResult(copy.ordinal, Verdict.UNKNOWN, f"source_{error.code}"))
        else:
            source = sources[part_bytes]
            results.append(_compare(planned, copy, part_bytes, source.sha256, source.attributes, caller, always=True))
    return results


def _check_content(planned: PlannedObject, copy: PlannedCopy, receipt: Receipt, caller: Caller) -> CheckResult:
    return _compare(planned, copy, receipt.part_bytes, receipt.sha256, receipt.attributes, caller)


def _compare(
    planned: PlannedObject,
    copy: PlannedCopy,
    part_bytes: int,
    sha256: bytes,
    attributes: bytes,
    caller: Caller,
    *,
    always: bool = False,
) -> CheckResult:
    """The verdict on one copy. `always`: its tags are asked for even where its headers count none."""
    try:
        info, digest = _read(planned.target_key, copy.store, part_bytes, caller)
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


def _read_source(planned: PlannedObject, part_bytes: int, caller: Caller) -> Seen:
    caller.rate.wait(planned.size)

    def check(info: ObjectInfo) -> None:
        check_source(planned, info)

    try:
        info, sha256 = _read(planned.key, planned.store, part_bytes, caller, check, if_match=planned.etag)
        tags = read_tags(planned.store, info, caller, always=True)
    except (NotFoundError, PreconditionError) as error:
        raise as_drift(planned, caller, error) from error
    return Seen(sha256, attributes_digest(kept_attributes(info), tags))


def _read(
    key: str,
    store_name: str,
    part_bytes: int,
    caller: Caller,
    check: Callable[[ObjectInfo], None] = lambda info: None,
    *,
    if_match: str | None = None,
) -> tuple[ObjectInfo, bytes]:
    def read(store: Store) -> tuple[ObjectInfo, bytes]:
        with store.get(key, if_match=if_match) as download:
            check(download.info)
            return download.info, digest_of(download, part_bytes)

    return caller.call(store_name, read)


# by listing


@dataclass(frozen=True, slots=True)
class Expected:
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


def tally(results: Iterable[CheckResult]) -> dict[Verdict, int]:
    """How many results each verdict has."""
    counts = dict.fromkeys(Verdict, 0)
    for result in results:
        counts[result.verdict] += 1
    return counts
