"""Every error that `migrate` raises on purpose, and the exit codes they lead to.

One root, few families. An error carries fields (what happened, to what, what to do next), and the command line alone turns
them into words. Errors of third-party libraries stop at the adapter that called the library and become one of these.

No message holds a user id, an object key or a secret (design, invariant 10): they may stand in logs. The field `key` keeps a
key for the code that handles the error; it is never part of the text.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended (design, section 7)."""

    DONE = 0
    USAGE = 2
    DIFFERENT = 3
    INCOMPLETE = 4
    INTEGRITY = 5
    UNREACHABLE = 69
    LATER = 75
    REFUSED = 77
    BAD_SPEC = 78
    INTERRUPTED = 130


_PRECEDENCE = (
    ExitCode.INTEGRITY,
    ExitCode.REFUSED,
    ExitCode.BAD_SPEC,
    ExitCode.UNREACHABLE,
    ExitCode.DIFFERENT,
    ExitCode.INTERRUPTED,
    ExitCode.LATER,
    ExitCode.INCOMPLETE,
    ExitCode.USAGE,
)


def worst(codes: Iterable[ExitCode]) -> ExitCode:
    """The code that is reported where several apply (design, section 7)."""
    found = set(codes)
    return next((code for code in _PRECEDENCE if code in found), ExitCode.DONE)


class MigrateError(Exception):
    """The root. `what` says what happened and to what, `remedy` names the next step or command."""

    exit_code = ExitCode.INTEGRITY

    def __init__(self, what: str, *, remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


class UsageError(MigrateError):
    """The command line asks for something that cannot be."""

    exit_code = ExitCode.USAGE


class NoLedgerError(UsageError):
    """There is no ledger where one is to be read."""


class VersionError(MigrateError):
    """A plan or a ledger of another format than this version reads (design, invariant 12)."""

    exit_code = ExitCode.BAD_SPEC


class SpecError(MigrateError):
    """A spec, or a file that it names, is wrong. `problems` holds one line each: place and what is wrong there."""

    exit_code = ExitCode.BAD_SPEC

    def __init__(self, what: str, problems: Iterable[str] = (), *, remedy: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.problems = tuple(problems)


class InputError(SpecError):
    """A directory or an inventory that cannot be trusted: it ended early, does not parse, or misses its manifest."""


class RefusedError(MigrateError):
    """Policy forbids it: residency, a blocker that nobody decided, a store that is only ever read."""

    exit_code = ExitCode.REFUSED


class IntegrityError(MigrateError):
    """A sum, a digest or a seal is not what it must be. Nothing is to be trusted before a person has looked."""

    exit_code = ExitCode.INTEGRITY


class SealLostError(IntegrityError):
    """A sealed file is missing, or is not what the ledger's digest covers. `path` is the file's, below the seals' folder."""

    def __init__(self, what: str, path: str, *, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.path = path


class LaterError(MigrateError):
    """Cannot be now, and can be later: another run holds the lock."""

    exit_code = ExitCode.LATER


class OnHoldError(LaterError):
    """The user is on hold: nothing of theirs is cut over or purged before the hold is released."""


class WaveWaitsError(MigrateError):
    """The next wave may not start. `exit_code` says what has to come first: LATER a verification, DIFFERENT an answer to what one
    found, INCOMPLETE somebody who looks at what is quarantined or drifted."""

    def __init__(self, what: str, exit_code: ExitCode, *, remedy: str) -> None:
        super().__init__(what, remedy=remedy)
        self.exit_code = exit_code


class InterruptedRun(MigrateError):  # noqa: N818 - it is a way to end, not a fault
    """SIGINT or SIGTERM came. The checkpoint is safe."""

    exit_code = ExitCode.INTERRUPTED


class UnreachableError(MigrateError):
    """A store or the ledger cannot be reached at all."""

    exit_code = ExitCode.UNREACHABLE


class LedgerError(MigrateError):
    """The ledger refuses a change that its constraints do not allow."""

    exit_code = ExitCode.INTEGRITY


class StaleLeaseError(LedgerError):
    """The fencing token of a write is no longer the batch's (design, invariant 5). The worker drops the batch."""

    exit_code = ExitCode.LATER


class MoveRefusedError(LedgerError):
    """The user is not where the move begins: in another state, moved by another process, or frozen under another token."""

    exit_code = ExitCode.LATER


class StoreError(MigrateError):
    """One request to one store failed. The text names the store and the operation, never the key."""

    exit_code = ExitCode.UNREACHABLE
    code = "store_error"

    def __init__(
        self, store: str, operation: str, detail: str = "", *, key: str | None = None, remedy: str = ""
    ) -> None:
        super().__init__(f"{store}: {operation}: {detail or self.code}", remedy=remedy)
        self.store = store
        self.operation = operation
        self.detail = detail
        self.key = key


class TransientStoreError(StoreError):
    """Worth another try: a time-out, a reset connection, a 500. `is_refused`: nothing was done, and nothing can come of it later,
    since the store said so or was not even reached."""

    code = "unavailable"
    is_refused = False

    def __init__(
        self,
        store: str,
        operation: str,
        detail: str = "",
        *,
        key: str | None = None,
        remedy: str = "",
        refused: bool = False,
    ) -> None:
        super().__init__(store, operation, detail, key=key, remedy=remedy)
        self.is_refused = self.is_refused or refused


class ThrottledError(TransientStoreError):
    """SlowDown, 503 or 429: the store asks for less. `wait_seconds` is its Retry-After, if it gave one."""

    code = "throttled"
    is_refused = True

    def __init__(
        self, store: str, operation: str, detail: str = "", *, key: str | None = None, wait_seconds: float | None = None
    ) -> None:
        super().__init__(store, operation, detail, key=key)
        self.wait_seconds = wait_seconds


class ExpiredError(TransientStoreError):
    """The credentials have expired. They are asked for at each request, and may be new at the next one."""

    code = "expired"
    is_refused = True


class CorruptBodyError(TransientStoreError):
    """The bytes that arrived are not those that were promised (length, MD5, syntax). Read again; never write them."""

    code = "corrupt_body"


class StrangeAnswerError(StoreError):
    """An answer that no such store gives: of something on the way, or of another server. Worth another try; if it stays, the
    address is wrong."""

    code = "strange_answer"


class PermanentStoreError(StoreError):
    """Another try would end the same way."""

    code = "failed"


class ElsewhereError(StoreError):
    """The bucket is elsewhere than the spec says: a redirect, or a region that is not its own. Never followed (invariant 7)."""

    exit_code = ExitCode.REFUSED
    code = "elsewhere"


class NotFoundError(PermanentStoreError):
    """The store answered that the object, version or upload is not there. Never raised for a failed listing."""

    code = "not_found"


class PreconditionError(PermanentStoreError):
    """If-Match or If-None-Match did not hold (412, 409)."""

    code = "precondition"


class DeniedError(PermanentStoreError):
    """403: the credentials do not allow it, or have expired."""

    code = "denied"


class UnreadableError(PermanentStoreError):
    """The object cannot be read as it is: archived class, SSE-C, outside the region."""

    code = "unreadable"


class UnsupportedError(PermanentStoreError):
    """The store cannot do this or cannot keep this, and a part would be lost: tags, a header, a key. Never dropped silently."""

    code = "cannot_keep"
