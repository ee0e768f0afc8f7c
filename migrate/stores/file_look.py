"""Looking into a file store: which file a key is, with the record that belongs to it, and the keys in order. Changes nothing."""

from __future__ import annotations

import errno
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from migrate.errors import NotFoundError, TransientStoreError, UnreachableError, UnreadableError
from migrate.model import Attributes, ObjectInfo
from migrate.stores.file_keys import OddNames, Place, PlainNames, odd_place, plain_place
from migrate.stores.file_reserve import Record, Reserve
from migrate.stores.file_tree import Run, Tree
from migrate.stores.keys import key_problem

_T = TypeVar("_T")

NOT_HERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRIES = 100  # of a look that others disturb


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that is there, with the record that belongs to it."""

    place: Place
    stat: os.stat_result
    record: Record | None

    @property
    def etag(self) -> str:
        if self.record is not None and self.record.etag is not None:
            return self.record.etag
        return f"stat-{self.stat.st_mtime_ns:x}-{self.stat.st_size:x}-{self.stat.st_ino:x}"


class Look:
    """The reading half of a file store. Thread-safe."""

    def __init__(self, store: str, tree: Tree, reserve: Reserve) -> None:
        self._store = store
        self._tree = tree
        self._reserve = reserve

    def not_found(self, operation: str, key: str) -> Exception:
        """NotFoundError; but of a folder that is gone itself nothing can be said."""
        if os.fstat(self._tree.root_fd).st_nlink == 0:
            return UnreachableError(f"{self._store}: the store's folder is gone", remedy="Bring it back, or mount it.")
        return NotFoundError(self._store, operation, key=key)

    def find(self, key: str) -> FoundFile | None:
        """The file of this key with its record."""
        for _ in range(_TRIES):
            place_and_stat = self._stat(key)
            if place_and_stat is None:
                return None
            place, found = place_and_stat
            record = self._reserve.read(key, found)
            # no record: either it has none, or file and record were replaced in between
            if record is not None or _same(self._stat(key), found):
                return FoundFile(place, found, record)
        raise TransientStoreError(self._store, "stat", "it changes all the time", key=key)

    def open(self, key: str) -> tuple[int, FoundFile] | None:
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
                    return kept, FoundFile(place, found, record)
            finally:
                if fd >= 0:
                    os.close(fd)
        raise TransientStoreError(self._store, "open", "it changes all the time", key=key)

    def _stat(self, key: str) -> tuple[Place, os.stat_result] | None:
        return self._at_places(key, self._tree.stat_file)

    def _at_places(self, key: str, look: Callable[[int, bytes], _T]) -> tuple[Place, _T] | None:
        for place in (plain_place(key), odd_place(key)):
            if place is not None:
                try:
                    with self._tree.folder(place.folders) as fd:
                        return place, look(fd, place.name)
                except OSError as error:
                    if error.errno not in NOT_HERE:
                        raise
        return None

    def walk(self, prefix: str, after: str) -> Iterator[ObjectInfo]:
        bounds = prefix.encode(), after.encode()
        previous = None
        plain, odd = (self._infos(self._tree.walk(names, *bounds)) for names in (PlainNames(), OddNames()))
        for info in heapq.merge(plain, odd, key=lambda info: info.key):  # code point order is UTF-8 byte order
            if info.key == previous:
                raise UnreadableError(
                    self._store,
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
                    info = self._listed(fd, name, self.key_of(raw))
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
        found: FoundFile | None = FoundFile(Place((), name), stat, record)
        if record is None and self._reserve.is_there:
            found = self.find(key)
        return None if found is None else replace(info_of(key, found), attributes=Attributes(), tag_count=0)

    def key_of(self, raw: bytes) -> str:
        try:
            key = raw.decode()
        except UnicodeDecodeError as error:
            raise UnreadableError(
                self._store,
                "list",
                "a file's name is not UTF-8, and S3 has no such key",
                key=raw.decode(errors="surrogateescape"),
                remedy="Rename it; this shows it: find FOLDER | LC_ALL=C.UTF-8 grep -avx '.*'",
            ) from error
        problem = key_problem(key)
        if problem is not None:
            raise UnreadableError(self._store, "list", problem, key=key, remedy="Move or rename it.")
        return key


def _same(looked: tuple[Place, os.stat_result] | None, found: os.stat_result) -> bool:
    """Whether the path still leads to the very file that was looked at."""
    if looked is None:
        return False
    now = looked[1]
    return (now.st_ino, now.st_mtime_ns, now.st_size) == (found.st_ino, found.st_mtime_ns, found.st_size)


def info_of(key: str, found: FoundFile) -> ObjectInfo:
    record = found.record
    return ObjectInfo(
        key=key,
        size=found.stat.st_size,
        etag=found.etag,
        last_modified=_EPOCH + timedelta(microseconds=found.stat.st_mtime_ns // 1000),
        attributes=record.attributes if record is not None else Attributes(),
        tag_count=len(record.tags) if record is not None else 0,
    )
