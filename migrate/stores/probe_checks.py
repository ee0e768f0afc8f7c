"""The values of a probe: a check and its status, what a server says of itself, and who asks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Protocol

from migrate.errors import CorruptBodyError, ExitCode, MigrateError, NotFoundError, StoreError
from migrate.model import Attributes
from migrate.stores.base import PutResult, Store


class CheckStatus(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a probe: what was found, and how to mend it. `exit` is what a failed check makes of the command."""

    name: str
    status: CheckStatus
    finding: str
    fix: str = ""
    exit: ExitCode = ExitCode.DONE


@dataclass(frozen=True, slots=True)
class StoreDetails:
    """What a server says of itself; None where it does not say, or not to us. A skew over 0 means that our clock is ahead.

    `is_aws`: the region's name is AWS's. Other servers call theirs what they like, `us-east-1` anywhere among it.
    """

    region: str | None = None
    is_aws: bool = False
    clock_skew_seconds: float | None = None
    versioning: bool | None = None
    object_lock: bool | None = None


@dataclass(frozen=True, slots=True)
class Refusals:
    """Whether an object was refused whose checksum did not fit its bytes."""

    md5: bool
    sha256: bool


@dataclass(frozen=True, slots=True)
class Encrypted:
    """What a server says it has encrypted an object with."""

    algorithm: str | None
    is_right: bool  # the key is the spec's


class Questions(Protocol):
    """What is asked of a store's server, beyond the Store protocol. The door hands out the one that fits a store."""

    def details(self, clock: Callable[[], datetime]) -> StoreDetails | None:
        """Asks with GET and HEAD alone. None where there is no server to be asked."""
        ...

    def refusals(self, key: str) -> Refusals:
        """Writes with wrong checksums to keys that begin with `key`. For targets only."""
        ...

    def put_small(
        self, key: str, body: bytes, attributes: Attributes, *, create_only: bool = False
    ) -> PutResult | None:
        """Writes the short way that the store has for small plain objects; None where it has none. For targets only."""
        ...

    def put_encrypted(self, key: str, body: bytes) -> Encrypted | None:
        """Writes with the store's KMS key, and believes nothing; None where the spec names no key. For targets only."""
        ...


class LocalQuestions:
    """Questions for a store without a server: a folder, or memory."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def details(self, clock: Callable[[], datetime]) -> StoreDetails | None:
        return None

    def refusals(self, key: str) -> Refusals:
        with suppress(CorruptBodyError):
            wrong = hashlib.md5(b"other bytes", usedforsecurity=False).digest()
            self._store.put(key, b"bytes", attributes=Attributes(), tags={}, md5=wrong)
        return Refusals(md5=is_absent(self._store, key), sha256=False)

    def put_small(
        self, key: str, body: bytes, attributes: Attributes, *, create_only: bool = False
    ) -> PutResult | None:
        return None

    def put_encrypted(self, key: str, body: bytes) -> Encrypted | None:
        return None


def is_absent(store: Store, key: str) -> bool:
    try:
        store.head(key)
    except NotFoundError:
        return True
    return False


class Guard:
    """Ends a block at an error of one family, and tells `note` of it."""

    def __init__(self, family: type[MigrateError], note: Callable[[MigrateError], None]) -> None:
        self._family = family
        self._note = note

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, self._family):
            self._note(error)
            return True
        return False


class Checks:
    """Collects the checks of one probe, in their order."""

    def __init__(self) -> None:
        self.found: list[Check] = []

    def ok(self, name: str, finding: str) -> None:
        self.found.append(Check(name, CheckStatus.OK, finding))

    def warn(self, name: str, finding: str, fix: str) -> None:
        self.found.append(Check(name, CheckStatus.WARN, finding, fix))

    def fail(self, name: str, finding: str, fix: str, code: ExitCode = ExitCode.UNREACHABLE) -> None:
        self.found.append(Check(name, CheckStatus.FAIL, finding, fix, code))

    def judge(self, name: str, good: bool, finding: str, otherwise: str, fix: str) -> bool:
        """A check of something that a store may lack; whether it has it."""
        if good:
            self.ok(name, finding)
        else:
            self.warn(name, otherwise, fix)
        return good

    def tell(self, name: str, good: bool, finding: str, otherwise: str) -> bool:
        """Like `judge`, of something that the tool makes up for by itself: nobody need do anything."""
        self.ok(name, finding if good else otherwise)
        return good

    def needed(self, name: str, fix: str) -> Guard:
        """Around what must work: an error inside ends the block, and fails the check."""

        def fail(error: MigrateError) -> None:
            self.fail(name, str(error), error.remedy or fix, error.exit_code)

        return Guard(MigrateError, fail)

    def wanted(self, name: str, fix: str) -> Guard:
        """Around what a store may lack: its error ends the block, and is a warning."""
        return Guard(StoreError, lambda error: self.warn(name, str(error), fix))

    @property
    def any_failed(self) -> bool:
        return any(check.status is CheckStatus.FAIL for check in self.found)
