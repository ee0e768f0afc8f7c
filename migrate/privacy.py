"""Pseudonyms, which stand for a user or a key in output that nobody asked for by name, and tracebacks that name no person
(design, invariant 10).

A pseudonym is HMAC-SHA256 under a key that the spec names by reference: the same for all workers and runs, and without the
key not to be reversed by trying out ids. 64 bits are enough to tell a hundred million users apart in a log, and not for more.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from migrate.errors import MigrateError, SpecError, UsageError
from migrate.secrets import raw_key

PSEUDONYM_HEX_DIGITS = 16


class Pseudonyms:
    """Makes pseudonyms with one key. Its text does not show the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def user(self, user_id: str) -> str:
        """What stands for a user."""
        return self._pseudonym(b"user", user_id)

    def object_key(self, store: str, key: str) -> str:
        """What stands for a key in a store. It says nothing of the user in the key."""
        return self._pseudonym(b"key", store, key)

    def _pseudonym(self, kind: bytes, *texts: str) -> str:
        parts = [kind, *(text.encode("utf-8", "surrogatepass") for text in texts)]
        message = b"".join(b"%d:%s," % (len(part), part) for part in parts)
        return hmac.digest(self._key, message, "sha256").hex()[:PSEUDONYM_HEX_DIGITS]


def pseudonyms_of(reference: str, environment: Mapping[str, str], root: Path) -> Pseudonyms | None:
    """Those of the key that a spec references; None where there is no such key: logs cannot speak of anybody then.

    RefusedError where others than its owner can read it.
    """
    try:
        return Pseudonyms(raw_key(reference, environment, root))
    except SpecError:
        return None


def make_key(path: Path) -> None:
    """Write a new key of 256 bits to `path`, for its owner alone. UsageError if there is something: a key is never replaced."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UsageError(
            f"{path} exists already", remedy="Keep it: with another key the pseudonyms in older logs mean nothing."
        ) from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())


class WorkerBugError(Exception):
    """A bug in a worker process: its type's name, and the lines of its bare traceback there."""

    def __init__(self, kind: str, lines: Sequence[str]) -> None:
        super().__init__(f"{kind} in a worker process")
        self.lines = tuple(lines)


def bare_traceback(error: BaseException) -> list[str]:
    """The lines of a traceback and of the chain before it, with the texts of our own errors alone (design, invariant 10).

    The text of any other may hold a key or a user id: DuckDB quotes the value that it cannot convert, an OSError names its path.
    It is named by its type, and by its error number where it has one. Notes are left out: they are texts too.
    """
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    lines: list[str] = []
    for link in reversed(chain):
        if isinstance(link, WorkerBugError):
            lines += ["In the worker process:", *link.lines]
        lines += ["", "That led to:", ""] if lines else []
        lines.append("Traceback (most recent call last):")
        lines += [line for text in traceback.format_tb(link.__traceback__) for line in text.splitlines()]
        lines.append(_named(link))
    return lines


def _named(error: BaseException) -> str:
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, MigrateError):
        return f"{name}: {error.what}"
    if isinstance(error, WorkerBugError):
        return f"{name}: {error}"
    number = errno.errorcode.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{name} [{number}]" if number else name
