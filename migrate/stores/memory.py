"""A store in memory, for tests: it behaves as a good S3 server does, or as a worse one where a test says so.

A `MemoryPlace` holds the data, and what its "server" is able to do; `place(NAME)` is the one behind every `memory:NAME` URL of
this process. A `MemoryStore` is one opening of a place. Three hooks of a place let a test break things at an exact moment:
`fault(operation, key)` is called before an operation and may raise any StoreError or block; `deliver(operation, key, effect)` is
handed what a writing request does, and may do it now, or keep it and raise: a request that stalled, which lands when the effect
is called later, and is judged by what the store holds then; `after(operation, key)` is called when the effect is there and the
answer is not: what it raises is a lost response. None is called under a lock. The operations are the methods' names, and `read`
for the body of a GET; a listing calls them once a page, with its prefix as key.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    RefusedError,
    UnreadableError,
    UnsupportedError,
)
from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.base import Body, Capabilities, Download, PartInfo, PutResult, UploadInfo
from migrate.stores.keys import key_problem
from migrate.stores.memory_place import (
    ALL_CAPABILITIES,
    PAGE_KEYS,
    HeldUpload,
    HeldVersion,
    MemoryPlace,
    forget_places,
    place,
)

__all__ = ["ALL_CAPABILITIES", "MemoryPlace", "MemoryStore", "forget_places", "place"]

# S3 user guide, "Working with archived objects": these must be restored before they can be read
_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})


class MemoryDownload:
    """A GET under way."""

    def __init__(self, info: ObjectInfo, body: bytes, read: Callable[[], None]) -> None:
        self.info = info
        self._body = memoryview(body)
        self._read = read

    def read(self) -> bytes:
        self._read()
        rest, self._body = bytes(self._body), memoryview(b"")
        return rest

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        while self._body:
            self._read()
            piece, self._body = bytes(self._body[:size]), self._body[size:]
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._body = memoryview(b"")


class MemoryStore:
    """One opening of a MemoryPlace. The contract of each method stands in `base.Store`."""

    def __init__(
        self,
        name: str,
        place: MemoryPlace,
        *,
        capabilities: Capabilities = ALL_CAPABILITIES,
        writable: bool = True,
        deletable: bool = False,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self.place = place
        self.guarded = True
        self._writable = writable
        self._deletable = writable or deletable

    # reading

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        after: str | None = start_after
        while after is not None:
            self.place.fault("list", prefix)
            infos, after = self.place.page(prefix, after)
            self.place.after("list", prefix)
            if infos:
                yield [_as_listed(info) for info in infos]

    def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
        self.place.fault("list_versions", prefix)
        if not self.place.able.versions:
            raise UnsupportedError(self.name, "list_versions", "the store has no versions")
        infos = self.place.versions(prefix)
        self.place.after("list_versions", prefix)
        for start in range(0, len(infos), PAGE_KEYS):
            yield [_as_listed(info) for info in infos[start : start + PAGE_KEYS]]

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo:
        self._begin("head", key)
        info = self._find("head", key, version_id).info
        self.place.after("head", key)
        return info

    def get(
        self,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> Download:
        self._begin("get", key)
        found = self._find("get", key, version_id)
        if if_match is not None and found.info.etag != if_match:
            raise PreconditionError(self.name, "get", "the ETag is another", key=key)
        if found.info.storage_class in _ARCHIVED or found.info.encryption == "SSE-C":
            raise UnreadableError(self.name, "get", "archived, or under the customer's own key", key=key)
        body = found.body
        if start is not None:
            if start >= len(body):
                raise PermanentStoreError(self.name, "get", "the range begins behind the end", key=key)
            body = body[start : None if length is None else start + length]
        self.place.after("get", key)
        return MemoryDownload(found.info, body, lambda: self.place.fault("read", key))

    def get_tags(self, key: str, *, version_id: str | None = None) -> Tags:
        self._begin("get_tags", key)
        self._need_tags("get_tags", key)
        tags = dict(self._find("get_tags", key, version_id).tags)
        self.place.after("get_tags", key)
        return tags

    def list_uploads(self, prefix: str = "") -> Sequence[UploadInfo]:
        self.place.fault("list_uploads", prefix)
        with self.place.lock:
            found = [
                UploadInfo(upload.key, upload_id, upload.started)
                for upload_id, upload in self.place.uploads.items()
                if upload.key.startswith(prefix)
            ]
        self.place.after("list_uploads", prefix)
        return sorted(found, key=lambda upload: (upload.key, upload.upload_id))

    def list_parts(self, key: str, upload_id: str) -> Sequence[PartInfo]:
        self._begin("list_parts", key)
        with self.place.lock:
            parts = self._upload("list_parts", key, upload_id).parts
            found = [parts[number][0] for number in sorted(parts)]
        self.place.after("list_parts", key)
        return found

    # writing

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
        self._begin_writing("put", key, new=True)
        if tags:
            self._need_tags("put", key)
        data = bytes(body)
        found_md5 = hashlib.md5(data, usedforsecurity=False).digest()
        able = self.place.able
        if found_md5 != md5 and able.refuses_wrong_md5:
            raise CorruptBodyError(self.name, "put", "the MD5 is another", key=key)

        def effect() -> ObjectInfo:
            with self.place.lock:
                if able.conditional_put:
                    self._check_condition("put", key, create_only, if_match)
                return self.place.lay(self._info(key, data, found_md5.hex(), attributes), data, tags)

        info: ObjectInfo = self.place.deliver("put", key, effect)
        self.place.after("put", key)
        if found_md5 != md5:
            raise CorruptBodyError(self.name, "put", "what the store holds has another MD5", key=key)
        return PutResult(info.etag, info.version_id)

    def create_upload(self, key: str, *, attributes: Attributes) -> str:
        self._begin_writing("create_upload", key, new=True)
        if not self.place.able.multipart:
            raise UnsupportedError(self.name, "create_upload", "the store takes no object in parts", key=key)
        upload_id = secrets.token_hex(16)

        def effect() -> None:
            with self.place.lock:
                self.place.uploads[upload_id] = HeldUpload(key, attributes, self.place.now())

        self.place.deliver("create_upload", key, effect)
        self.place.after("create_upload", key)
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, md5: bytes) -> str:
        self._begin_writing("put_part", key, new=True)
        data = bytes(body)
        found_md5 = hashlib.md5(data, usedforsecurity=False)
        if found_md5.digest() != md5:
            raise CorruptBodyError(self.name, "put_part", "the MD5 is another", key=key)
        etag = found_md5.hexdigest()

        def effect() -> None:
            with self.place.lock:
                upload = self._upload("put_part", key, upload_id)
                upload.parts[number] = (PartInfo(number, etag, len(data)), data)

        self.place.deliver("put_part", key, effect)
        self.place.after("put_part", key)
        return etag

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[PartInfo], *, tags: Tags) -> PutResult:
        self._begin_writing("complete_upload", key, new=True)
        if tags:
            self._need_tags("complete_upload", key)
        info: ObjectInfo = self.place.deliver("complete_upload", key, lambda: self._join(key, upload_id, parts, tags))
        self.place.after("complete_upload", key)
        return PutResult(info.etag, info.version_id)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._begin_writing("abort_upload", key, is_removal=True)

        def effect() -> None:
            with self.place.lock:
                upload = self.place.uploads.get(upload_id)
                if upload is not None and upload.key == key:
                    del self.place.uploads[upload_id]

        self.place.deliver("abort_upload", key, effect)
        self.place.after("abort_upload", key)

    def put_tags(self, key: str, tags: Tags) -> None:
        self._begin_writing("put_tags", key)
        self._need_tags("put_tags", key)

        def effect() -> None:
            with self.place.lock:
                found = self._find("put_tags", key, None)
                found.tags = dict(tags)
                found.info = replace(found.info, tag_count=len(tags))

        self.place.deliver("put_tags", key, effect)
        self.place.after("put_tags", key)

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        self._begin_writing("delete", key, is_removal=True)
        self.place.deliver("delete", key, lambda: self.place.remove(key, version_id))
        self.place.after("delete", key)

    def close(self) -> None:
        """Nothing to give back: the place outlives its openings."""

    # inside

    def _begin(self, operation: str, key: str) -> None:
        problem = key_problem(key)
        if problem is not None:
            raise UnsupportedError(self.name, operation, problem, key=key)
        self.place.fault(operation, key)

    def _begin_writing(self, operation: str, key: str, *, new: bool = False, is_removal: bool = False) -> None:
        if not (self._deletable if is_removal else self._writable):
            raise RefusedError(
                f"{self.name}: {operation}: the store was opened to be read", remedy="Only targets are written to."
            )
        if new and not self.place.able.takes_key(key):
            raise UnsupportedError(self.name, operation, "the store cannot hold such a key", key=key)
        self._begin(operation, key)

    def _need_tags(self, operation: str, key: str) -> None:
        if not self.place.able.tags:
            raise UnsupportedError(self.name, operation, "the store keeps no tags", key=key)

    def _find(self, operation: str, key: str, version_id: str | None) -> HeldVersion:
        found = self.place.find(key, version_id)
        if found is None or found.info.is_delete_marker:
            raise NotFoundError(self.name, operation, key=key)
        return found

    def _upload(self, operation: str, key: str, upload_id: str) -> HeldUpload:
        upload = self.place.uploads.get(upload_id)
        if upload is None or upload.key != key:
            raise NotFoundError(self.name, operation, "the upload is gone", key=key)
        return upload

    def _join(self, key: str, upload_id: str, parts: Sequence[PartInfo], tags: Tags) -> ObjectInfo:
        with self.place.lock:
            upload = self._upload("complete_upload", key, upload_id)
            there = [upload.parts.get(part.number) for part in parts]
            if not parts or any(
                held is None or held[0].etag != part.etag for held, part in zip(there, parts, strict=True)
            ):
                raise PermanentStoreError(self.name, "complete_upload", "a named part is not there", key=key)
            data = b"".join(held[1] for held in there if held is not None)
            md5s = b"".join(bytes.fromhex(part.etag) for part in parts)
            etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
            info = self.place.lay(self._info(key, data, etag, upload.attributes), data, tags)
            del self.place.uploads[upload_id]
        return info

    def _check_condition(self, operation: str, key: str, create_only: bool, if_match: str | None) -> None:
        found = self.place.find(key)
        if create_only and found is not None:
            raise PreconditionError(self.name, operation, "the key exists", key=key)
        if if_match is not None and (found is None or found.info.etag != if_match):
            raise PreconditionError(self.name, operation, "the ETag is another", key=key)

    def _info(self, key: str, data: bytes, etag: str, attributes: Attributes) -> ObjectInfo:
        able = self.place.able
        return ObjectInfo(
            key=key,
            size=len(data),
            etag=etag if able.etag_is_md5 else secrets.token_hex(20),
            last_modified=self.place.now(),
            storage_class="STANDARD",
            attributes=attributes if able.metadata else replace(attributes, metadata=()),
        )


def _as_listed(info: ObjectInfo) -> ObjectInfo:
    """What a listing shows of an object: no attributes, no tags, no encryption, no lock."""
    return replace(info, attributes=Attributes(), tag_count=0, encryption=None, lock=None)
