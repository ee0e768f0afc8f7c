"""Changing a file store: a file with its record gets its name by one rename, or loses it. `file` says in which order and why."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from migrate.errors import PreconditionError, TransientStoreError
from migrate.model import Attributes, Tags
from migrate.stores.file_keys import ODD, Place, odd_place, plain_place
from migrate.stores.file_look import NOT_HERE, FoundFile, Look
from migrate.stores.file_reserve import Record, Reserve, record_name
from migrate.stores.file_tree import Tree

_TRIES = 100  # for a time that is free
_SYNCED_MAX = 100_000  # folders remembered as durable
_NEW = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """The writing half of a file store. Thread-safe."""

    def __init__(self, store: str, tree: Tree, reserve: Reserve, look: Look, clock_ns: Callable[[], int]) -> None:
        self._store = store
        self._tree = tree
        self._reserve = reserve
        self._look = look
        self._clock_ns = clock_ns
        self._synced: dict[tuple[bytes, ...], int] = {}
        self._starting = threading.Lock()
        self._is_clean = False

    def _begin(self) -> None:
        """Before the first change: the reserved folder, and what dead writers left."""
        if not self._is_clean:
            with self._starting:
                if not self._is_clean:
                    self._reserve.session()
                    self._reserve.clean(self._is_live)
                    self._is_clean = True

    def _is_live(self, name: str, record: Record) -> bool:
        found = self._look.find(record.key)
        return found is not None and record_name(record.key, found.stat) == name

    def put_tags(self, key: str, tags: Tags) -> None:
        """Replace the record by one with these tags. NotFoundError where there is no such file."""
        self._begin()
        with self._reserve.locked():
            found = self._look.find(key)
            if found is None:
                raise self._look.not_found("put_tags", key)
            old = found.record or Record(key, None, Attributes(), {})
            record = Record(key, old.etag, old.attributes, dict(tags))
            self._reserve.replace_record(record_name(key, found.stat), record)

    def delete(self, key: str) -> None:
        """Take the file away, and its record."""
        self._begin()
        with self._reserve.locked():
            found = self._look.find(key)
            if found is None:
                return
            name = record_name(key, found.stat)
            self._reserve.note(name)
            folders = self._unlink(found.place)
        with suppress(FileNotFoundError), self._tree.folder(folders) as fd:
            os.fsync(fd)
        self._reserve.drop_record(name)
        self._reserve.unnote(name)

    def publish(
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
                old = self._look.find(record.key)
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
            # on a second try seconds on, for file systems with coarse times, and at random, for others who try the same
            moment = self._clock_ns() + attempt * (2 * 10**9 + secrets.randbelow(10**9))
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
        raise TransientStoreError(self._store, "put", "no time is free for the file", key=record.key)

    def _check_conditions(
        self, operation: str, key: str, old: FoundFile | None, create_only: bool, if_match: str | None
    ) -> None:
        if create_only and old is not None:
            with self._tree.folder(old.place.folders) as fd:
                self._sync(old.place.folders, fd)
            raise PreconditionError(self._store, operation, "the key exists", key=key)
        if if_match is not None and (old is None or old.etag != if_match):
            raise PreconditionError(self._store, operation, "the ETag is another", key=key)

    def _place(self, key: str, old: FoundFile | None) -> tuple[Place, int]:
        """Where the key goes, and its folder's descriptor: to where it is already, else to the plain place if it is free."""
        plain = plain_place(key)
        if old is not None:
            return old.place, self._tree.open_folder(old.place.folders)
        if plain is not None:
            try:
                fd = self._tree.open_folder(plain.folders, make=True)
            except OSError as error:
                if error.errno not in NOT_HERE:
                    raise
            else:
                try:
                    os.stat(plain.name, dir_fd=fd, follow_symlinks=False)
                except FileNotFoundError:
                    return plain, fd
                except OSError as error:
                    if error.errno not in NOT_HERE:
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
