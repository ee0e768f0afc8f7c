"""One object that is held in memory whole: one GET, one PUT a target, one result a copy.

The target is never overwritten blindly. Where the store has conditional PUT, it is asked to create; else it is looked at
first. If something is there already it is compared: equal content, attributes and tags make the copy `present`; anything
else is left alone and the copy quarantined as `occupied`, unless a repair names the ETag that it may replace.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from migrate.errors import (
    CorruptBodyError,
    DeniedError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    StoreError,
    ThrottledError,
    TransientStoreError,
    UnreachableError,
    UnsupportedError,
)
from migrate.model import (
    Attributes,
    CopyResult,
    Evidence,
    ObjectInfo,
    Outcome,
    PlannedCopy,
    PlannedObject,
    Receipt,
    Tags,
    attributes_digest,
)
from migrate.pauses import PausePoint, pause_at
from migrate.stores.base import Store
from migrate.transfer.caller import Caller
from migrate.transfer.integrity import check_whole, digest_of, has_digest, is_same
from migrate.transfer.limits import RateLimit

DEFAULT_CONTENT_TYPE = "binary/octet-stream"  # S3 API reference, PutObject: what an object without one is served as


class DriftedError(Exception):
    """The source is not what was planned: `changed` or `gone`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Body:
    """What was read of a source, with its digests."""

    data: bytes
    md5: bytes
    sha256: bytes
    attributes: Attributes
    tags: Tags
    evidence: Evidence

    @property
    def attributes_digest(self) -> bytes:
        return attributes_digest(self.attributes, self.tags)


def kept_attributes(info: ObjectInfo) -> Attributes:
    """The attributes to write: those of the source, with S3's own default where it has no content type."""
    if info.attributes.content_type is None:
        return replace(info.attributes, content_type=DEFAULT_CONTENT_TYPE)
    return info.attributes


def copy_whole(
    planned: PlannedObject,
    copies: Sequence[PlannedCopy],
    repairs: Mapping[int, str | None],
    caller: Caller,
    now: Callable[[], datetime],
) -> list[CopyResult]:
    """Copy one object to `copies`; a result each.

    `repairs` holds, by ordinal, what a verification saw at the target: that ETag may be replaced, nothing else. UnreachableError
    where a store is down: nothing is settled then, and the copies stay pending.
    """
    try:
        body = read_source(planned, caller)
    except DriftedError as drift:
        return [CopyResult(copy.ordinal, Outcome.DRIFTED, reason=drift.reason) for copy in copies]
    except StoreError as error:
        return [failed(copy, error) for copy in copies]
    pause_at(PausePoint.OBJECT_READ)
    return [_copy_to(copy, _WholeCopy(planned, copy, body, repairs, now), caller) for copy in copies]


def failed(copy: PlannedCopy, error: StoreError) -> CopyResult:
    """The copy is set aside for good, with its reason."""
    return CopyResult(copy.ordinal, Outcome.QUARANTINED, reason=error.code, detail=str(error))


def occupied(copy: PlannedCopy) -> CopyResult:
    """What the target key holds is not ours to replace (design, invariant 2)."""
    detail = f"{copy.store}: the target key holds something else"
    return CopyResult(copy.ordinal, Outcome.QUARANTINED, reason="occupied", detail=detail)


def check_source(planned: PlannedObject, info: ObjectInfo) -> None:
    """DriftedError unless `info` is the planned version."""
    if info.etag != planned.etag or info.size != planned.size:
        raise DriftedError("changed")
    if planned.version_id is not None and info.version_id is not None and info.version_id != planned.version_id:
        raise DriftedError("changed")


def as_drift(error: StoreError) -> Exception:
    """What an error at the source means: DriftedError if the object changed or is gone; else the error.

    `Caller` has looked twice before it says that something is not there.
    """
    if isinstance(error, PreconditionError):
        return DriftedError("changed")
    if isinstance(error, NotFoundError):
        return DriftedError("gone")
    return error


def read_source(planned: PlannedObject, caller: Caller) -> Body:
    """The object as planned, whole. DriftedError or StoreError where that cannot be."""
    caller.rate.wait(planned.size)

    def read(store: Store) -> tuple[ObjectInfo, bytes, bytes, Evidence]:
        with store.get(planned.key, if_match=planned.etag) as download:
            check_source(planned, download.info)
            data = download.read()
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        evidence = check_whole(download.info, data, md5, planned.size, store.name)
        if evidence is Evidence.LENGTH:
            check_unguarded(planned, store, data, caller.rate)
        return download.info, data, md5, evidence

    try:
        info, data, md5, evidence = caller.call(planned.store, read)
        tags = read_tags(planned.store, info, caller)
    except (PreconditionError, NotFoundError) as error:
        raise as_drift(error) from error
    sha256 = hashlib.sha256(data).digest()
    return Body(data, md5, sha256, kept_attributes(info), tags, evidence)


def check_unguarded(
    planned: PlannedObject, store: Store, body: bytes, rate: RateLimit, *, start: int | None = None
) -> None:
    """Read once more what no ETag proves, where nothing guards the way here. CorruptBodyError where the two differ."""
    if store.guarded:
        return
    rate.wait(len(body))
    length = None if start is None else len(body)
    with store.get(planned.key, if_match=planned.etag, start=start, length=length) as download:
        if not is_same(download, body):
            raise CorruptBodyError(store.name, "GET", "two reads of the same bytes differ", key=planned.key)


def read_tags(name: str, info: ObjectInfo, caller: Caller, *, always: bool = False) -> Tags:
    """The tags of an object at the store `name`, whose headers are `info`.

    They are asked for where the headers count some. AWS counts them only for those who may read them (S3 API reference,
    GetObject, x-amz-tagging-count). So a store is asked once in any case, and where that is denied the run ends, because tags
    would be lost without a word. With `always` the count is not relied on: wherever the store has tags, it is asked.
    """
    known = caller.has_tags.get(name)
    if not info.tag_count and known is not None and not (known and always):
        return {}
    try:
        tags = caller.call(name, lambda store: store.get_tags(info.key, version_id=info.version_id))
    except (UnsupportedError, TransientStoreError):
        # some servers answer 500 here because they have no tags: what was probed says so
        if info.tag_count or known or caller.store(name).capabilities.tags:
            raise
        caller.has_tags[name] = False
        return {}
    except DeniedError as error:
        if known:
            raise
        raise UnreachableError(
            f"{name}: tags may not be read, and would be lost",
            remedy="Allow s3:GetObjectTagging to this reader.",
        ) from error
    caller.has_tags[name] = True
    return tags


class _WholeCopy:
    """One copy of an object that was read: what is tried at its target, and what an earlier try may have left there."""

    def __init__(
        self,
        planned: PlannedObject,
        copy: PlannedCopy,
        body: Body,
        repairs: Mapping[int, str | None],
        now: Callable[[], datetime],
    ) -> None:
        self._key = planned.target_key
        self._copy = copy
        self._body = body
        self._repairs = repairs
        self._now = now
        self._maybe_written = False

    def once(self, store: Store) -> CopyResult:
        """One try; what may be tried again is raised."""
        conditional, ordinal = store.capabilities.conditional_put, self._copy.ordinal
        if not conditional or ordinal in self._repairs or self._maybe_written:
            found = _head(store, self._key)
            if found is None:
                return self._put(store, create_only=conditional)
        else:
            try:
                return self._put(store, create_only=True)
            except PreconditionError:
                found = _head(store, self._key)
                if found is None:
                    raise TransientStoreError(
                        store.name, "PUT", "refused as existing, then not found", refused=True
                    ) from None
        replaceable = self._repairs.get(ordinal) == found.etag
        if is_equal(store, self._key, found, self._body, trust_etag=not replaceable):
            # after a PUT without an answer it is our own
            outcome = Outcome.COPIED if self._maybe_written else Outcome.PRESENT
            return self._receipt(outcome, found.etag, found.version_id)
        if replaceable:
            return self._put(store, if_match=found.etag if conditional else None)
        return occupied(self._copy)

    def _put(self, store: Store, *, create_only: bool = False, if_match: str | None = None) -> CopyResult:
        body = self._body
        try:
            result = store.put(
                self._key,
                body.data,
                attributes=body.attributes,
                tags=body.tags,
                md5=body.md5,
                create_only=create_only,
                if_match=if_match,
            )
        except ThrottledError:  # refused, so nothing was written
            raise
        except TransientStoreError:
            self._maybe_written = True
            raise
        pause_at(PausePoint.OBJECT_WRITTEN)
        return self._receipt(Outcome.COPIED, result.etag, result.version_id)

    def _receipt(self, outcome: Outcome, etag: str, version_id: str | None) -> CopyResult:
        body = self._body
        receipt = Receipt(body.sha256, 0, body.attributes_digest, etag, version_id, body.evidence, self._now())
        return CopyResult(self._copy.ordinal, outcome, receipt)


def _copy_to(copy: PlannedCopy, whole: _WholeCopy, caller: Caller) -> CopyResult:
    try:
        return caller.call(copy.store, whole.once)
    except (PermanentStoreError, TransientStoreError) as error:
        return failed(copy, error)


def _head(store: Store, key: str) -> ObjectInfo | None:
    try:
        return store.head(key)
    except NotFoundError:
        return None


def is_equal(store: Store, key: str, found: ObjectInfo, body: Body, *, trust_etag: bool) -> bool:
    """Whether the target holds this content with these attributes and tags.

    Read again where its ETag is no MD5, or where a verification read bytes under that ETag that were not what it says.
    """
    if found.size != len(body.data):
        return False
    if found.etag_md5 != body.md5 or not trust_etag:
        if found.etag_md5 is not None and store.capabilities.etag_is_md5:
            return False

        def read() -> bytes:
            with store.get(key, if_match=found.etag) as download:
                return digest_of(download, 0)

        if not has_digest(read, body.sha256, store.name):
            return False
    try:
        # the count in the headers is hidden from who may not read tags
        tags = store.get_tags(key) if store.capabilities.tags or found.tag_count or body.tags else {}
    except UnsupportedError:
        return False
    return attributes_digest(kept_attributes(found), tags) == body.attributes_digest
