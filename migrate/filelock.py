"""A lock file by flock(2): the kernel holds it for a process, so it dies with its holder, even by kill -9."""

from __future__ import annotations

import fcntl
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1
_TRIES_A_MINUTE = 600


@contextmanager
def locked(path: Path, when_taken: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on `path`, which is made where it is not there, to the end of the block.

    While another process has it `when_taken` is called again and again: it raises to give up, or waits a moment.
    """
    with path.open("w") as file:
        path.chmod(0o600)
        while not _is_ours(file.fileno()):
            when_taken()
        yield


def waiting(tell: Callable[[], None], go_on: Callable[[], None]) -> Callable[[], None]:
    """A `when_taken` that waits: it tells so at first and once a minute, and goes on until `go_on` raises."""
    tries = itertools.count()

    def wait() -> None:
        if next(tries) % _TRIES_A_MINUTE == 0:
            tell()
        go_on()
        time.sleep(_POLL_SECONDS)

    return wait


def _is_ours(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
