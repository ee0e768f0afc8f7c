"""Standard error that cannot be written, because its disk is full or nobody reads it: what is said is lost, and no work stops.

The log is no proof of anything: the ledger is. When there is room again, what is said from then on is written.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast


class _Lenient:
    """A stream that raises nothing when it cannot be written; all else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def lenient_stderr() -> Iterator[None]:
    """While this is open, `sys.stderr` is one that stops nobody."""
    before = sys.stderr
    sys.stderr = cast(TextIO, _Lenient(before))
    try:
        yield
    finally:
        sys.stderr = before
