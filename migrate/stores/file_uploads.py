"""Multipart uploads of a file store: a folder each under `.migrate-store/uploads`, a file a part.

A part's file is named by its number and MD5, so that name and bytes appear in one rename. An upload appears and goes by one
rename of its folder as well.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from migrate.errors import CorruptBodyError, NotFoundError, PermanentStoreError
from migrate.model import Attributes
from migrate.stores.base import MULTIPART_MAX_PARTS, Body, PartInfo, UploadInfo
from migrate.stores.file_keys import RESERVED
from migrate.stores.file_reserve import Record, Reserve, dump_record, parse_record, write_all
from migrate.stores.file_tree import Tree

_FOLDER = (RESERVED, b"uploads")
_ID = re.compile(r"[0-9a-f]{32}")
_PART = re.compile(r"([0-9]{5})-([0-9a-f]{32})")
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_HEAD = "upload"  # the upload's key and attributes, as a record
_CHUNK_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class JoinedParts:
    """The parts of an upload, to be written one behind the other."""

    attributes: Attributes
    size: int
    etag: str
    fill: Callable[[int], None]


class Uploads:
    """The uploads of one store."""

    def __init__(self, store: str, tree: Tree, reserve: Reserve) -> None:
        self._store = store
        self._tree = tree
        self._reserve = reserve

    def create(self, key: str, attributes: Attributes) -> str:
        upload_id = secrets.token_hex(16)
        session = self._reserve.session()
        os.mkdir(upload_id, 0o700, dir_fd=session)
        made = os.open(upload_id, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=session)
        try:
            self._write(made, _HEAD, dump_record(Record(key, None, attributes, {})))
            os.fsync(made)
        finally:
            os.close(made)
        with self._tree.folder(_FOLDER) as uploads:
            os.rename(upload_id, upload_id, src_dir_fd=session, dst_dir_fd=uploads)
            os.fsync(uploads)
        return upload_id

    def put_part(self, key: str, upload_id: str, number: int, body: Body, md5: bytes) -> str:
        if not 1 <= number <= MULTIPART_MAX_PARTS:
            raise PermanentStoreError(self._store, "put_part", "a part's number lies between 1 and 10,000", key=key)
        session, name = self._reserve.session(), f"{number:05d}-{md5.hex()}"
        temporary = secrets.token_hex(16)
        with self._open("put_part", key, upload_id) as upload:
            try:
                self._write(session, temporary, body)
                with self._reserve.locked():
                    # the part of this number that stood there goes first: two would leave it open which one counts
                    for older in os.listdir(upload):
                        if older.startswith(f"{number:05d}-"):
                            os.unlink(older, dir_fd=upload)
                    os.rename(temporary, name, src_dir_fd=session, dst_dir_fd=upload)
            except FileNotFoundError as error:
                raise self._gone("put_part", key) from error
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=session)
            os.fsync(upload)
        return md5.hex()

    def parts(self, key: str, upload_id: str, operation: str = "list_parts") -> list[PartInfo]:
        with self._open(operation, key, upload_id) as upload:
            try:
                return sorted(
                    (
                        PartInfo(int(match[1]), match[2], os.stat(name, dir_fd=upload, follow_symlinks=False).st_size)
                        for name in os.listdir(upload)
                        if (match := _PART.fullmatch(name))
                    ),
                    key=lambda part: part.number,
                )
            except FileNotFoundError as error:
                raise self._gone(operation, key) from error

    @contextmanager
    def joined(self, key: str, upload_id: str, parts: Sequence[PartInfo]) -> Iterator[JoinedParts]:
        """What `parts` make together. PermanentStoreError where one of them is not there."""
        operation = "complete_upload"
        there = {part.number: part for part in self.parts(key, upload_id, operation)}
        numbers = [part.number for part in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise PermanentStoreError(self._store, operation, "the parts are not in order", key=key)
        if any(part.number not in there or there[part.number].etag != part.etag for part in parts):
            raise PermanentStoreError(self._store, operation, "a named part is not there", key=key)
        with self._open(operation, key, upload_id) as upload:
            head = self._head(upload)
            if head is None:
                raise self._gone(operation, key)
            md5s = b"".join(bytes.fromhex(part.etag) for part in parts)
            etag = f"{hashlib.md5(md5s, usedforsecurity=False).hexdigest()}-{len(parts)}"
            size = sum(there[part.number].size for part in parts)
            yield JoinedParts(head.attributes, size, etag, lambda out: self._join(upload, key, parts, out))

    def abort(self, key: str, upload_id: str) -> None:
        """Take the upload away; quiet where there is none of this key."""
        session = self._reserve.session()
        try:
            with self._open("abort_upload", key, upload_id):
                pass
            with self._tree.folder(_FOLDER) as uploads:
                os.rename(upload_id, upload_id, src_dir_fd=uploads, dst_dir_fd=session)
                os.fsync(uploads)
        except (NotFoundError, FileNotFoundError):
            return
        shutil.rmtree(upload_id, dir_fd=session)

    def list(self, prefix: str) -> Sequence[UploadInfo]:
        try:
            with self._tree.folder(_FOLDER) as uploads:
                names = os.listdir(uploads)
        except FileNotFoundError:
            return []
        found = []
        for name in filter(_ID.fullmatch, names):
            with suppress(FileNotFoundError), self._tree.folder((*_FOLDER, name.encode())) as upload:
                head = self._head(upload)
                if head is not None and head.key.startswith(prefix):
                    found.append(UploadInfo(head.key, name, _started(upload)))
        return sorted(found, key=lambda upload: (upload.key, upload.upload_id))

    # inside

    @contextmanager
    def _open(self, operation: str, key: str, upload_id: str) -> Iterator[int]:
        """The upload's folder. NotFoundError where there is none, or it is another key's."""
        if not _ID.fullmatch(upload_id):
            raise self._gone(operation, key)
        try:
            fd = self._tree.open_folder((*_FOLDER, upload_id.encode()))
        except FileNotFoundError as error:
            raise self._gone(operation, key) from error
        try:
            head = self._head(fd)
            if head is None or head.key != key:
                raise self._gone(operation, key)
            yield fd
        finally:
            os.close(fd)

    def _head(self, upload: int) -> Record | None:
        try:
            fd = os.open(_HEAD, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upload)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            return parse_record(file.read())

    @staticmethod
    def _write(folder: int, name: str, body: Body) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=folder)
        try:
            write_all(fd, body)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _join(self, upload: int, key: str, parts: Sequence[PartInfo], out: int) -> None:
        for part in parts:
            try:
                fd = os.open(
                    f"{part.number:05d}-{part.etag}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=upload
                )
            except FileNotFoundError as error:
                raise self._gone("complete_upload", key) from error
            md5 = hashlib.md5(usedforsecurity=False)
            with os.fdopen(fd, "rb", buffering=0) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    md5.update(chunk)
                    write_all(out, chunk)
            if md5.hexdigest() != part.etag:
                raise CorruptBodyError(self._store, "complete_upload", "a part is no longer what was sent", key=key)

    def _gone(self, operation: str, key: str) -> NotFoundError:
        return NotFoundError(self._store, operation, "the upload is gone", key=key)


def _started(upload: int) -> datetime:
    """When an upload was begun: its head is written once."""
    return datetime.fromtimestamp(os.stat(_HEAD, dir_fd=upload, follow_symlinks=False).st_mtime, UTC)
