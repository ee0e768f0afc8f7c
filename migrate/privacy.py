"""Pseudonyms: what stands for a user or a key in logs and other output that nobody asked for by name (design, invariant 10).

HMAC-SHA256 under a key that the spec names by reference: the same for all workers and runs, and without the key not to be
reversed by trying out ids. 64 bits are enough to tell a hundred million users apart in a log, and not for more than that.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from migrate.errors import UsageError

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
