"""A lock file by flock(2): the kernel holds it for a process, so it dies with its holder, even by kill -9."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


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


def _is_ours(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
