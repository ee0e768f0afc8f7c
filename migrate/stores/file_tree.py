"""A folder as a tree of files: opened name by name, never through a symbolic link, and walked in the order of the keys.

A link would lead out of the store's folder, perhaps into another country's, and what it leads to can change after any check.
So every step from the root is one `openat` with O_NOFOLLOW, and a link that is met is refused. What is read here are names and
`stat`; what a file means is `file`'s business.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from migrate.errors import RefusedError, UnreachableError, UnreadableError
from migrate.stores.file_keys import RESERVED, OddNames, PlainNames

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# a pipe that somebody put there must not block us: O_NONBLOCK
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

RUN_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Run:
    """Files that follow one another in key order and lie in one folder: (name, key's bytes) each."""

    folders: tuple[bytes, ...]
    files: list[tuple[bytes, bytes]]


class Tree:
    """The tree under one root. Thread-safe: its only state is the root's descriptor."""

    def __init__(self, store: str, root: Path) -> None:
        self.store = store
        try:
            self.root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UnreachableError(
                f"{store}: the folder {root} cannot be opened: {errno.errorcode.get(error.errno or 0)}",
                remedy="Make the folder, or mount what holds it; a store makes none of its own.",
            ) from error

    def close(self) -> None:
        os.close(self.root_fd)

    def open_folder(self, folders: tuple[bytes, ...], *, make: bool = False) -> int:
        """A descriptor of the folder; the caller closes it. FileNotFoundError, NotADirectoryError, RefusedError for a link."""
        # not dup(2): it would share the position that another thread's listing reads at
        fd = os.open(".", _FOLDER, dir_fd=self.root_fd)
        for name in folders:
            try:
                below = self._step(fd, name, make)
            finally:
                os.close(fd)
            fd = below
        return fd

    def _step(self, fd: int, name: bytes, make: bool) -> int:
        try:
            return os.open(name, _FOLDER, dir_fd=fd)
        except FileNotFoundError:
            if not make:
                raise
        except NotADirectoryError:
            self.refuse_link(fd, name)
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
        return os.open(name, _FOLDER, dir_fd=fd)

    @contextmanager
    def folder(self, folders: tuple[bytes, ...], *, make: bool = False) -> Iterator[int]:
        fd = self.open_folder(folders, make=make)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_file(self, fd: int, name: bytes) -> int:
        """A descriptor of the file `name` in the folder `fd`. FileNotFoundError also where it is a folder."""
        try:
            opened = os.open(name, _FILE, dir_fd=fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                self.refuse_link(fd, name)
            raise
        mode = os.fstat(opened).st_mode
        if not stat.S_ISREG(mode):
            os.close(opened)
            self._not_a_file(mode)
        return opened

    def stat_file(self, fd: int, name: bytes) -> os.stat_result:
        """The file's stat. FileNotFoundError also where it is a folder."""
        found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            self._not_a_file(found.st_mode)
        return found

    def refuse_link(self, fd: int, name: bytes) -> None:
        """RefusedError if `name` is a symbolic link."""
        if stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise self._link()

    def _not_a_file(self, mode: int) -> None:
        if stat.S_ISDIR(mode):
            raise FileNotFoundError(errno.ENOENT, "a folder")
        if stat.S_ISLNK(mode):
            raise self._link()
        raise UnreadableError(
            self.store,
            "stat",
            "a pipe, socket or device stands among the files",
            remedy="Move it away: find FOLDER ! -type f ! -type d",
        )

    def _link(self) -> RefusedError:
        return RefusedError(
            f"{self.store}: a symbolic link stands among the files, and it may lead to another place",
            remedy="Put what it points to in its place; this lists them: find FOLDER -type l",
        )

    # walking

    def walk(self, names: PlainNames | OddNames, prefix: bytes, after: bytes) -> Iterator[Run]:
        """The files whose keys begin with `prefix` and come behind `after`, in byte order of the key.

        In memory are the names of one folder at each level, nothing more.
        """
        start = names.start(prefix)
        if start is None:
            return
        stack = [self._entries(names, (*names.base, *start[0]), start[1], prefix, after)]
        pending: Run | None = None
        while stack:
            step = next(stack[-1], None)
            if step is None:
                stack.pop()
                continue
            folders, name, key, is_folder = step
            if pending is not None and (is_folder or pending.folders != folders or len(pending.files) >= RUN_NAMES):
                yield pending
                pending = None
            if is_folder:
                stack.append(self._entries(names, (*folders, name), key, prefix, after))
            elif pending is None:
                pending = Run(folders, [(name, key)])
            else:
                pending.files.append((name, key))
        if pending is not None:
            yield pending

    def _entries(
        self, names: PlainNames | OddNames, folders: tuple[bytes, ...], base: bytes, prefix: bytes, after: bytes
    ) -> Iterator[tuple[tuple[bytes, ...], bytes, bytes, bool]]:
        """(folders, name, key, is a folder) of what the folder holds of the range, in key order."""
        try:
            fd = self.open_folder(folders)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            entries, strange = _scan(fd)
        finally:
            os.close(fd)
        for entry in sorted(entries, key=lambda entry: self._sortable(names, entry)):
            is_folder = entry.endswith(b"/")
            name = entry.rstrip(b"/")
            if not folders and name == RESERVED:
                continue
            key = base + self._sortable(names, entry)[0]
            if is_folder:
                if not (key.startswith(prefix) or prefix.startswith(key)):
                    continue
                if after > key and not after.startswith(key):
                    continue
            elif not key.startswith(prefix) or key <= after:
                continue
            if name in strange:
                self._not_a_file(strange[name])
            yield folders, name, key, is_folder

    def _sortable(self, names: PlainNames | OddNames, entry: bytes) -> tuple[bytes, bool]:
        try:
            return names.chunk(entry), entry.endswith(b"/")
        except ValueError as error:
            raise UnreadableError(
                self.store,
                "list",
                "a name in the reserved folder was not written by this tool",
                remedy=f"Look into {RESERVED.decode()}/odd; move what was put there by hand to its plain place.",
            ) from error


def _scan(fd: int) -> tuple[set[bytes], dict[bytes, int]]:
    """The names in a folder, `/` behind a folder's; and the types of those that are neither file nor folder.

    A set, because POSIX lets a name that is replaced meanwhile be read twice.
    """
    entries: set[bytes] = set()
    strange: dict[bytes, int] = {}
    with os.scandir(fd) as found:
        for entry in found:
            name = os.fsencode(entry.name)
            if entry.is_symlink():
                strange[name] = stat.S_IFLNK
            elif entry.is_dir(follow_symlinks=False):
                name += b"/"
            elif not entry.is_file(follow_symlinks=False):
                strange[name] = stat.S_IFIFO
            entries.add(name)
    return entries, strange
