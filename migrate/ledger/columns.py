"""How values stand in the ledger's columns: times as microseconds, keys as bytes, short codes, packed ETags."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from migrate.model import Evidence, Outcome

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 of an aware datetime; exact, no float on the way."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware UTC datetime of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=micros)


class Micros(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else from_micros(value)


def key_bytes(key: str | None) -> bytes | None:
    """The UTF-8 of an object key. PostgreSQL's text cannot hold every character that a key can."""
    return None if key is None else key.encode("utf-8", "surrogateescape")


class KeyBytes(TypeDecorator[str]):
    """An object key, kept as its UTF-8."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        return key_bytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        return None if value is None else bytes(value).decode("utf-8", "surrogateescape")


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """A CHECK that the column holds one of the values of an enum.

    No IN: SQLite makes a table of its list anew for each row, which costs a third of an insert. What is common comes first.
    """
    return CheckConstraint(" OR ".join(f"{column} = '{value}'" for value in values), name=f"{column}_known")


# The one table with a row a copy keeps short: letters for outcome and evidence, an ETag that is an MD5 as its 16 bytes.
OUTCOME_CODES = {
    Outcome.COPIED: "c",
    Outcome.PRESENT: "p",
    Outcome.DRIFTED: "d",
    Outcome.QUARANTINED: "q",
    Outcome.WITHDRAWN: "w",
    Outcome.PENDING: "-",
}
EVIDENCE_CODES = {Evidence.MD5: "m", Evidence.COMPOSITE: "c", Evidence.LENGTH: "l"}
OUTCOMES = {code: outcome for outcome, code in OUTCOME_CODES.items()}
EVIDENCES = {code: evidence for evidence, code in EVIDENCE_CODES.items()}
_MD5_HEX = re.compile(r"[0-9a-f]{32}", re.ASCII)


def pack_etag(etag: str) -> bytes:
    """A mark and what it says: `m` and the 16 bytes of an MD5, or `t` and the text as it is."""
    if _MD5_HEX.fullmatch(etag):
        return b"m" + bytes.fromhex(etag)
    return b"t" + etag.encode("utf-8", "surrogateescape")


def unpack_etag(packed: bytes) -> str:
    """The ETag that `pack_etag` was given."""
    return packed[1:].hex() if packed[:1] == b"m" else packed[1:].decode("utf-8", "surrogateescape")
