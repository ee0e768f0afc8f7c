"""A GET from a file: all of it from one descriptor, so that it is never half old, half new."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from migrate.errors import CorruptBodyError
from migrate.model import ObjectInfo
from migrate.stores.file_errors import os_errors


class FileDownload:
    """Reads `length` bytes from `start` out of `fd`, which it owns. The contract stands in `base.Download`."""

    def __init__(
        self, store: str, info: ObjectInfo, fd: int, found: os.stat_result, start: int | None, length: int | None
    ) -> None:
        self.info = info
        self._store = store
        self._found = found
        self._file = os.fdopen(fd, "rb", buffering=0)
        first = start or 0
        self._left = max(found.st_size - first, 0) if length is None else min(length, found.st_size - first)
        if first:
            self._file.seek(first)

    def read(self) -> bytes:
        pieces = list(self.chunks(max(self._left, 1)))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def chunks(self, size: int = 2**20) -> Iterator[bytes]:
        with os_errors(self._store, "read", self.info.key):
            while self._left:
                piece = self._file.read(min(size, self._left))
                if not piece:
                    raise self._changed("the file ended early")
                self._left -= len(piece)
                if not self._left:
                    self._check()
                yield piece

    def _check(self) -> None:
        """A file that was put by hand may be changed in place, under our reading."""
        now = os.fstat(self._file.fileno())
        if (now.st_mtime_ns, now.st_size) != (self._found.st_mtime_ns, self._found.st_size):
            raise self._changed("the file was changed while it was read")

    def _changed(self, detail: str) -> CorruptBodyError:
        return CorruptBodyError(self._store, "read", detail, key=self.info.key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
