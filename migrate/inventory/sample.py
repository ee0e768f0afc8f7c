"""A sample of an inventory's keys, asked for with HEAD: it proves that keys were decoded rightly and that the inventory is fresh.

Half of the sample is taken from keys with characters that encodings change, because those are what a wrong decoding loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from migrate.errors import InputError, NotFoundError
from migrate.inventory.aside import aside, ask, side_by_side
from migrate.inventory.files import InventoryFile
from migrate.inventory.tables import open_tables, parquet_sql, reading
from migrate.sql import literal
from migrate.stopping import Stopping, never
from migrate.stores.base import Store

_THREADS = 8
_IS_ODD = "regexp_matches(key, '[^A-Za-z0-9/._-]')"


class _Seen(StrEnum):
    SAME = "same"
    CHANGED = "changed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class SampleReport:
    """How many keys were asked for, and what became of them. `odd` keys hold characters that encodings change."""

    asked: int
    same: int
    changed: int
    gone: int
    odd_asked: int
    odd_gone: int


def check_sample(
    inventory: InventoryFile, store: Store, *, count: int, seed: str, scratch: Path, is_stopping: Stopping = never
) -> SampleReport:
    """HEAD about `count` keys, always the same ones for one `seed` and release of DuckDB. InputError where too many are gone.

    Too many: all of them, or more than two and more than a twentieth; of the odd keys, more than two and more than half.
    """
    rows = aside(lambda: _choose(inventory, count, seed, scratch), is_stopping)
    seen = side_by_side(
        [lambda _halted, row=row: _look(store, *row[:3]) for row in rows],  # type: ignore[misc]
        threads=_THREADS,
        is_stopping=is_stopping,
    )
    odd = [result for result, row in zip(seen, rows, strict=True) if row[3]]
    report = SampleReport(
        asked=len(seen),
        same=seen.count(_Seen.SAME),
        changed=seen.count(_Seen.CHANGED),
        gone=seen.count(_Seen.GONE),
        odd_asked=len(odd),
        odd_gone=odd.count(_Seen.GONE),
    )
    _judge(report, inventory.store)
    return report


def _choose(inventory: InventoryFile, count: int, seed: str, scratch: Path) -> list[tuple[str, int, str, bool]]:
    """Key, size, ETag, and whether the key is odd; either kind fills up the other."""
    row = "{'key': key, 'size': size, 'etag': etag}"
    with open_tables(scratch) as connection, reading(f"the inventory of {inventory.store}"):
        picked = connection.execute(
            f"SELECT {picked_sql(row, seed, count)} FILTER ({_IS_ODD}), {picked_sql(row, seed, count)} FILTER (NOT {_IS_ODD}) "
            f"FROM {parquet_sql(inventory.path)}"
        ).fetchone()
    odd, plain = (
        [(row["key"], row["size"], row["etag"], is_odd) for row in rows or ()]
        for rows, is_odd in zip(picked or (None, None), (True, False), strict=True)
    )
    half = max(count // 2, count - len(plain))
    return odd[:half] + plain[: count - len(odd[:half])]


def picked_sql(row: str, seed: str, count: int) -> str:
    """An SQL aggregate: `row` for `count` of the keys, by DuckDB's own hash of key and seed.

    SHA-256 over each key of a large inventory takes longer than to read it; and nothing is decided here that another release of
    DuckDB may not decide in another way.
    """
    return f"arg_min({row}, hash(key, {literal(seed)}), {count})"


def _look(store: Store, key: str, size: int, etag: str) -> _Seen:
    try:
        info = ask(lambda: store.head(key))
    except NotFoundError:
        return _Seen.GONE
    return _Seen.SAME if (info.size, info.etag) == (size, etag) else _Seen.CHANGED


def _judge(report: SampleReport, store: str) -> None:
    if report.odd_gone > 2 and report.odd_gone * 2 > report.odd_asked:
        raise InputError(
            f"{store}: {report.odd_gone} of {report.odd_asked} sampled keys with special characters are not there: "
            "the inventory's keys were decoded wrongly",
            remedy="Use a Parquet inventory, whose keys are not encoded, or list the store (kind live).",
        )
    if report.gone and (report.gone == report.asked or (report.gone > 2 and report.gone * 20 > report.asked)):
        raise InputError(
            f"{store}: {report.gone} of {report.asked} sampled keys are not there: the inventory is stale, or of another place",
            remedy="Use a newer inventory, or list the store (kind live).",
        )
