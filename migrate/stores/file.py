"""A folder as a store. Any folder of files can be read as it is; what is written keeps all that S3 keeps.

**Names.** The key `a/b` is the file `b` in the folder `a`. A key that no file system holds under its own name (`a//b`, `../x`,
`trail/`, a segment over 255 bytes), or whose place is taken (`a` beside `a/b`: one is a file, the other needs a folder), lies
under an encoded name in the reserved folder (`file_keys`). A key is at one of its two places: at the plain one if it is there
already or can be, else at the odd one. A folder in which somebody put a file by hand at the plain place of a key that lies at
its odd one, cannot be listed: the listing says so. Control characters are held as they are, and so are NFC and NFD.

**What a plain file is.** Its ETag is made of modification time, size and inode (`stat-…`, never taken for an MD5), it has no
content type and no tags. What cannot be an object stops a listing with an error that says how to find it: a name that is not
UTF-8 or makes a key over 1,024 bytes, a symbolic link (refused: it may lead to another country's folder), a pipe or a device.

**Writing.** The bytes go to a file in the reserved folder, which is synced; then its record (`file_reserve` says how a record
belongs to one file alone), which is synced with its folder; then, under the store's lock, the conditions are checked and one
`rename` (`link` for `create_only`: the kernel refuses a name that is taken) gives the file its name, and the folder of the name
is synced. That is one fsync a file and one a folder. Folders that the key needs are made on the way, and each process syncs the
folder above once. Who finds the key taken syncs the folder too, so that `PreconditionError` speaks of something durable.

**Reading.** A GET reads from one descriptor, and If-Match is checked on it: a replaced file is read to its end as it was. A
plain file that is changed in place while it is read raises CorruptBodyError.

There are no versions. Deletes take the folders along that become empty: their names may hold a user's id.
"""

from __future__ import annotations

import errno
import heapq
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import md5 as new_md5
from itertools import islice
from pathlib import Path
from typing import TypeVar

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    RefusedError,
    TransientStoreError,
    UnreachableError,
    UnreadableError,
    UnsupportedError,
)
from migrate.model import Attributes, ObjectInfo, Tags
from migrate.stores.base import Body, Capabilities, Download, PartInfo, PutResult, UploadInfo
from migrate.stores.file_download import FileDownload
from migrate.stores.file_errors import os_errors
from migrate.stores.file_keys import ODD, OddNames, Place, PlainNames, odd_place, plain_place
from migrate.stores.file_reserve import Record, Reserve, record_name, write_all
from migrate.stores.file_tree import Run, Tree
from migrate.stores.file_uploads import Uploads
from migrate.stores.keys import key_problem

PAGE_KEYS = 1000
FILE_CAPABILITIES = Capabilities(
    conditional_put=True,
    refuses_wrong_md5=True,
    etag_is_md5=True,
    tags=True,
    metadata=True,
    multipart=True,
    odd_keys=True,
)

_T = TypeVar("_T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRIES = 100  # of a look that others disturb
_SYNCED_MAX = 100_000  # folders remembered as durable
_NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Found:
    """A file that is there, with the record that belongs to it."""

    place: Place
    stat: os.stat_result
    record: Record | None

    @property
    def etag(self) -> str:
        if self.record is not None and self.record.etag is not None:
            return self.record.etag
        return f"stat-{self.stat.st_mtime_ns:x}-{self.stat.st_size:x}-{self.stat.st_ino:x}"


class FileStore:
    """The store in the folder `root`, which must exist. The contract of each method stands in `base.Store`."""

    def __init__(
        self,
        name: str,
        root: Path,
        *,
        capabilities: Capabilities = FILE_CAPABILITIES,
        writable: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.name = name
        self.capabilities = capabilities
        self._writable = writable
        self._clock_ns = clock_ns
        self._tree = Tree(name, root)
        self._reserve = Reserve(name, self._tree)
        self._uploads = Uploads(name, self._tree, self._reserve)
        self._synced: dict[tuple[bytes, ...], int] = {}
        self._starting = threading.Lock()
        self._is_clean = False

    # reading

    def list(self, prefix: str = "", *, start_after: str = "") -> Iterator[Sequence[ObjectInfo]]:
        infos = self._walk(prefix, start_after)
        while True:
            with os_errors(self.name, "list"):
                page = [*islice(infos, PAGE_KEYS)]
            if not page:
                return
            yield page

    def list_versions(self, prefix: str = "") -> Iterator[Sequence[ObjectInfo]]:
        raise UnsupportedError(self.name, "list_versions", "a folder has no versions")

    def list_prefixes(self, prefix: str = "") -> Sequence[str]:
        raw = prefix.encode()
        with os_errors(self.name, "list_prefixes"):
            found = {self._key(key) for key in self._tree.folders_of_keys(raw)}
            for run in self._tree.walk(OddNames(), raw, b""):
                keys = (self._key(key) for _, key in run.files)
                found |= {key[: key.index("/", len(prefix)) + 1] for key in keys if "/" in key[len(prefix) :]}
        return sorted(found)

    def head(self, key: str, *, version_id: str | None = None) -> ObjectInfo:
        self._check("head", key, version_id)
        with os_errors(self.name, "head", key):
            found = self._find(key)
            if found is None:
                raise self._not_found("head", key)
            return _info(key, found)

    def get(
        self,
        key: str,
        *,
        version_id: str | None = None,
        if_match: str | None = None,
        start: int | None = None,
        length: int | None = None,
    ) -> Download:
        self._check("get", key, version_id)
        with os_errors(self.name, "get", key):
            opened = self._open(key)
            if opened is None:
                raise self._not_found("get", key)
            fd, found = opened
            try:
                if if_match is not None and found.etag != if_match:
                    raise PreconditionError(self.name, "get", "the ETag is another", key=key)
                if start is not None and start >= found.stat.st_size:
                    raise PermanentStoreError(self.name, "get", "the range begins behind the end", key=key)
            except PermanentStoreError:
                os.close(fd)
                raise
            return FileDownload(self.name, _info(key, found), fd, found.stat, start, length)

    def get_tags(self, key: str, *, version_id: str | None = None) -> Tags:
        self._check("get_tags", key, version_id)
        with os_errors(self.name, "get_tags", key):
            found = self._find(key)
        if found is None:
            raise self._not_found("get_tags", key)
        return dict(found.record.tags) if found.record is not None else {}

    def list_uploads(self, prefix: str = "") -> Sequence[UploadInfo]:
        with os_errors(self.name, "list_uploads"):
            return self._uploads.list(prefix)

    def list_parts(self, key: str, upload_id: str) -> Sequence[PartInfo]:
        self._check("list_parts", key)
        with os_errors(self.name, "list_parts", key):
            return self._uploads.parts(key, upload_id)

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
        self._check_write("put", key)
        if new_md5(body, usedforsecurity=False).digest() != md5:
            raise CorruptBodyError(self.name, "put", "the MD5 is another", key=key)
        record = Record(key, md5.hex(), attributes, tags)
        with os_errors(self.name, "put", key):
            self._publish("put", record, lambda fd: write_all(fd, body), create_only, if_match)
        return PutResult(md5.hex())

    def create_upload(self, key: str, *, attributes: Attributes) -> str:
        self._check_write("create_upload", key)
        with os_errors(self.name, "create_upload", key):
            return self._uploads.create(key, attributes)

    def put_part(self, key: str, upload_id: str, number: int, body: Body, *, md5: bytes) -> str:
        self._check_write("put_part", key)
        if new_md5(body, usedforsecurity=False).digest() != md5:
            raise CorruptBodyError(self.name, "put_part", "the MD5 is another", key=key)
        with os_errors(self.name, "put_part", key):
            return self._uploads.put_part(key, upload_id, number, body, md5)

    def complete_upload(self, key: str, upload_id: str, parts: Sequence[PartInfo], *, tags: Tags) -> PutResult:
        self._check_write("complete_upload", key)
        with os_errors(self.name, "complete_upload", key):
            with self._uploads.joined(key, upload_id, parts) as joined:
                record = Record(key, joined.etag, joined.attributes, tags)
                self._publish("complete_upload", record, joined.fill)
            self._uploads.abort(key, upload_id)
        return PutResult(joined.etag)

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._check_write("abort_upload", key)
        with os_errors(self.name, "abort_upload", key):
            self._uploads.abort(key, upload_id)

    def put_tags(self, key: str, tags: Tags) -> None:
        self._check_write("put_tags", key)
        with os_errors(self.name, "put_tags", key):
            self._begin()
            with self._reserve.locked():
                found = self._find(key)
                if found is None:
                    raise self._not_found("put_tags", key)
                old = found.record or Record(key, None, Attributes(), {})
                self._reserve.replace_record(
                    record_name(key, found.stat), Record(key, old.etag, old.attributes, dict(tags))
                )

    def delete(self, key: str, *, version_id: str | None = None) -> None:
        self._check_write("delete", key, version_id)
        with os_errors(self.name, "delete", key):
            self._begin()
            with self._reserve.locked():
                found = self._find(key)
                if found is None:
                    return
                name = record_name(key, found.stat)
                self._reserve.note(name)
                folders = self._unlink(found.place)
            with self._tree.folder(folders) as fd:
                os.fsync(fd)
            self._reserve.drop_record(name)
            self._reserve.unnote(name)

    def close(self) -> None:
        self._reserve.close()
        self._tree.close()

    # looking

    def _check(self, operation: str, key: str, version_id: str | None = None) -> None:
        problem = key_problem(key)
        if problem is None and version_id is not None:
            problem = "a folder has no versions"
        if problem is not None:
            raise UnsupportedError(self.name, operation, problem, key=key)

    def _check_write(self, operation: str, key: str, version_id: str | None = None) -> None:
        if not self._writable:
            raise RefusedError(
                f"{self.name}: {operation}: the store was opened to be read", remedy="Only targets are written to."
            )
        self._check(operation, key, version_id)

    def _not_found(self, operation: str, key: str) -> Exception:
        """NotFoundError; but of a folder that is gone itself nothing can be said."""
        if os.fstat(self._tree.root_fd).st_nlink == 0:
            return UnreachableError(f"{self.name}: the store's folder is gone", remedy="Bring it back, or mount it.")
        return NotFoundError(self.name, operation, key=key)

    def _find(self, key: str) -> _Found | None:
        """The file of this key with its record."""
        for _ in range(_TRIES):
            place_and_stat = self._stat(key)
            if place_and_stat is None:
                return None
            place, found = place_and_stat
            record = self._reserve.read(key, found)
            # no record: either it has none, or file and record were replaced in between
            if record is not None or _same(self._stat(key), found):
                return _Found(place, found, record)
        raise TransientStoreError(self.name, "stat", "it changes all the time", key=key)

    def _open(self, key: str) -> tuple[int, _Found] | None:
        """A descriptor of the file of this key, and what belongs to exactly that file."""
        for _ in range(_TRIES):
            opened = self._at_places(key, self._tree.open_file)
            if opened is None:
                return None
            place, fd = opened
            try:
                found = os.fstat(fd)
                record = self._reserve.read(key, found)
                if record is not None or _same(self._stat(key), found):
                    kept, fd = fd, -1
                    return kept, _Found(place, found, record)
            finally:
                if fd >= 0:
                    os.close(fd)
        raise TransientStoreError(self.name, "open", "it changes all the time", key=key)

    def _stat(self, key: str) -> tuple[Place, os.stat_result] | None:
        return self._at_places(key, self._tree.stat_file)

    def _at_places(self, key: str, look: Callable[[int, bytes], _T]) -> tuple[Place, _T] | None:
        for place in (plain_place(key), odd_place(key)):
            if place is not None:
                try:
                    with self._tree.folder(place.folders) as fd:
                        return place, look(fd, place.name)
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
        return None

    def _walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        bounds = prefix.encode(), after.encode()
        previous = None
        plain, odd = (self._infos(self._tree.walk(names, *bounds)) for names in (PlainNames(), OddNames()))
        for info in heapq.merge(plain, odd, key=lambda info: info.key):  # code point order is UTF-8 byte order
            if info.key == previous:
                raise UnreadableError(
                    self.name,
                    "list",
                    "two files claim one key: one was put by hand where the key's own file could not be",
                    key=info.key,
                    remedy="Move the one that was put by hand away.",
                )
            previous = info.key
            yield info

    def _infos(self, runs: Iterable[Run]) -> Iterator[ObjectInfo]:
        for run in runs:
            found = []
            with suppress(FileNotFoundError, NotADirectoryError), self._tree.folder(run.folders) as fd:
                for name, raw in run.files:
                    info = self._listed(fd, name, self._key(raw))
                    if info is not None:
                        found.append(info)
            yield from found

    def _listed(self, fd: int, name: bytes, key: str) -> ObjectInfo | None:
        """A line of a listing; None where the file has gone meanwhile."""
        try:
            stat = self._tree.stat_file(fd, name)
        except FileNotFoundError:
            return None
        record = self._reserve.read(key, stat)
        found: _Found | None = _Found(Place((), name), stat, record)
        if record is None and self._reserve.is_there:
            found = self._find(key)
        return None if found is None else replace(_info(key, found), attributes=Attributes(), tag_count=0)

    def _key(self, raw: bytes) -> str:
        try:
            key = raw.decode()
        except UnicodeDecodeError as error:
            raise UnreadableError(
                self.name,
                "list",
                "a file's name is not UTF-8, and S3 has no such key",
                key=raw.decode(errors="surrogateescape"),
                remedy="Rename it; this shows it: find FOLDER | LC_ALL=C.UTF-8 grep -avx '.*'",
            ) from error
        problem = key_problem(key)
        if problem is not None:
            raise UnreadableError(self.name, "list", problem, key=key, remedy="Move or rename it.")
        return key

    # changing

    def _begin(self) -> None:
        """Before the first change: the reserved folder, and what dead writers left."""
        if not self._is_clean:
            with self._starting:
                if not self._is_clean:
                    self._reserve.session()
                    self._reserve.clean(self._is_live)
                    self._is_clean = True

    def _is_live(self, name: str, record: Record) -> bool:
        found = self._find(record.key)
        return found is not None and record_name(record.key, found.stat) == name

    def _publish(
        self,
        operation: str,
        record: Record,
        fill: Callable[[int], None],
        create_only: bool = False,
        if_match: str | None = None,
    ) -> None:
        """Write a file with its record, and give it its name if the conditions hold."""
        self._begin()
        session = self._reserve.session()
        name = self._prepare(record, fill)
        try:
            with self._reserve.locked():
                old = self._find(record.key)
                self._check_conditions(operation, record.key, old, create_only, if_match)
                old_name = record_name(record.key, old.stat) if old is not None else None
                if old_name is not None:
                    self._reserve.note(old_name)
                place, fd = self._place(record.key, old)
                try:
                    put = os.link if create_only else os.rename
                    put(name, place.name, src_dir_fd=session, dst_dir_fd=fd)
                except OSError:
                    os.close(fd)
                    raise
            try:
                self._sync(place.folders, fd)
            finally:
                os.close(fd)
        finally:
            self._reserve.discard(name)
        if old_name is not None:
            self._reserve.drop_record(old_name)
            self._reserve.unnote(old_name)

    def _prepare(self, record: Record, fill: Callable[[int], None]) -> str:
        """A durable file in the temporary folder and its durable record; the name of both."""
        session = self._reserve.session()
        temporary = secrets.token_hex(16)
        fd = os.open(temporary, _NEW, 0o600, dir_fd=session)
        try:
            fill(fd)
            name = self._claim(fd, temporary, record)
            try:
                os.fsync(fd)
            except OSError:
                self._reserve.discard(name)
                raise
            return name
        finally:
            os.close(fd)
            self._reserve.unnote(temporary)  # gone already, unless something failed

    def _claim(self, fd: int, temporary: str, record: Record) -> str:
        """Give the file a time under which this key has no record yet, and make the record."""
        session = self._reserve.session()
        for attempt in range(_TRIES):
            # random below the millisecond, against other writers; seconds on for file systems with coarse times
            moment = self._clock_ns() // 10**6 * 10**6 + secrets.randbelow(10**6) + attempt * 2 * 10**9
            os.utime(fd, ns=(moment, moment))
            name = record_name(record.key, os.fstat(fd))
            os.rename(temporary, name, src_dir_fd=session, dst_dir_fd=session)
            try:
                self._reserve.create_record(name, record)
            except FileExistsError:
                os.rename(name, temporary, src_dir_fd=session, dst_dir_fd=session)
            except OSError:
                self._reserve.discard(name)
                raise
            else:
                return name
        raise TransientStoreError(self.name, "put", "no time is free for the file", key=record.key)

    def _check_conditions(
        self, operation: str, key: str, old: _Found | None, create_only: bool, if_match: str | None
    ) -> None:
        if create_only and old is not None:
            with self._tree.folder(old.place.folders) as fd:
                self._sync(old.place.folders, fd)
            raise PreconditionError(self.name, operation, "the key exists", key=key)
        if if_match is not None and (old is None or old.etag != if_match):
            raise PreconditionError(self.name, operation, "the ETag is another", key=key)

    def _place(self, key: str, old: _Found | None) -> tuple[Place, int]:
        """Where the key goes, and its folder's descriptor: to where it is already, else to the plain place if it is free."""
        plain = plain_place(key)
        if old is not None:
            return old.place, self._tree.open_folder(old.place.folders)
        if plain is not None:
            try:
                fd = self._tree.open_folder(plain.folders, make=True)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
            else:
                try:
                    os.stat(plain.name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    return plain, fd
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        os.close(fd)
                        raise
                os.close(fd)  # a folder has the name, or it is too long for this file system
        odd = odd_place(key)
        return odd, self._tree.open_folder(odd.folders, make=True)

    def _sync(self, folders: tuple[bytes, ...], fd: int) -> None:
        """Make a name in the folder `fd` durable, and the names of the folders that lead there."""
        inode = os.fstat(fd).st_ino
        if self._synced.get(folders) != inode:
            if len(self._synced) >= _SYNCED_MAX:
                self._synced.clear()
            for depth, name in enumerate(folders):
                with suppress(FileNotFoundError), self._tree.folder(folders[:depth]) as above:
                    # known by path and inode: a folder may be deleted and made anew
                    here = os.stat(name, dir_fd=above, follow_symlinks=False).st_ino
                    if self._synced.get(folders[: depth + 1]) != here:
                        os.fsync(above)
                        self._synced[folders[: depth + 1]] = here
        os.fsync(fd)

    def _unlink(self, place: Place) -> tuple[bytes, ...]:
        """Take the name away, and the folders that are empty then; the folder that is left and to be synced."""
        folders = place.folders
        with self._tree.folder(folders) as fd:
            os.unlink(place.name, dir_fd=fd)
        while len(folders) > (len(ODD) if folders[: len(ODD)] == ODD else 0):
            with self._tree.folder(folders[:-1]) as above:
                try:
                    os.rmdir(folders[-1], dir_fd=above)
                except OSError:
                    break
            self._synced.pop(folders, None)
            folders = folders[:-1]
        return folders


def _same(looked: tuple[Place, os.stat_result] | None, found: os.stat_result) -> bool:
    """Whether the path still leads to the very file that was looked at."""
    if looked is None:
        return False
    now = looked[1]
    return (now.st_ino, now.st_mtime_ns, now.st_size) == (found.st_ino, found.st_mtime_ns, found.st_size)


def _info(key: str, found: _Found) -> ObjectInfo:
    record = found.record
    return ObjectInfo(
        key=key,
        size=found.stat.st_size,
        etag=found.etag,
        last_modified=_EPOCH + timedelta(microseconds=found.stat.st_mtime_ns // 1000),
        attributes=record.attributes if record is not None else Attributes(),
        tag_count=len(record.tags) if record is not None else 0,
    )
