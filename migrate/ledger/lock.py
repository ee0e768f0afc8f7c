"""The run lock: one run a plan, unless asked to share. It is the kernel's, so it dies with its holder, even by kill -9.

SQLite: flock on a file beside the ledger. PostgreSQL: an advisory lock of a session of its own. Whoever comes without sharing
tries for the exclusive lock, and once it is had keeps a shared one, so that those who share may come later. With flock that
change is not atomic, so entering is guarded by the ledger's write lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from migrate.errors import LaterError, UnreachableError
from migrate.ledger.core import Core

_ENTERING_SECONDS = 3.0


class Lock(Core):
    """Holding a plan while a run works on it."""

    @contextmanager
    def hold_plan(self, digest: str, *, share: bool, alone: bool = False, verb: str = "run") -> Iterator[None]:
        """Hold the plan to the end of the block. LaterError at once if another command holds it and `share` is not asked for, or
        holds it `alone`, so that nobody comes to share; `verb` is that of the command to be given again then.
        """
        path, held = self._database.path, _held(digest, verb, may_share=not share and not alone)
        if path is not None:
            place = path.with_name(f"{path.name}.{digest[:16]}.lock")
            with self._hold_file(place, held, share=share, alone=alone):
                yield
        else:
            with self._hold_session(digest, held, share=share, alone=alone):
                yield

    @contextmanager
    def _hold_file(self, path: Path, held: LaterError, *, share: bool, alone: bool) -> Iterator[None]:
        try:
            # not inherited by other programs (PEP 446), so that no child outlives its parent with the lock
            descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise UnreachableError(f"the lock file {path} cannot be opened: {error.strerror}") from error
        try:
            with self._write():
                try:
                    if not share:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if not alone:
                        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise held from error
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _hold_session(self, digest: str, held: LaterError, *, share: bool, alone: bool) -> Iterator[None]:
        key = int.from_bytes(hashlib.sha256(b"migrate run lock " + digest.encode("ascii")).digest()[:8], signed=True)
        with self._database.session() as connection:
            if not share and not _ask(connection, func.pg_try_advisory_lock(key)):
                raise held
            if not alone:
                _share(connection, key, held)
            if not share and not alone:
                _ask(connection, func.pg_advisory_unlock(key))
            yield


def _share(connection: Connection, key: int, held: LaterError) -> None:
    """Take the shared lock. One that enters has the exclusive one for a moment; who has it for longer wants to be alone."""
    until = time.monotonic() + _ENTERING_SECONDS
    while not _ask(connection, func.pg_try_advisory_lock_shared(key)):
        if time.monotonic() >= until:
            raise held
        time.sleep(0.05)


def _ask(connection: Connection, call: object) -> object:
    return connection.execute(select(call)).scalar()  # type: ignore[call-overload]


def _held(digest: str, verb: str, *, may_share: bool) -> LaterError:
    return LaterError(
        f"another command works on plan {digest[:12]}",
        remedy=f"Give `migrate {verb} {digest[:12]}` again, with its options, when that has ended"
        + ("; or with --share, to work beside it." if may_share else "."),
    )
