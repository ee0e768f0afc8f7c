"""What shows that the bytes read are the source's, and the bytes written ours.

Source of the ETag forms: S3 User Guide, "Checking object integrity": MD5 of a single-part object; for a multipart object the
MD5 over the parts' MD5s, and `-` and their number.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

from migrate.errors import CorruptBodyError
from migrate.model import Evidence, ObjectInfo, composite_sha256
from migrate.stores.base import MULTIPART_MAX_PARTS, Download

MIB = 2**20
# what uploaders use: rclone 5, AWS CLI and SDKs 8, s3cmd 15, our own default 16, s5cmd 50
_COMMON_PART_BYTES = tuple(size * MIB for size in (5, 8, 10, 15, 16, 20, 25, 32, 50, 64))

_COMPOSITE = re.compile(r"([0-9a-f]{32})-([1-9][0-9]{0,4})")


def composite_etag(part_md5s: Sequence[bytes]) -> str:
    """The ETag of a multipart object with these parts."""
    return f"{hashlib.md5(b''.join(part_md5s), usedforsecurity=False).hexdigest()}-{len(part_md5s)}"


def composite_parts(etag: str) -> int | None:
    """How many parts a composite ETag speaks of; None where it is none."""
    match = _COMPOSITE.fullmatch(etag)
    return int(match[2]) if match else None


def part_bytes_for(size: int, etag: str, configured: int) -> int:
    """The part size to send an object in; the same for every worker, since it depends on the plan alone.

    Where the source's ETag tells how many parts it was sent in, a common size that gives as many is taken: then our composite
    ETag shows whether the bytes are the same. Else the configured size, or more if there would be over 10,000 parts.
    """
    parts = composite_parts(etag)
    if parts is not None:
        for candidate in _COMMON_PART_BYTES:
            if -(-size // candidate) == parts:
                return candidate
    least = -(-size // MULTIPART_MAX_PARTS)
    return max(configured, -(-least // MIB) * MIB)


def part_ranges(size: int, part_bytes: int) -> list[tuple[int, int]]:
    """(start, length) of each part, in order."""
    return [(start, min(part_bytes, size - start)) for start in range(0, size, part_bytes)]


def check_whole(info: ObjectInfo, body: bytes, md5: bytes, planned_size: int, store: str) -> Evidence:
    """The evidence that `body` is the object. CorruptBodyError where it is not."""
    if len(body) != planned_size:
        raise CorruptBodyError(store, "GET", f"{len(body)} bytes came instead of {planned_size}", key=info.key)
    expected = info.etag_md5
    if expected is not None:
        if md5 != expected:
            raise CorruptBodyError(store, "GET", "the MD5 of what came is not the ETag", key=info.key)
        return Evidence.MD5
    if composite_parts(info.etag) is not None:
        size = part_bytes_for(len(body), info.etag, 0) or 1
        view = memoryview(body)
        md5s = [
            hashlib.md5(view[start : start + length], usedforsecurity=False).digest()
            for start, length in part_ranges(len(body), size)
        ]
        if composite_etag(md5s) == info.etag:
            return Evidence.COMPOSITE
    return Evidence.LENGTH


def is_same(download: Download, body: bytes) -> bool:
    """Whether what is read is `body`, looked at in pieces."""
    view, at = memoryview(body), 0
    for chunk in download.chunks():
        if view[at : at + len(chunk)] != chunk:
            return False
        at += len(chunk)
    return at == len(view)


def demand_same(first: bytes, second: bytes, store: str) -> None:
    """CorruptBodyError where the digests of two reads differ: then the way here changes bytes, and nothing is known of them."""
    if first != second:
        raise CorruptBodyError(store, "GET", "two reads of the same bytes differ")


def has_digest(read: Callable[[], bytes], expected: bytes, store: str) -> bool:
    """Whether `read` gives the `expected` digest. It is called a second time before that is denied."""
    digest = read()
    if digest == expected:
        return True
    demand_same(digest, read(), store)
    return False


def looks_like_md5(etag: str) -> bytes | None:
    """The 16 bytes of an ETag of 32 hex digits, else None."""
    return bytes.fromhex(etag) if re.fullmatch(r"[0-9a-f]{32}", etag) else None


def digest_of(download: Download, part_bytes: int) -> bytes:
    """The SHA-256 of a body, or the composite one over parts of `part_bytes`, read in pieces."""
    if part_bytes == 0:
        whole = hashlib.sha256()
        for chunk in download.chunks():
            whole.update(chunk)
        return whole.digest()
    digests: list[bytes] = []
    part, filled = hashlib.sha256(), 0
    for chunk in download.chunks():
        view = memoryview(chunk)
        while len(view):
            piece = view[: part_bytes - filled]
            part.update(piece)
            filled += len(piece)
            view = view[len(piece) :]
            if filled == part_bytes:
                digests.append(part.digest())
                part, filled = hashlib.sha256(), 0
    if filled:
        digests.append(part.digest())
    return composite_sha256(digests)
