"""A plain listing of a store: what is read from it, and what is refused."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from inventories import NOW, columns, desk, rows, whole_text, write_parquet

from migrate.errors import InputError
from migrate.inventory.files import INVENTORY_COLUMNS

SECRET = "users/person-4711/secret"
HEADER = "key,size,etag,last_modified"
GOOD = f"{SECRET},1,abc,2026-11-01T10:00:00Z"


def refusal(tmp_path: Path, content: str | None = None, path: str = "list.csv", **fields: Any) -> str:
    """The text of the refusal of a listing; it never holds a key (invariant 10)."""
    if content is not None:
        (tmp_path / "list.csv").write_text(content, encoding="utf-8", newline="")
    with pytest.raises(InputError) as caught:
        desk(tmp_path).take(**{"kind": "listing", "path": path, "as_of": NOW, **fields})
    text = whole_text(caught.value)
    assert SECRET not in text
    assert not list(desk(tmp_path).scratch.glob("inventory-us.parquet"))
    return text


def test_csv_listing_is_taken_exactly(tmp_path: Path) -> None:
    """Keys are not decoded, ETags lose their quotes, and times are turned to UTC."""
    (tmp_path / "list.csv").write_text(
        "last_modified,key,size,etag,version_id,storage_class,more\n"
        '2026-11-01T12:00:00.5+02:00,a+b%20c,0,"""abc-2""",v1,STANDARD,x\n'
        '1970-01-01 00:00:00Z,"z, é\n",9007199254740993,d,,,x\n',
        encoding="utf-8",
    )
    taken = desk(tmp_path).take(kind="listing", path="list.csv", as_of=NOW)
    assert rows(taken.glob) == [
        ("a+b%20c", "v1", 0, "abc-2", datetime(2026, 11, 1, 10, 0, 0, 500000), "STANDARD", None, None),  # noqa: DTZ001
        ("z, é\n", None, 9007199254740993, "d", datetime(1970, 1, 1), None, None, None),  # noqa: DTZ001
    ]
    assert columns(taken.glob) == list(INVENTORY_COLUMNS)
    assert (taken.rows, taken.as_of, taken.until, taken.kind, taken.noncurrent) == (2, NOW, NOW, "listing", None)


def test_parquet_listing_is_the_same_input_as_its_csv(tmp_path: Path) -> None:
    """Format, row order and time zone of the writer do not change the fingerprint; one byte more of size does."""
    (tmp_path / "list.csv").write_text(
        f"{HEADER}\na,1,x,2026-11-01T10:00:00Z\nb,2,y,2026-11-01T11:00:00Z\n", encoding="utf-8"
    )
    select = (
        "SELECT key, size, etag, last_modified FROM (VALUES ('b', {0}, 'y', TIMESTAMPTZ '2026-11-01 13:00:00+02'), "
        "('a', 1, 'x', TIMESTAMPTZ '2026-11-01 10:00:00Z')) t(key, size, etag, last_modified)"
    )
    write_parquet(tmp_path / "same.parquet", select.format(2))
    write_parquet(tmp_path / "other.parquet", select.format(3))
    table = desk(tmp_path)
    prints = [
        table.take(kind="listing", path=path, as_of=NOW).fingerprint
        for path in ("list.csv", "same.parquet", "other.parquet")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_listing_in_a_store_is_fetched(tmp_path: Path) -> None:
    """`store:NAME/KEY` works for a listing too."""
    table = desk(tmp_path)
    table.reports.seed("list.csv", f"{HEADER}\n{GOOD}\n".encode())
    assert table.take(kind="listing", path="store:reports/list.csv", as_of=NOW).rows == 1


def test_empty_listing_is_an_empty_store(tmp_path: Path) -> None:
    """A header alone says that the store is empty, which a backup may be."""
    (tmp_path / "list.csv").write_text(HEADER + "\n", encoding="utf-8")
    taken = desk(tmp_path).take(kind="listing", path="list.csv", as_of=NOW)
    assert taken.rows == 0
    assert rows(taken.glob) == []


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (GOOD, "rows 1, 2: the same key"),
        (",1,abc,2026-11-01T10:00:00Z", "row 2: the key is missing"),
        (f"{'k' * 1025},1,abc,2026-11-01T10:00:00Z", "row 2: the key has more than 1024 bytes"),
        ("k,-1,abc,2026-11-01T10:00:00Z", "row 2: the size is no whole number"),
        ("k,1.5,abc,2026-11-01T10:00:00Z", "row 2: the size is no whole number"),
        ("k,,abc,2026-11-01T10:00:00Z", "row 2: the size is no whole number"),
        ("k,99999999999999999999,abc,2026-11-01T10:00:00Z", "row 2: the size is no whole number"),
        ("k,1,,2026-11-01T10:00:00Z", "row 2: the ETag is missing"),
        ('k,1,"""""",2026-11-01T10:00:00Z', "row 2: the ETag is missing"),
        ("k,1,abc,2026-11-01T10:00:00", "row 2: the time of change is missing, or has no zone"),
        ("k,1,abc,1790000000", "row 2: the time of change is missing"),
        ("k,1,abc,2026-13-01T10:00:00Z", "row 2: the time of change is missing"),
        ("k,1,abc,1969-12-31T23:59:59Z", "row 2: the time of change is before 1970"),
        ("k,1,abc,2026-11-25T12:00:01Z", "row 2: the time of change is before 1970 or in the future"),
    ],
)
def test_wrong_row_is_refused_with_its_number(tmp_path: Path, row: str, expected: str) -> None:
    """Invariants 4 and 10: one wrong row refuses the listing, and the text names only its place."""
    assert expected in refusal(tmp_path, f"{HEADER}\n{GOOD}\n{row}\n")


def test_a_cut_listing_is_refused(tmp_path: Path) -> None:
    """Invariant 4: cut in its last line it is refused by itself, cut at a line's end by its checksum; whole, it is read."""
    whole = f"{HEADER}\nk,1,abc,2026-11-01T10:00:00Z\n{GOOD}\n"
    assert "list.csv: line 3: the last line has no line end" in refusal(tmp_path, whole[:-1])
    (tmp_path / "list.csv.sha256").write_text(f"{hashlib.sha256(whole.encode()).hexdigest()}  list.csv\n")
    at_line_end = whole[: whole.index(SECRET)]
    assert "its SHA-256 is not the one in list.csv.sha256" in refusal(tmp_path, at_line_end, checksummed=True)
    (tmp_path / "list.csv").write_text(whole, encoding="utf-8")
    assert desk(tmp_path).take(kind="listing", path="list.csv", as_of=NOW, checksummed=True).rows == 2


@pytest.mark.parametrize("missing", ["key", "size", "etag", "last_modified"])
def test_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    """Each of the four columns is required."""
    names = ",".join(name for name in HEADER.split(",") if name != missing)
    assert f"no column {missing!r}" in refusal(tmp_path, f"{names}\n1,2,3\n")


@pytest.mark.parametrize("change", ["1.0::DOUBLE AS size", "'x'::BLOB AS key", "1790000000 AS last_modified"])
def test_parquet_column_of_a_wrong_type_is_refused(tmp_path: Path, change: str) -> None:
    """Nothing is inferred from a type that does not fit."""
    fields = ["'k' AS key", "1 AS size", "'e' AS etag", "TIMESTAMP '2026-11-01' AS last_modified"]
    write_parquet(tmp_path / "good.parquet", "SELECT " + ", ".join(fields))
    assert desk(tmp_path).take(kind="listing", path="good.parquet", as_of=NOW).rows == 1
    (desk(tmp_path).scratch / "inventory-us.parquet").unlink()
    name = change.split()[-1]
    wrong = [change if field.endswith(f" {name}") else field for field in fields]
    write_parquet(tmp_path / "wrong.parquet", "SELECT " + ", ".join(wrong))
    assert f"column {name!r} is" in refusal(tmp_path, path="wrong.parquet")


def test_listing_has_an_age(tmp_path: Path) -> None:
    """A listing older than the store's maximum age, or of the future, is refused; at the age itself it passes."""
    (tmp_path / "list.csv").write_text(f"{HEADER}\n{GOOD}\n", encoding="utf-8")
    oldest = NOW - timedelta(hours=1)
    table = desk(tmp_path)
    assert table.take(kind="listing", path="list.csv", as_of=oldest, max_age="1h").rows == 1
    (table.scratch / "inventory-us.parquet").unlink()
    assert "too old" in refusal(tmp_path, as_of=oldest - timedelta(seconds=1), max_age="1h")
    assert "has not come yet" in refusal(tmp_path, as_of=NOW + timedelta(seconds=1))
