"""Hostile inventories through the real command line: refused by file and row. Never a plan of one.

Tried: a checksum that is off, a key twice, negative and endless sizes, times in 1969 and 9999, keys of 1,025 bytes, keys that are
not there, files that were cut, manifests that are no manifests.

Every refusal names the file and the row or column, has a remedy, leaves no plan and no crash report, repeats no id (design,
invariant 10), and is harmless on a terminal.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import SPEC, Run, build_workspace, runner
from hostile import SECRET, Case, Change, assert_refused, both, named, parquet, spec_of

LISTED = "key,size,etag,last_modified\n"
THEN = "2026-01-02T03:04:05Z"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    return runner(capsys, tmp_path)


def listing(*rows: str, checksum: str | None = None) -> Change:
    """A listing of `us` as a CSV file."""

    def change(root: Path) -> None:
        text = LISTED + "".join(f"{row}\n" for row in rows)
        (root / "list.csv").write_text(text, newline="")
        if checksum is not None:
            (root / "list.csv.sha256").write_text(checksum)
        listed(root, checksummed=checksum is not None)

    return change


def listed(root: Path, *, checksummed: bool = False) -> None:
    inventory = f'kind = "listing", path = "list.csv", as_of = {THEN}, max_age = "36500d"'
    inventory += ", checksummed = true" if checksummed else ""
    spec_of(root).write_text(
        SPEC.replace('url = "file:stores/us"', f'url = "file:stores/us", inventory = {{ {inventory} }}')
    )


def row(key: str = f"users/{SECRET}/2.jpg", size: str = "1", etag: str = "e", at: str = "2026-01-01T00:00:00Z") -> str:
    return f"{key},{size},{etag},{at}"


def listed_parquet(columns: str, spoil: Callable[[bytes], bytes] = bytes) -> Change:
    return both(listed, parquet(f"SELECT {columns}", spoil, "list.csv"))


GOOD = row(f"users/{SECRET}/1.jpg")
TYPED = f"'users/{SECRET}/1' AS key, 1 AS size, 'e' AS etag, TIMESTAMP '2026-01-01' AS last_modified"
FAR = (datetime.now(UTC) + timedelta(days=3)).isoformat(timespec="seconds")

INVENTORY = [
    Case(
        "a checksum that is off",
        listing(GOOD, checksum=f"{'0' * 64}  list.csv\n"),
        ("list.csv: its SHA-256 is not the one in list.csv.sha256",),
    ),
    Case(
        "a checksum that is none", listing(GOOD, checksum="\x1b[2J\n"), ("list.csv.sha256: not one line as sha256sum",)
    ),
    Case("a key twice", listing(GOOD, row(), GOOD), ("list.csv: rows 1, 3: the same key",)),
    Case("a negative size", listing(GOOD, row(size="-1")), ("list.csv: row 2: the size is no whole number from 0",)),
    Case(
        "a size beyond all counting",
        listing(GOOD, row(size="9" * 30)),
        ("list.csv: row 2: the size is no whole number",),
    ),
    Case(
        "a size that is a fraction", listing(GOOD, row(size="1e3")), ("list.csv: row 2: the size is no whole number",)
    ),
    Case(
        "a date before 1970",
        listing(GOOD, row(at="1969-12-31T23:59:59Z")),
        ("row 2: the time of change is before 1970",),
    ),
    Case(
        "a date in 9999",
        listing(GOOD, row(at="9999-12-31T23:59:59Z")),
        ("row 2: the time of change is before 1970 or in the future",),
    ),
    Case(
        "a date tomorrow's morrow",
        listing(GOOD, row(at=FAR)),
        ("row 2: the time of change is before 1970 or in the future",),
    ),
    Case(
        "a date without zone",
        listing(GOOD, row(at="2026-01-01T00:00:00")),
        ("row 2: the time of change is missing, or has no zone",),
    ),
    Case(
        "a date that is none", listing(GOOD, row(at="2026-02-30T00:00:00Z")), ("row 2: the time of change is missing",)
    ),
    Case("an empty ETag", listing(GOOD, row(etag="")), ("list.csv: row 2: the ETag is missing",)),
    Case("an empty key", listing(GOOD, row(key="")), ("list.csv: row 2: the key is missing",)),
    Case(
        "a key of 1,025 bytes",
        listing(GOOD, row(key=SECRET + "x" * 1014)),
        ("list.csv: row 2: the key has more than 1024 bytes",),
    ),
    Case("keys that are not there", listing(GOOD, row()), ("us: 2 of 2 sampled keys are not there",)),
    Case(
        "no key of those that are there",
        listing(),
        ("us: 10 of 10 keys that the store lists are not in its inventory",),
    ),
    Case(
        "sizes that are floats",
        listed_parquet(TYPED.replace("1 AS size", "1.0::DOUBLE AS size")),
        ("list.csv: column 'size' is DOUBLE and not a whole number",),
    ),
    Case(
        "keys that are bytes",
        listed_parquet(f"'{SECRET}'::BLOB AS key, {TYPED.split(', ', 1)[1]}"),
        ("list.csv: column 'key' is BLOB and not text",),
    ),
    Case(
        "times that are numbers",
        listed_parquet(TYPED.replace("TIMESTAMP '2026-01-01'", "1790000000")),
        ("list.csv: column 'last_modified' is INTEGER and not a time",),
    ),
    Case(
        "a negative size in Parquet",
        listed_parquet(TYPED.replace("1 AS size", "-1 AS size")),
        ("list.csv: row 1: the size",),
    ),
    Case(
        "an infinite time in Parquet",
        listed_parquet(TYPED.replace("TIMESTAMP '2026-01-01'", "TIMESTAMP 'infinity'")),
        ("list.csv: row 1: the time",),
    ),
    Case("a truncated Parquet file", listed_parquet(TYPED, lambda whole: whole[: len(whole) // 2]), ("list.csv: ",)),
]


@named(INVENTORY)
def test_a_hostile_inventory_is_refused(run: Run, tmp_path: Path, case: Case) -> None:
    """Invariant 4: file, row and remedy are told, and there is no plan."""
    spec = build_workspace(tmp_path)
    month_old(tmp_path)
    case.change(tmp_path)
    assert_refused(tmp_path, run("plan", str(spec)), case.code, *case.says)


def month_old(root: Path) -> None:
    """Objects that are older than the inventory, so that it must list them; their attributes are not looked at here."""
    for path in (root / "stores" / "us").rglob("*"):
        if path.is_file():
            os.utime(path, (1.7e9, 1.7e9))


def test_a_listing_that_says_what_is_there_is_planned(run: Run, tmp_path: Path) -> None:
    """The twin: the same list without a fault, a time in 1970 included."""
    spec = build_workspace(tmp_path, users={"anna": "IE"})
    month_old(tmp_path)
    rows = [row(f"users/anna/{number}.jpg", at="1970-01-01T00:00:00Z") for number in range(3)]
    listing(*rows, '"odd/[red]\x1b[2J\r\n\u2066key\\n",1,e,2026-01-01T00:00:00Z')(tmp_path)
    done = run("plan", str(spec), "--json")
    assert done.code == 0, done.err
    assert done.answer["census"]["us"]["classes"]["owned"] == 3


def manifest(**changes: object) -> Change:
    """An S3 Inventory of the source, whose checksum is right, but for what `changes` says."""

    def change(root: Path) -> None:
        packed = gzip.compress(b'"bucket","users/anna/1","5","2026-01-01T00:00:00.000Z","abc"\n')
        document = {
            "sourceBucket": "bucket",
            "creationTimestamp": str(int(datetime(2026, 1, 2, tzinfo=UTC).timestamp() * 1000)),
            "fileFormat": "CSV",
            "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
            "files": [{"key": "data/0.csv.gz", "size": len(packed), "MD5checksum": md5(packed)}],
        } | changes
        folder = root / "inv" / "day"
        (root / "inv" / "data").mkdir(parents=True)
        folder.mkdir()
        (root / "inv" / "data" / "0.csv.gz").write_bytes(packed)
        content = document.pop("raw", None)
        content = content if isinstance(content, bytes) else json.dumps(document).encode()
        (folder / "manifest.json").write_bytes(content)
        (folder / "manifest.checksum").write_text(str(document.get("checksum", md5(content))))
        inventory = '{ kind = "s3-inventory", path = "inv/day/manifest.json", max_age = "36500d" }'
        place = 'url = "s3://bucket/", credentials = "env:X", endpoint = "http://127.0.0.1:9"'
        spec_of(root).write_text(SPEC.replace('url = "file:stores/us"', f"{place}, inventory = {inventory}"))

    return change


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


FILE = {"key": "data/0.csv.gz", "size": 1, "MD5checksum": "0"}

MANIFEST = [
    Case(
        "a checksum that is off",
        manifest(checksum="0" * 32),
        ("inv/day/manifest.json: its MD5 is not the one in manifest.checksum",),
    ),
    Case("an endless array", manifest(raw=b"[" * 100_000), ("inv/day/manifest.json: not JSON",)),
    Case("a number of 5,000 digits", manifest(raw=b"1" * 5_000), ("inv/day/manifest.json: not JSON",)),
    Case("a text for a manifest", manifest(raw=b'"x"'), ("inv/day/manifest.json: not a manifest",)),
    Case("a time beyond the calendar", manifest(creationTimestamp=10**30), ("inv/day/manifest.json: not a manifest",)),
    Case(
        "an endless size", manifest(files=[FILE | {"size": float("inf")}]), ("inv/day/manifest.json: not a manifest",)
    ),
    Case("a size that is off", manifest(files=[FILE]), ("inv/day/manifest.json: 0.csv.gz: ", "bytes instead of 1")),
    Case("a file outside", manifest(files=[FILE | {"key": "../../users.csv"}]), ("a data file outside the inventory",)),
    Case(
        "a file of a hostile name",
        manifest(files=[FILE | {"key": "data/\x1b[2J[red]\0\u202e"}]),
        ("\\x1b[2J[red]\\x00\\u202e: the data file is missing",),
    ),
    Case("a file whose name is no text", manifest(files=[FILE | {"key": "\ud800"}]), ("the data file is missing",)),
    Case(
        "another bucket", manifest(sourceBucket="\x1b[2J"), ("inv/day/manifest.json: an inventory of another bucket",)
    ),
    Case("another format", manifest(fileFormat="\x1b[2J[red]"), ("the data files are", "x1b[2J[red]")),
    Case("a schema of nothing", manifest(fileSchema=""), ("0.csv.gz: without the fields Key, Size",)),
    Case(
        "a schema with a field twice", manifest(fileSchema="Key, Key, Size, LastModifiedDate, ETag"), ("a field twice",)
    ),
    Case(
        "a schema that is too short",
        manifest(fileSchema="Key, Size, LastModifiedDate, ETag"),
        ("0.csv.gz: line 1: 5 columns instead of 4",),
    ),
]


@named(MANIFEST)
def test_a_hostile_manifest_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    """Nothing of it is believed, and no request is sent."""
    monkeypatch.setenv("X_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("X_SECRET_ACCESS_KEY", "secret")
    spec = build_workspace(tmp_path)
    case.change(tmp_path)
    assert_refused(tmp_path, run("plan", str(spec)), case.code, *case.says)
