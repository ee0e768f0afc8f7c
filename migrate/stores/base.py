"""The contract of a store. Three implementations pass one suite: `s3`, `file`, `memory`. What a store can do is data.

Rules for all of them:

- Keys are relative to the store's prefix, and arrive under exactly their own name, whatever S3 allows (1 to 1,024 bytes of
  UTF-8): `a//b`, `/lead`, `trail/`, `a/../b`, newlines, tabs, control characters. What cannot be kept raises UnsupportedError.
- Nothing is retried inside; one layer above retries (TransientStoreError, ThrottledError). Every request has a time limit.
- `NotFoundError` only where the store said so. A listing that fails raises; it never ends early and quietly.
- A store that was opened to be read raises RefusedError at anything that would change it, before a byte is sent.
- All methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.keys import ODD_KEYS, odd_kinds

Body = bytes | bytearray | memoryview

MULTIPART_MIN_BYTES = 5 * 2**20  # S3: every part but the last has at least 5 MiB
MULTIPART_MAX_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store was found to do (`migrate doctor` probes it). The defaults are what may be assumed of a stranger."""

    conditional_put: bool = False  # If-None-Match: * is honoured, and If-Match on PUT
    refuses_wrong_md5: bool = False
    refuses_wrong_sha256: bool = False
    etag_is_md5: bool = False  # of a single-part PUT
    tags: bool = False
    metadata: bool = False
    versions: bool = False
    multipart: bool = False
    # odd keys arrive under their own name, by what is odd in them (`stores.keys.odd_kinds`)
    empty_segments: bool = False
    trailing_slashes: bool = False
    dot_segments: bool = False
    line_breaks: bool = False
    control_characters: bool = False
    object_lock: bool = False
    small_put: bool = False  # small plain objects may be sent the short way, without Content-MD5 (`s3_fast`)

    def bent_kinds(self) -> list[str]:
        """The kinds of odd keys that the store is not trusted with."""
        return [kind for kind in ODD_KEYS if not getattr(self, kind)]

    def takes_key(self, key: str) -> bool:
        """Whether the store is trusted with a key, its prefix included."""
        return all(getattr(self, kind) for kind in odd_kinds(key))


@dataclass(frozen=True, slots=True)
class PutResult:
    etag: str
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class PartInfo:
    number: int
    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class UploadInfo:
    """An upload that was begun and not ended. `started` is None where the store does not say when."""

    key: str
    upload_id: str
    started: datetime | None = None


class Download(Protocol):
    """A GET under way. `info` has every header; for a range, `info.size` is the whole object's size."""

    info: ObjectInfo

    def read(self) -> bytes:
        """The rest of the body. Raises CorruptBodyError if it ends before its announced length."""
        ...

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        """The body in pieces of up to `size` bytes, for what need not be in memory at once."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """One bucket and prefix, one folder, or one place in memory."""

    name: str
    capabilities: Capabilities
    guarded: bool
    """Whether nothing between here and the store can change bytes unseen: TLS is spoken, or there is no network."""

    # reading
    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        """Pages of current objects under `prefix`, in UTF-8 byte order of the key, after `start_after`."""
        ...

    def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
        """Pages of all versions and delete markers. UnsupportedError where there are none to be had."""
        ...

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo: ...

    def get(
        self,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> Download:
        """GET, whole or `length` bytes from `start`. PreconditionError where `if_match` is not the ETag any more."""
        ...

    def get_tags(self, key: str, *, version_id: str | None = None) -> Tags: ...

    def list_uploads(self, prefix: str = "") -> Sequence[UploadInfo]:
        """Multipart uploads that were begun and not ended, under `prefix`."""
        ...

    def list_parts(self, key: str, upload_id: str) -> Sequence[PartInfo]:
        """The parts that have arrived. NotFoundError where the upload is gone."""
        ...

    # writing: targets only
    def put(
        self,
        key: str,
        body: Body,
        *,
        attributes: Attributes,
        tags: Tags,
        md5: bytes,
        create_only: bool = False,
        if_match: str | None = None,
    ) -> PutResult:
        """One PUT. With `create_only`, PreconditionError where the key exists (needs `conditional_put`).

        Returns only when the store has confirmed these bytes: its ETag is `md5`, or it refuses a wrong Content-MD5, or a
        second look showed the same content. Else CorruptBodyError. UnsupportedError where the store kept other attributes:
        then the object is not left there.
        """
        ...

    def create_upload(self, key: str, *, attributes: Attributes) -> str:
        """Begin a multipart upload; the id."""
        ...

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, md5: bytes) -> str:
        """Send part `number` (from 1); its ETag, confirmed like `put`'s."""
        ...

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[PartInfo], *, tags: Tags) -> PutResult:
        """Join the parts, set `tags`, and look at the content: return the ETag that HEAD shows.

        Whether the store kept attributes and tags is the caller's to see.
        """
        ...

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload and its parts. Quiet where it is gone already."""
        ...

    def put_tags(self, key: str, tags: Tags) -> None:
        """Set the tags of an object. Whether the store kept them is the caller's to see."""
        ...

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        """Delete. Quiet where it is gone already."""
        ...

    def close(self) -> None: ...
