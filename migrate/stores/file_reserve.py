"""The reserved folder of a file store, `.migrate-store`: attribute records, files under way, uploads, the lock.

    .migrate-store/
      format-1/            the version of all this: its name says it, because making a folder is one step
      lock                 flock(2), exclusive, while a name is put in place or taken away
      records/A/NAME       what a file cannot hold: ETag, attributes, tags (JSON)
      odd/…                objects whose keys cannot be plain names (`file_keys`)
      uploads/ID/…         multipart uploads (`file_uploads`)
      temporary/ID/…       one folder a writer, locked as long as the writer lives

**A record belongs to one file**: its name is made of the key's SHA-256 and of the file's modification time in nanoseconds and
size. A writer gives its file a time of its own choice, such that no record of this name is there yet (O_EXCL), and makes the
record durable before the file gets its name. So one rename swaps data and attributes together, for readers and for crashes:
whoever has the file's descriptor, or its stat, has the name of exactly its own record. Times are what `cp -a`, `rsync -a` and
`tar` keep, so that a folder which is moved with them keeps its attributes; inode numbers would not be. A file that was changed
by hand has another time, and no record: it is then a plain file, with a plain file's ETag, and never with attributes that
belonged to other bytes.

**What a crash leaves** is in `temporary/`: a file there named like a record says that the record may belong to nothing. Whoever
opens the store next to write, takes the lock of each dead writer's folder, drops the records that no file stands behind, and
the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from migrate.errors import RefusedError, TransientStoreError, UnreadableError
from migrate.model import Attributes, Tags
from migrate.stores.file_keys import RESERVED
from migrate.stores.file_tree import Tree

FORMAT = 1
LOCK_WAIT_SECONDS = 60.0

_RECORDS = (RESERVED, b"records")
_SHARDS = tuple((*_RECORDS, b"%x" % number) for number in range(16))
_FORMAT_NAME = re.compile(r"format-([0-9]+)")
_RECORD_NAME = re.compile(r"[0-9a-f]{64}\.[0-9]+\.[0-9]+")
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept beside a file. `etag` is None where the file was not written by us, and only tagged."""

    key: str
    etag: str | None
    attributes: Attributes
    tags: Tags


def record_name(key: str, found: os.stat_result) -> str:
    """The name of the record of the file with this stat under this key; its first digit is its folder's."""
    return f"{hashlib.sha256(key.encode()).hexdigest()}.{found.st_mtime_ns}.{found.st_size}"


def write_all(fd: int, body: bytes | bytearray | memoryview) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(fd, view) :]


class Reserve:
    """The reserved folder under a Tree's root. It is made at the first write; until then there may be none."""

    def __init__(self, store: str, tree: Tree) -> None:
        self._store = store
        self._tree = tree
        self._mutex = threading.Lock()  # before the kernel's lock
        self._opening = threading.Lock()
        self._finding = threading.Lock()
        self._shards: tuple[int, ...] | None = None
        self._lock_fd: int | None = None
        self._session: tuple[str, int] | None = None
        self.check()

    def close(self) -> None:
        """Give back what is open, and the temporary folder if nothing is in it."""
        if self._session is not None:
            name, fd = self._session
            with suppress(OSError), self._tree.folder((RESERVED, b"temporary")) as above:
                os.rmdir(name, dir_fd=above)
            os.close(fd)
        for opened in (*(self._shards or ()), self._lock_fd):
            if opened is not None:
                os.close(opened)
        self._session = self._shards = self._lock_fd = None

    def check(self) -> bool:
        """Whether there is a reserved folder. RefusedError if it is not ours, or newer than this version."""
        try:
            with self._tree.folder((RESERVED,)) as fd:
                names = os.listdir(fd)
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            names = ["a file"]
        formats = {match[1] for name in names if (match := _FORMAT_NAME.fullmatch(name))}
        if names and not formats:
            raise RefusedError(
                f"{self._store}: there is a {RESERVED.decode()} in the folder that this tool did not make",
                remedy="Rename it: that name is reserved.",
            )
        if formats - {str(FORMAT)}:
            raise RefusedError(
                f"{self._store}: the folder's format is {max(formats, key=int)}, newer than {FORMAT}",
                remedy="Use the version of migrate that wrote it, or a newer one.",
            )
        return bool(names)

    # records

    def read(self, key: str, found: os.stat_result) -> Record | None:
        """The record of the file with this stat, if it has one."""
        name = record_name(key, found)
        shard = self._shard(name)
        if shard is None:
            return None
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=shard)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb", buffering=0) as file:
            data = file.read()
        try:
            return parse_record(data)
        except ValueError as error:
            raise UnreadableError(
                self._store,
                "read",
                "an attribute record does not parse",
                key=key,
                remedy="Copy the object again, or delete it; its attributes are lost.",
            ) from error

    def create_record(self, name: str, record: Record) -> None:
        """Write a record, durably. FileExistsError where the name is taken."""
        shard = self._own_shard(name)
        self._write(shard, name, record)
        os.fsync(shard)

    def replace_record(self, name: str, record: Record) -> None:
        """Put a record in the place of another, durably, by one rename."""
        temporary = secrets.token_hex(16)
        shard = self._own_shard(name)
        self._write(self.session(), temporary, record)
        os.rename(temporary, name, src_dir_fd=self.session(), dst_dir_fd=shard)
        os.fsync(shard)

    def drop_record(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._own_shard(name))

    @staticmethod
    def _write(folder: int, name: str, record: Record) -> None:
        fd = os.open(name, _NEW, 0o600, dir_fd=folder)
        try:
            write_all(fd, dump_record(record))
            os.fsync(fd)
        finally:
            os.close(fd)

    def _shard(self, name: str) -> int | None:
        """The folder of the record `name`; None while there are no records. Sixteen descriptors are kept open for it."""
        if self._shards is None:
            with self._finding:
                if self._shards is None:
                    self._shards = self._open_shards()
        return None if self._shards is None else self._shards[int(name[0], 16)]

    def _open_shards(self) -> tuple[int, ...] | None:
        opened: list[int] = []
        try:
            for folders in _SHARDS:
                opened.append(self._tree.open_folder(folders))  # noqa: PERF401 - those before a failure must be closed
        except FileNotFoundError:
            for fd in opened:
                os.close(fd)
            return None
        return tuple(opened)

    def _own_shard(self, name: str) -> int:
        """The same, for who writes."""
        self.session()
        shard = self._shard(name)
        assert shard is not None, "a session begins with making them"
        return shard

    @property
    def is_there(self) -> bool:
        return self._shard("0") is not None

    # writing

    def session(self) -> int:
        """This writer's own temporary folder, made at its first use; then dead writers' folders are cleaned away."""
        if self._session is None:
            with self._opening:
                if self._session is None:
                    self._begin()
        assert self._session is not None, "just made"
        return self._session[1]

    def _begin(self) -> None:
        # every writer makes and syncs all of it, so that none relies on a folder that another has made and not yet synced
        self.check()
        top = [(RESERVED, name) for name in (f"format-{FORMAT}".encode(), b"temporary", b"uploads", b"odd")]
        for folders in (*top, *_SHARDS):
            os.close(self._tree.open_folder(folders, make=True))
        for above in (_RECORDS, (RESERVED,), ()):
            with self._tree.folder(above) as fd:
                os.fsync(fd)
        with self.locked():
            name = secrets.token_hex(16)
            fd = self._tree.open_folder((RESERVED, b"temporary", name.encode()), make=True)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._session = name, fd

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among all threads and processes that change names in this store. TransientStoreError after a minute."""
        until = time.monotonic() + LOCK_WAIT_SECONDS
        if not self._mutex.acquire(timeout=LOCK_WAIT_SECONDS):
            raise self._busy()
        try:
            if self._lock_fd is None:
                with self._tree.folder((RESERVED,)) as fd:
                    self._lock_fd = os.open(
                        "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=fd
                    )
            self._flock(self._lock_fd, until)
            try:
                yield
            finally:
                fcntl.flock(self._lock_fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def _flock(self, fd: int, until: float) -> None:
        # flock has no time limit, and another process may have been stopped while it holds the lock
        wait = 0.0002
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN):
                    raise
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(wait)
            wait = min(wait * 2, 0.01)

    def _busy(self) -> TransientStoreError:
        return TransientStoreError(self._store, "lock", f"another process holds it for {LOCK_WAIT_SECONDS:.0f} s")

    # what a crash leaves

    def note(self, name: str) -> None:
        """Leave word that the record `name` may soon belong to nothing."""
        with suppress(FileExistsError):
            os.close(os.open(name, _NEW, 0o600, dir_fd=self.session()))

    def unnote(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.session())

    def discard(self, name: str) -> None:
        """Drop the temporary file `name`, and its record unless the file has got another name as well (`link`)."""
        with suppress(FileNotFoundError):
            if os.stat(name, dir_fd=self.session(), follow_symlinks=False).st_nlink == 1:
                self.drop_record(name)
            os.unlink(name, dir_fd=self.session())

    def clean(self, is_live: Callable[[str, Record], bool]) -> None:
        """Drop what dead writers left. `is_live(name, record)` says whether a file stands behind a record."""
        with self._tree.folder((RESERVED, b"temporary")) as above, self.locked():
            own = self._session[0] if self._session is not None else ""
            for writer in os.listdir(above):
                if writer == own:
                    continue
                with suppress(FileNotFoundError, BlockingIOError):
                    fd = os.open(writer, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
                    try:
                        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        self._clean_one(fd, is_live)
                        os.rmdir(writer, dir_fd=above)
                    finally:
                        os.close(fd)

    def _clean_one(self, fd: int, is_live: Callable[[str, Record], bool]) -> None:
        for name in os.listdir(fd):
            if _RECORD_NAME.fullmatch(name):
                record = self._named(name)
                if record is None or not is_live(name, record):
                    self.drop_record(name)
            try:
                os.unlink(name, dir_fd=fd)
            except (IsADirectoryError, PermissionError):  # macOS says EPERM of a folder
                shutil.rmtree(name, dir_fd=fd)

    def _named(self, name: str) -> Record | None:
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._own_shard(name))
            with os.fdopen(fd, "rb") as file:
                return parse_record(file.read())
        except (FileNotFoundError, ValueError):
            return None  # torn: a record that is not whole was never a file's


def dump_record(record: Record) -> bytes:
    attributes = {name: value for name, value in asdict(record.attributes).items() if value not in (None, ())}
    document: dict[str, Any] = {"key": record.key, "etag": record.etag}
    if attributes:
        document["attributes"] = attributes
    if record.tags:
        document["tags"] = dict(record.tags)
    return json.dumps(document, separators=(",", ":")).encode()  # ASCII: raw header bytes pass as lone surrogates


def parse_record(data: bytes) -> Record:
    """What `dump_record` wrote. ValueError for anything else: a text is a text, or it ends up in a header as it is."""
    try:
        document = json.loads(data)
        given = Attributes(**document.get("attributes", {}))
        attributes = replace(given, metadata=tuple((name, value) for name, value in given.metadata))
        record = Record(document["key"], document["etag"], attributes, dict(document.get("tags", {})))
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("not a record") from error
    *single, metadata = asdict(attributes).values()
    texts = [record.key, *(text for pair in (*metadata, *record.tags.items()) for text in pair)]
    if not all(isinstance(text, str) for text in texts + [text for text in (record.etag, *single) if text is not None]):
        raise ValueError("not a record")
    return record
