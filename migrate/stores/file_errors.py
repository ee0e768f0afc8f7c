"""What the operating system's refusals mean for a store: OSError becomes one of `migrate.errors` here, and nowhere else."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from migrate.errors import DeniedError, StoreError, TransientStoreError, UnsupportedError

_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def os_errors(store: str, operation: str, key: str | None = None) -> Iterator[None]:
    """Turn an OSError inside into a StoreError. Its text has the errno's name alone: a path would show the key."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, store, operation, key) from error


def from_os_error(error: OSError, store: str, operation: str, key: str | None) -> StoreError:
    """A full disk stops the run (StoreError); what the next try may mend is transient: EIO, ESTALE, EMFILE and the like."""
    detail = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if error.errno in _DENIED:
        return DeniedError(store, operation, detail, key=key, remedy="Give this account the rights to the folder.")
    if error.errno in _FULL:
        return StoreError(store, operation, detail, key=key, remedy="Make room in the folder's file system.")
    if error.errno == errno.ENAMETOOLONG:
        return UnsupportedError(store, operation, "the file system cannot hold such a name", key=key)
    return TransientStoreError(store, operation, detail, key=key)
