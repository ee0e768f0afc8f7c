"""S3 Inventory: manifests as S3 writes them, with CSV and Parquet data, and a corrupted twin for each check."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventories import NOW, desk, rows, whole_text, write_parquet

from migrate.errors import InputError
from migrate.inventory.files import InventoryFile

SECRET = "users/person-4711/secret"
CREATED = NOW - timedelta(hours=5)
FIELDS = (
    "Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "LastModifiedDate", "ETag", "StorageClass",
    "IsMultipartUploaded", "ReplicationStatus", "EncryptionStatus", "ObjectLockRetainUntilDate", "ObjectLockMode",
    "ObjectLockLegalHoldStatus",
)  # fmt: skip
FOLDER = "inv/bucket/config"


def entry(key: str, **fields: str) -> dict[str, str]:
    """One row as S3 writes it: every field text, the key form-encoded."""
    row = dict.fromkeys(FIELDS, "")
    row |= {"Bucket": "bucket", "Key": quote_plus(key, safe="/"), "IsLatest": "true", "IsDeleteMarker": "false"}
    row |= {"Size": "5", "LastModifiedDate": "2026-11-20T10:00:00.000Z", "ETag": "abc", "StorageClass": "STANDARD"}
    return row | fields


@dataclass
class Report:
    """An inventory to be delivered, with the places where a test can break it."""

    data: list[list[dict[str, str]]] = field(default_factory=list)
    fields: Sequence[str] = FIELDS
    manifest: dict[str, Any] = field(default_factory=dict)
    spoil_data: Callable[[bytes], bytes] = bytes
    spoil_packed: Callable[[bytes], bytes] = bytes
    spoil_manifest: Callable[[bytes], bytes] = bytes

    def deliver(self, put: Callable[[str, bytes], None], *, prefix: str = "") -> None:
        files = []
        for number, entries in enumerate(self.data):
            text = io.StringIO()
            writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
            writer.writerows([row[name] for name in self.fields] for row in entries)
            packed = self.spoil_packed(gzip.compress(text.getvalue().encode()))
            name = f"{FOLDER}/data/{number}.csv.gz"
            files.append({"key": prefix + name, "size": len(packed), "MD5checksum": md5(packed)})
            put(name, self.spoil_data(packed))
        self.deliver_manifest(put, files, "CSV", ", ".join(self.fields))

    def deliver_manifest(
        self, put: Callable[[str, bytes], None], files: list[dict[str, Any]], kind: str, schema: str
    ) -> None:
        document = {
            "sourceBucket": "bucket",
            "destinationBucket": "arn:aws:s3:::reports",
            "version": "2016-11-30",
            "creationTimestamp": str(int(CREATED.timestamp() * 1000)),
            "fileFormat": kind,
            "fileSchema": schema,
            "files": files,
        } | self.manifest
        content = json.dumps(document).encode()
        put(f"{FOLDER}/2026-11-24T07-00Z/manifest.json", self.spoil_manifest(content))
        put(f"{FOLDER}/2026-11-24T07-00Z/manifest.checksum", md5(content).encode() + b"\n")


PATH = f"{FOLDER}/2026-11-24T07-00Z/manifest.json"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def local(tmp_path: Path) -> Callable[[str, bytes], None]:
    def put(name: str, content: bytes) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return put


def take(tmp_path: Path, report: Report, **options: Any) -> InventoryFile:
    report.deliver(local(tmp_path))
    return desk(tmp_path).take(kind="s3-inventory", path=PATH, **options)


def refusal(tmp_path: Path, report: Report, **options: Any) -> str:
    """The text of the refusal of an inventory; it never holds a key (invariant 10)."""
    with pytest.raises(InputError) as caught:
        take(tmp_path, report, **options)
    text = whole_text(caught.value)
    assert SECRET not in text
    assert not list(desk(tmp_path).scratch.glob("inventory-us.parquet"))
    assert caught.value.remedy
    return text


def good() -> Report:
    return Report([[entry(SECRET), entry("b")], [entry("c")]])


def test_current_versions_move_and_the_others_are_counted(tmp_path: Path) -> None:
    """Only the latest versions that are no delete markers go on."""
    report = Report(
        [
            [
                entry("a", VersionId="v2"),
                entry("a", VersionId="v1", IsLatest="false"),
                entry("gone", VersionId="m", IsDeleteMarker="true", Size="", ETag=""),
                entry("gone", VersionId="v0", IsLatest="false"),
            ],
            [entry("old", IsLatest="false", IsDeleteMarker="true", Size="", ETag=""), entry("b", VersionId="null")],
        ]
    )
    taken = take(tmp_path, report)
    assert [(row[0], row[1]) for row in rows(taken.glob)] == [("a", "v2"), ("b", "null")]
    assert (taken.noncurrent, taken.delete_markers, taken.left_out) == (2, 2, 0)
    assert taken.as_of == taken.until == CREATED


def test_fields_arrive_in_the_words_of_the_stores(tmp_path: Path) -> None:
    """Encryption and lock say what a HEAD would say; times are UTC."""
    report = Report(
        [
            [
                entry("1", EncryptionStatus="NOT-SSE", ETag='"q-2"', Size="9007199254740993"),
                entry("2", EncryptionStatus="SSE-S3", ObjectLockLegalHoldStatus="OFF"),
                entry("3", EncryptionStatus="SSE-KMS", ObjectLockLegalHoldStatus="ON"),
                entry("4", EncryptionStatus="SSE-C", ObjectLockMode="COMPLIANCE", ObjectLockLegalHoldStatus="ON"),
            ]
        ]
    )
    found = rows(take(tmp_path, report).glob)
    when = datetime(2026, 11, 20, 10)  # noqa: DTZ001 - Parquet's times are UTC without saying so
    assert found[0] == ("1", None, 9007199254740993, "q-2", when, "STANDARD", None, None)
    assert [row[6:] for row in found[1:]] == [("AES256", None), ("aws:kms", "legal-hold"), ("SSE-C", "COMPLIANCE")]


def test_an_archive_tier_of_intelligent_tiering_is_told_as_head_tells_it(tmp_path: Path) -> None:
    """The class is INTELLIGENT_TIERING in every tier; only the tier says whether an object can be read."""
    tiers = ["FREQUENT", "ARCHIVE_INSTANT_ACCESS", "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS", "ARCHIVE", ""]
    entries = [
        entry(str(number), StorageClass="INTELLIGENT_TIERING", IntelligentTieringAccessTier=tier)
        for number, tier in enumerate(tiers)
    ]
    found = rows(take(tmp_path, Report([entries], fields=(*FIELDS, "IntelligentTieringAccessTier"))).glob)
    plain = "INTELLIGENT_TIERING"
    assert [row[5] for row in found] == [plain, plain, "ARCHIVE_ACCESS", "DEEP_ARCHIVE_ACCESS", "ARCHIVE_ACCESS", plain]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20), unique=True
    )
)
def test_every_key_is_decoded_exactly(tmp_path: Path, keys: list[str]) -> None:
    """Whatever S3 encodes comes back to the character: plus signs, blanks, percent signs, line breaks, emoji."""
    odd = ["a+b", "a b", "100%25", "%zz", "é/e\u0301", "\n", "a//b/", "../x", '"q",', "🙂"]
    wanted = sorted({*keys, *odd})
    taken = take(tmp_path, Report([[entry(key) for key in wanted]]))
    assert [row[0] for row in rows(taken.glob)] == wanted
    assert taken.noncurrent == 0


def test_keys_outside_the_prefix_are_left_out_and_counted(tmp_path: Path) -> None:
    """A store is a bucket and a prefix: the prefix leaves the key, and other keys and the prefix itself are counted."""
    report = Report([[entry("eu é/x"), entry("eu é/"), entry("eu éx"), entry("other")]])
    taken = take(tmp_path, report, url="s3://bucket/eu é/")
    assert [row[0] for row in rows(taken.glob)] == ["x"]
    assert taken.left_out == 3


def test_inventory_without_versions_says_so(tmp_path: Path) -> None:
    """An inventory of current versions alone has no count of the others, rather than a count of none."""
    fields = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
    taken = take(tmp_path, Report([[entry("a")]], fields=fields))
    assert (taken.rows, taken.noncurrent, taken.delete_markers) == (1, None, None)
    assert rows(taken.glob)[0][1] is None


def test_empty_inventory_is_an_empty_store(tmp_path: Path) -> None:
    """No data files, or empty ones, with all their sums, mean an empty bucket."""
    assert take(tmp_path, Report([])).rows == 0
    assert take(tmp_path, Report([[]])).rows == 0


def test_inventory_in_a_store_is_fetched_whatever_the_prefix(tmp_path: Path) -> None:
    """The manifest names data files by their key in the bucket; the store that holds it may begin below that."""
    for prefix in ("", "some/where/"):
        table = desk(tmp_path)
        good().deliver(lambda name, content, table=table: table.reports.seed(name, content), prefix=prefix)
        taken = table.take(kind="s3-inventory", path=f"store:reports/{PATH}")
        assert taken.rows == 3
        assert [path.name for path in table.scratch.iterdir()] == ["inventory-us.parquet"]


def test_inventory_copied_into_one_folder_is_found(tmp_path: Path) -> None:
    """Manifest, checksum and data files side by side work as well."""

    def put(name: str, content: bytes) -> None:
        (tmp_path / name.rsplit("/", 1)[1]).write_bytes(content)

    good().deliver(put)
    assert desk(tmp_path).take(kind="s3-inventory", path="manifest.json").rows == 3


def parquet_report(tmp_path: Path, select: str) -> InventoryFile:
    (tmp_path / FOLDER / "data").mkdir(parents=True, exist_ok=True)
    name = f"{FOLDER}/data/0.parquet"
    write_parquet(tmp_path / name, select)
    content = (tmp_path / name).read_bytes()
    file = {"key": name, "size": len(content), "MD5checksum": md5(content)}
    Report().deliver_manifest(local(tmp_path), [file], "Parquet", "message s3.inventory { ... }")
    return desk(tmp_path).take(kind="s3-inventory", path=PATH)


PARQUET = (
    "SELECT 'bucket' AS bucket, key, '' AS version_id, true AS is_latest, false AS is_delete_marker, 5::BIGINT AS size, "
    "TIMESTAMPTZ '2026-11-20 10:00:00Z' AS last_modified_date, 'abc' AS e_tag, 'STANDARD' AS storage_class "
    "FROM (VALUES ('a+b'), ('c%20d')) t(key)"
)


def test_parquet_keys_are_not_decoded(tmp_path: Path) -> None:
    """In Parquet keys stand as they are; apart from that both formats are the same input."""
    taken = parquet_report(tmp_path, PARQUET)
    assert [row[0] for row in rows(taken.glob)] == ["a+b", "c%20d"]
    same = take(tmp_path / "csv", Report([[entry("c%20d"), entry("a+b")]]))
    assert same.fingerprint == taken.fingerprint


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("5::BIGINT AS size", "NULL::BIGINT AS size", "row 1, 2: the size" ),
        ("5::BIGINT AS size", "5.0::DOUBLE AS size", "'Size' is DOUBLE"),
        ("'abc' AS e_tag", "'abc' AS etag", "without the field ETag"),
        ("true AS is_latest", "NULL::BOOLEAN AS is_latest", "IsLatest or IsDeleteMarker"),
    ],
)  # fmt: skip
def test_parquet_that_is_not_as_s3_writes_it_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    """Types and values of a Parquet inventory are checked like those of a CSV."""
    with pytest.raises(InputError) as caught:
        parquet_report(tmp_path, PARQUET.replace(old, new))
    assert expected.replace("row 1", "rows 1") in whole_text(caught.value)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (entry(SECRET), "the same key stands in another row"),
        (entry("k", Size="x"), "row 2: the size"),
        (entry("k", Size=""), "row 2: the size"),
        (entry("k", ETag=""), "row 2: the ETag"),
        (entry("k", LastModifiedDate="yesterday"), "row 2: the time of change"),
        (entry("k", LastModifiedDate="2026-11-26T10:00:00Z"), "row 2: the time of change"),
        (entry("k", IsLatest=""), "row 2: IsLatest"),
        (entry("k", IsDeleteMarker="perhaps"), "row 2: IsLatest"),
        (entry("k", Bucket="other"), "row 2: the row is of another bucket"),
        (entry("k", Key=""), "row 2: the key"),
        (entry("k", Key="%zz"), "row 2: the key"),
        (entry("k", Key="%ff"), "row 2: the key"),
        (entry("k", Key="100%"), "row 2: the key"),
    ],
)
def test_wrong_row_refuses_the_inventory(tmp_path: Path, row: dict[str, str], expected: str) -> None:
    """Invariant 4: one row that does not parse builds no plan; the file and row are named."""
    text = refusal(tmp_path, Report([[entry("a")], [entry(SECRET), row]]))
    assert expected in text
    assert "manifest.json: 1.csv.gz" in text


def test_noncurrent_row_may_repeat_a_key(tmp_path: Path) -> None:
    """The twin of the repeated key: as a noncurrent version it passes."""
    assert take(tmp_path, Report([[entry("a"), entry("a", IsLatest="false")]])).rows == 1


def test_repeated_key_over_two_files_is_found(tmp_path: Path) -> None:
    """Current versions are unique over all data files, and both places are named."""
    text = refusal(tmp_path, Report([[entry(SECRET)], [entry("b"), entry(SECRET)]]))
    assert "0.csv.gz: row 1: the same key" in text
    assert "1.csv.gz: row 2: the same key" in text


def test_uncertain_encoding_is_refused(tmp_path: Path) -> None:
    """A list that writes blanks as %20 and leaves plus signs alone cannot be told from one that does not."""
    text = refusal(tmp_path, Report([[entry("k", Key="a+b"), entry("l", Key="c%20d")]]))
    assert "uncertain" in text
    assert take(tmp_path, Report([[entry("k", Key="a+b"), entry("l", Key="c%2Bd")]])).rows == 2


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        ({"spoil_data": lambda data: data[:-1]}, "bytes instead of"),
        ({"spoil_data": lambda data: data[:-1] + b"!"}, "its MD5 is not the one in the manifest"),
        ({"spoil_packed": lambda data: data[:-9]}, "damaged or ends early"),
        ({"spoil_packed": lambda data: data[:-8] + b"\0\0\0\0" + data[-4:]}, "damaged or ends early"),
        ({"spoil_packed": gzip.decompress}, "damaged or ends early"),
        ({"spoil_packed": lambda data: gzip.compress(gzip.decompress(data)[:-20])}, "line 2"),
        ({"spoil_manifest": lambda data: data.replace(b"2016", b"2017")}, "its MD5 is not the one in manifest.checksum"),
        ({"manifest": {"fileFormat": "ORC"}}, "'ORC'"),
        ({"manifest": {"sourceBucket": "other"}}, "another bucket"),
        ({"manifest": {"creationTimestamp": "soon"}}, "not a manifest"),
        ({"manifest": {"files": [{"key": "data/0.csv.gz"}]}}, "not a manifest"),
        ({"manifest": {"files": [{"key": "x/../0.csv.gz", "size": 1, "MD5checksum": "0"}]}}, "outside the inventory"),
        ({"manifest": {"files": [{"key": "data/9.csv.gz", "size": 1, "MD5checksum": "0"}]}}, "is missing"),
        ({"manifest": {"files": [{"key": "a", "size": 1, "MD5checksum": "0"}] * 2}}, "named twice"),
        ({"fields": FIELDS[:-1]}, None),
        ({"fields": tuple(name for name in FIELDS if name != "Size")}, "without the field Size"),
        ({"fields": tuple(name for name in FIELDS if name not in ("Size", "ETag"))}, "without the fields Size, ETag"),
    ],
)  # fmt: skip
def test_damaged_delivery_is_refused(tmp_path: Path, spoil: dict[str, Any], expected: str | None) -> None:
    """Invariant 4: each sum and each field is checked; unspoiled, the same inventory passes."""
    assert take(tmp_path, good()).rows == 3
    (desk(tmp_path).scratch / "inventory-us.parquet").unlink()
    report = good()
    for name, value in spoil.items():
        setattr(report, name, value)
    if expected is None:
        assert take(tmp_path, report).rows == 3
    else:
        assert expected in refusal(tmp_path, report)


@pytest.mark.parametrize("name", ["manifest.checksum", "manifest.json", "0.csv.gz", "1.csv.gz"])
def test_missing_file_is_refused(tmp_path: Path, name: str) -> None:
    """Invariant 4: an inventory that misses its manifest, its checksum or any data file builds no plan."""
    good().deliver(local(tmp_path))
    next(tmp_path.rglob(name)).unlink()
    with pytest.raises(InputError) as caught:
        desk(tmp_path).take(kind="s3-inventory", path=PATH)
    assert name in whole_text(caught.value)


def test_inventory_has_an_age_and_a_store(tmp_path: Path) -> None:
    """The manifest's own time counts; and only an s3 store has an S3 Inventory."""
    assert take(tmp_path, good(), max_age="5h").rows == 3
    (desk(tmp_path).scratch / "inventory-us.parquet").unlink()
    assert "too old" in refusal(tmp_path, good(), max_age="4h59m")
    future = str(int(datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000))
    assert "has not come yet" in refusal(tmp_path, Report(manifest={"creationTimestamp": future}))
