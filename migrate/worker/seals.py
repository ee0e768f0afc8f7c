"""Sealed files: the receipts of a finished batch, and the verdicts of a finished check, as Parquet beside the ledger.

The digest of a file is over its rows in canonical form, not over its bytes. The ledger keeps it and chains it to the one
before, so that an edited, missing or exchanged file is found when it is read (design, section 3). It is a part of the file's
name: what is sealed twice is one file, and neither another ledger nor one that was put back from its backup takes a proof away.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from migrate.errors import SealLostError, StaleLeaseError, UnreachableError
from migrate.ledger import NewSeal, Seal, SealKind
from migrate.model import CheckResult, Evidence, Outcome, Receipt, Verdict
from migrate.pauses import PausePoint, pause_at
from migrate.sql import literal

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMED_BYTES = 8  # of the digest, in a file's name

# name, DuckDB type; the order is that of the canonical form
_RECEIPTS = (
    ("ordinal", "INTEGER"),
    ("outcome", "VARCHAR"),
    ("sha256", "BLOB"),
    ("part_bytes", "BIGINT"),
    ("attributes", "BLOB"),
    ("etag", "VARCHAR"),
    ("version_id", "VARCHAR"),
    ("evidence", "VARCHAR"),
    ("at_us", "BIGINT"),
)
_VERDICTS = (("ordinal", "INTEGER"), ("verdict", "VARCHAR"), ("reason", "VARCHAR"), ("etag", "VARCHAR"))

_REMEDY = (
    "Bring it back from a backup of .migrate/seals and verify again;"
    " or `migrate verify --repair`, and the next run makes its receipts anew."
)

SealedReceipt = tuple[int, Outcome, Receipt]


class Seals:
    """Writes and reads sealed files under one folder. For one thread."""

    def __init__(self, folder: Path, plan_digest: str) -> None:
        self._root = folder
        self._plan = plan_digest[:16]
        self._connection = duckdb.connect(
            ":memory:", config={"threads": 1, "memory_limit": "128MB", "temp_directory": ""}
        )
        own = self.folder_of(folder, plan_digest)
        own.mkdir(parents=True, exist_ok=True, mode=0o700)
        for each in (folder, own):
            each.chmod(0o700)  # what was there already, too

    @staticmethod
    def folder_of(folder: Path, plan_digest: str) -> Path:
        """Where the sealed files of a plan are."""
        return folder / plan_digest[:16]

    def close(self) -> None:
        self._connection.close()

    def write_receipts(self, number: int, fence: int, receipts: Iterable[SealedReceipt]) -> NewSeal:
        """Seal the receipts of batch `number`; durable when this returns."""
        rows = [
            (
                ordinal,
                outcome.value,
                receipt.sha256,
                receipt.part_bytes,
                receipt.attributes,
                receipt.etag,
                receipt.version_id,
                receipt.evidence.value,
                _microseconds(receipt.at),
            )
            for ordinal, outcome, receipt in sorted(receipts, key=lambda row: row[0])
        ]
        return self._write(_stem(SealKind.RECEIPTS, number, None), fence, _RECEIPTS, rows)

    def write_verdicts(self, number: int, fence: int, pass_id: int, results: Iterable[CheckResult]) -> NewSeal:
        """Seal the verdicts of one check of batch `number`; durable when this returns."""
        rows = [
            (result.ordinal, result.verdict.value, result.reason, result.etag)
            for result in sorted(results, key=lambda result: result.ordinal)
        ]
        return self._write(_stem(SealKind.VERDICTS, number, pass_id), fence, _VERDICTS, rows)

    def read_receipts(self, seals: Sequence[Seal], ordinals: Collection[int]) -> dict[int, tuple[Outcome, Receipt]]:
        """The receipts of these copies of a batch, from its seals (oldest first). SealLostError where one cannot be had.

        A later receipt voids an earlier one of the same copy. So the seals are read from the newest on, and one that has
        nothing but void receipts need not be there any more.
        """
        left = set(ordinals)
        found: dict[int, tuple[Outcome, Receipt]] = {}
        for seal in reversed(seals):
            if not left:
                break
            found |= {
                ordinal: (outcome, receipt) for ordinal, outcome, receipt in self.receipts_of(seal) if ordinal in left
            }
            left.difference_update(found)
        if left:
            raise SealLostError(f"no sealed file has the receipts of {len(left)} copies", "", remedy=_REMEDY)
        return found

    def receipts_of(self, seal: Seal) -> list[SealedReceipt]:
        """All that a seal of receipts holds, by ordinal. SealLostError where it cannot be had."""
        return [
            (
                ordinal,
                Outcome(outcome),
                Receipt(sha256, part_bytes, attributes, etag, version_id, Evidence(evidence), _time(at_us)),
            )
            for ordinal, outcome, sha256, part_bytes, attributes, etag, version_id, evidence, at_us in self._read(
                seal, _RECEIPTS
            )
        ]

    def verdicts_of(self, seal: Seal) -> list[tuple[int, Verdict]]:
        """The verdicts of a seal, by ordinal. SealLostError where it cannot be had."""
        return [(ordinal, Verdict(verdict)) for ordinal, verdict, *_ in self._read(seal, _VERDICTS)]

    def forget_receipts(self, number: int, fence: int) -> None:
        """Remove what earlier holders of the batch have not written to its end."""
        self._forget(_stem(SealKind.RECEIPTS, number, None), fence)

    def forget_verdicts(self, number: int, pass_id: int, fence: int) -> None:
        """The same for the verdicts of one check."""
        self._forget(_stem(SealKind.VERDICTS, number, pass_id), fence)

    def _forget(self, stem: str, fence: int) -> None:
        for earlier in range(1, fence):
            (self._root / self._plan / _partial(stem, earlier)).unlink(missing_ok=True)

    def _write(
        self, stem: str, fence: int, columns: Sequence[tuple[str, str]], rows: Sequence[tuple[Any, ...]]
    ) -> NewSeal:
        digest = _digest(rows)
        name = _name(stem, digest)
        try:
            self._put(self._root / self._plan / _partial(stem, fence), name, columns, rows)
        except FileNotFoundError as error:
            raise StaleLeaseError(f"sealed file {name}: a later holder of the batch has removed it") from error
        except (OSError, duckdb.Error) as error:
            raise UnreachableError(
                f"sealed file {name} cannot be written: {type(error).__name__}",
                remedy="Make room in .migrate/seals and see to its rights, then run again: nothing is lost.",
            ) from error
        return NewSeal(len(rows), digest)

    def _put(
        self, partial: Path, name: str, columns: Sequence[tuple[str, str]], rows: Sequence[tuple[Any, ...]]
    ) -> None:
        """Write a file, whole or not at all; durable when this returns. One of this name has these rows already."""
        partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        selected = ", ".join(
            f"unnest(${place}::{kind}[]) AS {column}" for place, (column, kind) in enumerate(columns, 1)
        )
        lists = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in columns]
        self._connection.execute(
            f"COPY (SELECT {selected}) TO {literal(str(partial))} (FORMAT parquet, COMPRESSION zstd)", lists
        )
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o600)
        pause_at(PausePoint.RECEIPTS_WRITING)
        partial.replace(partial.with_name(name))
        folder = os.open(partial.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _read(self, seal: Seal, columns: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
        name = f"{self._plan}/{file_name(seal)}"
        path = self._root / name
        names = ", ".join(f"{column}::{kind}" for column, kind in columns)
        try:
            query = (
                f"SELECT {names} FROM read_parquet({literal(str(path))}, hive_partitioning = false) ORDER BY ordinal"
            )
            rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        except duckdb.Error as error:
            raise SealLostError(f"sealed file {name} is missing or cannot be read", name, remedy=_REMEDY) from error
        if len(rows) != seal.rows or _digest(rows) != seal.digest:
            raise SealLostError(f"sealed file {name} is not what the ledger's digest covers", name, remedy=_REMEDY)
        return rows


def file_name(seal: Seal) -> str:
    """The file of a seal, in the folder of its plan."""
    return _name(_stem(seal.kind, seal.number, seal.pass_id), seal.digest)


def _stem(kind: SealKind, number: int, pass_id: int | None) -> str:
    return f"{kind.value}-{number:08d}" + ("" if pass_id is None else f"-{pass_id}")


def _name(stem: str, digest: bytes) -> str:
    return f"{stem}-{digest[:_NAMED_BYTES].hex()}.parquet"


def _partial(stem: str, fence: int) -> str:
    """What a worker writes before it has its name: the fence is its own."""
    return f"{stem}-{fence}.partial"


def _digest(rows: Iterable[tuple[Any, ...]]) -> bytes:
    """SHA-256 over the rows in canonical form: each field as its length in bytes, `:` and the bytes; `-` for none."""
    digest = hashlib.sha256()
    for row in rows:
        parts: list[bytes] = []
        for value in row:
            if value is None:
                parts.append(b"-")
            else:
                raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
                parts.append(b"%d:%b" % (len(raw), raw))
        digest.update(b"".join(parts))
    return digest.digest()


def _microseconds(at: datetime) -> int:
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _time(at_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=at_us)
