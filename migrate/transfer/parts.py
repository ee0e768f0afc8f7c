"""The values that describe an object under way in parts, and the MD5 that its parts take turns at."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from migrate.model import Attributes, CopyResult, ObjectInfo, Tags, composite_sha256
from migrate.transfer.integrity import looks_like_md5


@dataclass(frozen=True, slots=True)
class PartSent:
    """One part of one copy that a target has confirmed."""

    ordinal: int
    number: int
    etag: str
    md5: bytes
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class UploadStarted:
    """A multipart upload that now exists at a target. `attributes` is the digest of what it was begun with."""

    ordinal: int
    upload_id: str
    part_bytes: int
    attributes: bytes


@dataclass(frozen=True, slots=True)
class Upload:
    """What the ledger remembers of an upload: how it was begun and the parts that were confirmed."""

    started: UploadStarted
    parts: Mapping[int, PartSent]


@dataclass(frozen=True, slots=True)
class Taken:
    """What lies at a target key. `equal`: whether its content is the wanted one; None where only reading it can say so.

    `ours`: it may be what was joined from our own parts, by a request or in a life that ended before its receipt.
    """

    found: ObjectInfo
    ours: bool
    equal: bool | None


@dataclass(frozen=True, slots=True)
class Begun:
    """The source was looked at; some copies may be settled already, the others have an upload, or an object to compare with."""

    settled: tuple[CopyResult, ...]
    started: tuple[UploadStarted, ...]
    uploads: Mapping[int, Upload]
    taken: Mapping[int, Taken]
    attributes: Attributes
    tags: Tags
    etag_md5: bytes | None


@dataclass(frozen=True, slots=True)
class PartDone:
    """One part was read, and sent to the copies that lacked it, or found `equal` where they are there; or copies failed at it."""

    number: int
    size: int
    sent: tuple[PartSent, ...]
    equal: tuple[PartSent, ...]
    failed: tuple[CopyResult, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of all copies that were still open."""

    settled: tuple[CopyResult, ...]


Event = Begun | PartDone | Finished


@dataclass(frozen=True, slots=True)
class Job:
    """Work for a thread: `run` returns an Event. `cost` is the memory it needs, in bytes."""

    cost: int
    run: Callable[[], Event]


class OrderedMd5:
    """An MD5 over parts that arrive side by side: each waits for its turn. Jobs are handed out in order, so turns come."""

    def __init__(self) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)
        self._turn = threading.Condition()
        self._next = 1
        self._broken = False

    def feed(self, number: int, body: bytes) -> None:
        with self._turn:
            while self._next < number and not self._broken:
                self._turn.wait()
            if self._broken or self._next > number:
                return
            self._digest.update(body)
            self._next += 1
            self._turn.notify_all()

    def give_up(self) -> None:
        with self._turn:
            self._broken = True
            self._turn.notify_all()

    def digest(self) -> bytes:
        return self._digest.digest()


def new_part(number: int, body: bytes) -> PartSent:
    """A part that was read and is not yet any copy's: it has no ordinal and no ETag."""
    md5 = hashlib.md5(body, usedforsecurity=False).digest()
    return PartSent(-1, number, "", md5, hashlib.sha256(body).digest(), len(body))


def whole_digest(parts: Sequence[PartSent]) -> bytes:
    """The composite SHA-256 of an object with these parts."""
    return composite_sha256(part.sha256 for part in parts)


def remembered_part(ordinal: int, number: int, etag: str, sha256: bytes, size: int) -> PartSent:
    """A part as the ledger remembers it: its MD5 is its ETag, where that is one."""
    return PartSent(ordinal, number, etag, looks_like_md5(etag) or b"", sha256, size)
