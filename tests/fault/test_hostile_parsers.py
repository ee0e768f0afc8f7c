"""Every parser of what comes from outside, fuzzed: it reads, or raises an error of its own kind, and nothing else ever.

What is fuzzed stands in `PARSERS`, each with the inputs and with what must hold where it does read. Texts and bytes are mutated
from whole ones, so that they come past the first check; JSON is mutated value by value. `make soak` tries `SOAK_EXAMPLES` (1,000)
inputs of each instead of a few dozens. The seed is fixed.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import SPEC, build_workspace
from hostile import in_a_pipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inventories import NOW, Desk, desk, rows
from mutations import ODD_VALUES, mutated_bytes, mutated_json, texts

from migrate.errors import DeniedError, InputError, IntegrityError, SpecError, StoreError, UsageError, VersionError
from migrate.inventory.live import Listed, list_live
from migrate.jobs.common import parse_waves, seconds_until
from migrate.jobs.copying import matching
from migrate.ledger.engine import parse_url
from migrate.model import Attributes, ObjectInfo
from migrate.planner.folder import Plan, find_plan
from migrate.planner.summary import Blocker
from migrate.secrets import access_key
from migrate.spec import load_spec, parse_spec
from migrate.stores import memory_place, s3_errors, s3_headers, s3_xml
from migrate.stores.capabilities import load_capabilities
from migrate.stores.file_reserve import Record, dump_record, parse_record
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.units import parse_duration, parse_percent, parse_rate, parse_size
from migrate.workspace import Workspace

EXAMPLES = 25
SOAK_EXAMPLES = int(os.environ.get("SOAK_EXAMPLES", "1000"))

# parsers: each takes a folder of its own and an input

Check = Callable[[Path, Any], None]


@dataclass(frozen=True, slots=True)
class Parser:
    """Inputs, made in a folder that is empty before the first, and what is done with each."""

    inputs: Callable[[Path], st.SearchStrategy[Any]]
    check: Check
    slow: bool = False  # a quarter of the examples


def fixed(strategy: st.SearchStrategy[Any]) -> Callable[[Path], st.SearchStrategy[Any]]:
    return lambda _folder: strategy


def read_spec(folder: Path, content: bytes) -> None:
    path = folder / "x.toml"
    path.write_bytes(content)
    with suppress(SpecError):
        assert load_spec(path) == parse_spec(content.decode(), place="x")


def read_value(parse: Callable[[object], int], bound: int, _folder: Path, value: object) -> None:
    with suppress(ValueError):
        assert isinstance(found := parse(value), int)
        assert found <= bound


def values(digits: str, *units: str) -> st.SearchStrategy[object]:
    """Texts out of these characters, and values that are none."""
    return st.text(st.sampled_from(digits + "".join(units) + " -"), max_size=12) | texts | st.sampled_from(ODD_VALUES)


def read_words(_folder: Path, word: str) -> None:
    """`--wave`, `--until`, `--accept` and `--ledger`."""
    blocker = Blocker("orphan", 3, "ab" * 32)
    with suppress(UsageError):
        assert set(parse_waves(word, [0, 1, 2]) or ()) <= {0, 1, 2}
    with suppress(UsageError):
        assert 0 < seconds_until(word, UTC, NOW)[0] <= 86_400  # type: ignore[arg-type]
    with suppress(UsageError):
        assert matching([word], [blocker]) == [blocker]
        assert word.startswith("orphan:3:ababababab")
    with suppress(UsageError):
        parse_url(word)


def waves_and_such() -> st.SearchStrategy[str]:
    pieces = [
        "0",
        "1-2",
        "2-1",
        ",",
        "-",
        "all",
        "orphan",
        ":",
        "3",
        "abababababab",
        "sqlite:///",
        "postgresql://",
        "@",
        "[",
        "]",
        "/x",
        "23:59",
    ]
    return texts | st.lists(st.sampled_from(pieces), max_size=8).map("".join)


def s3_pages() -> list[bytes]:
    time = "2026-01-02T03:04:05.000Z"
    entry = f"<Key>a%2Fb+c</Key><Size>5</Size><ETag>&quot;e&quot;</ETag><LastModified>{time}</LastModified>"
    more = "<IsTruncated>true</IsTruncated><EncodingType>url</EncodingType>"
    version = f"{entry}<VersionId>v</VersionId><IsLatest>true</IsLatest>"
    marks = "<NextKeyMarker>k%20</NextKeyMarker><NextVersionIdMarker>v</NextVersionIdMarker>"
    uploads = "<NextUploadIdMarker>u</NextUploadIdMarker><Upload><Key>k</Key><UploadId>u</UploadId></Upload>"
    documents = {
        "ListBucketResult": f"{more}<Contents>{entry}</Contents><NextContinuationToken>t</NextContinuationToken>",
        "ListVersionsResult": f"{more}{marks}<Version>{version}</Version><DeleteMarker>{version}</DeleteMarker>",
        "ListMultipartUploadsResult": f"{more}{marks}{uploads}",
        "ListPartsResult": f"<IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber>{entry}</Part>",
        "Tagging": "<TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet>",
        "InitiateMultipartUploadResult": "<UploadId>u&amp;</UploadId>",
        "Error": "<Code>SlowDown</Code><Region>eu-west-1</Region>",
    }
    head, space = '<?xml version="1.0" encoding="UTF-8"?>', 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    return [f"{head}<{name} {space}>{text}</{name}>".encode() for name, text in documents.items()]


def broken_declarations() -> list[bytes]:
    pages = [page.partition(b"?>")[2] for page in s3_pages()]
    encodings = (b"foo", b"rot13", b"utf-7", b"utf-16", b"idna", b"base64", b"\xff")
    return [b'<?xml version="1.0" encoding="' + name + b'"?>' + page for page in pages for name in encodings]


def read_xml(_folder: Path, content: bytes) -> None:
    """All of the answers' parsers: a document of another kind is one more that is wrong."""
    found: list[Any] = []
    for parse in (
        partial(s3_xml.parse_objects, prefix="a/"),
        partial(s3_xml.parse_versions, prefix=""),
        partial(s3_xml.parse_uploads, prefix="", encoded=True),
        partial(s3_xml.parse_uploads, prefix="", encoded=False),
        s3_xml.parse_parts,
        s3_xml.parse_tags,
        s3_xml.parse_upload_id,
        s3_xml.is_error,
    ):
        with suppress(ValueError):
            found.append(parse(content))
    for page in found:
        for item in page.items if isinstance(page, s3_xml.Page) else ():
            if isinstance(item, ObjectInfo):
                assert 0 <= item.size < 2**63
                assert item.last_modified.tzinfo is UTC
    for status in (200, 301, 400, 403, 404, 412, 500, 503):
        assert isinstance(s3_errors.error_of("us", "get", "k", status, {}, content), StoreError)


def headers() -> st.SearchStrategy[dict[str, str]]:
    dates = ("01 Jan 2026 00:00:00 GMT", "01 Jan 0001 00:00:00 +2359", f"01 Jan {10**30} 00:00:00 GMT", "2026")
    odd = texts | st.sampled_from(dates)
    names = (
        "content-length", "content-range", "etag", "last-modified", "x-amz-tagging-count", "retry-after", "expires",
        "x-amz-meta-a", "content-type",
    )  # fmt: skip
    whole = {"content-length": "5", "etag": '"e"', "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    return st.dictionaries(st.sampled_from(names), odd, max_size=3).map(lambda some: whole | some)


def read_headers(_folder: Path, found: Mapping[str, str]) -> None:
    with suppress(ValueError):
        assert 0 <= s3_headers.info_of("k", found).size < 2**63
    s3_errors.error_of("us", "get", "k", 503, found, b"")


RECORD = Record("k", "e", Attributes(content_type="a/b", metadata=(("n", "v"),)), {"t": "v"})


def read_record(_folder: Path, content: bytes) -> None:
    try:
        record = parse_record(content)
    except ValueError:
        return
    assert parse_record(dump_record(record)) == record
    assert all(isinstance(text, str) for pair in record.attributes.metadata for text in pair)


def read_capabilities(folder: Path, content: bytes) -> None:
    path = folder / "capabilities.json"
    path.write_bytes(content)
    spec = parse_spec(SPEC, place="x")
    with suppress(InputError):
        assert set(load_capabilities(path, spec.stores)) <= set(spec.stores)


def probed(folder: Path) -> Any:
    spec = build_workspace(folder)
    assert in_a_pipe(["--workspace", str(folder), "doctor", str(spec)]).code == 0
    return json.loads((folder / ".migrate" / "capabilities-small.json").read_bytes())


def secret_files() -> st.SearchStrategy[bytes]:
    return mutated_bytes(b'access_key_id = "AAAA"\nsecret_access_key = "wJalr"\nsession_token = "x"\n')


def read_secret(folder: Path, content: bytes) -> None:
    path = folder / "secret.toml"
    path.write_bytes(content)
    path.chmod(0o600)
    said = ""
    try:
        access_key("file:secret.toml", {}, folder)
    except SpecError as error:
        said = "".join([error.what, *error.problems, error.remedy])
    assert "wJalr" not in said  # invariant 10


# tables


def directory_bytes() -> st.SearchStrategy[bytes]:
    return mutated_bytes(b'\xef\xbb\xbfuser_id,country\r\nanna,IE\r\n"be""rt",NO\r\ncarl,\r\n')


def parquet_of(query: str, folder: Path) -> st.SearchStrategy[bytes]:
    path = folder / "made.parquet"
    duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return mutated_bytes(path.read_bytes())


def read_directory(folder: Path, content: bytes) -> None:
    (folder / "users.csv").write_bytes(content)
    with suppress(InputError):
        found = desk(folder).directory()
        ids = [row[0] for row in rows(found.glob)]
        assert len(ids) == len(set(ids)) == found.rows > 0
        assert not any("/" in user or user == "" for user in ids)


def read_listing(folder: Path, content: bytes) -> None:
    (folder / "list.csv").write_bytes(content)
    with suppress(InputError):
        found = desk(folder).take(kind="listing", path="list.csv", as_of=NOW)
        assert found.rows == len(rows(found.glob))
        assert all(row[2] >= 0 and row[0] for row in rows(found.glob))


INVENTORY_CSV = (
    b'"bucket","k%2F1+a","1","2026-01-01T00:00:00.000Z","e"\n"bucket","k2","2","2026-01-01T00:00:00.000Z","e"\n'
)


def read_inventory_csv(folder: Path, content: bytes) -> None:
    schema = {"fileFormat": "CSV", "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag"}
    read_manifest(folder, json.dumps(manifest(folder, gzip.compress(content)) | schema).encode())


def read_manifest(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    (folder / "manifest.checksum").write_text(hashlib.md5(content, usedforsecurity=False).hexdigest())
    _take_s3_inventory(desk(folder))


def _take_s3_inventory(table: Desk) -> None:
    with suppress(InputError):
        found = table.take(kind="s3-inventory", path="manifest.json", max_age="36500d")
        assert found.rows == len(rows(found.glob))


def manifest(folder: Path, data: bytes) -> dict[str, Any]:
    (folder / "0.parquet").write_bytes(data)
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return {
        "sourceBucket": "bucket", "fileFormat": "Parquet", "fileSchema": "message s3.inventory {}",
        "creationTimestamp": str(int(datetime(2026, 11, 1, tzinfo=UTC).timestamp() * 1000)),
        "files": [{"key": "0.parquet", "size": len(data), "MD5checksum": digest}],
    }  # fmt: skip


INVENTORY_QUERY = (
    "SELECT 'bucket' AS bucket, 'k' || i AS key, true AS is_latest, false AS is_delete_marker, i AS size, "
    "TIMESTAMP '2026-01-01' AS last_modified_date, 'e' AS e_tag FROM range(3) AS t(i)"
)


def manifests(folder: Path) -> st.SearchStrategy[bytes]:
    duckdb.execute(f"COPY ({INVENTORY_QUERY}) TO '{folder / 'made.parquet'}' (FORMAT parquet)")
    return mutated_json(manifest(folder, (folder / "made.parquet").read_bytes()))


def read_inventory_file(folder: Path, content: bytes) -> None:
    """A data file that is garbled before its checksum is taken."""
    read_manifest(folder, json.dumps(manifest(folder, content)).encode())


LISTING_CSV = b'key,size,etag,last_modified\na/b,1,e,2026-01-01T00:00:00Z\n"c,\n",2,f,1970-01-01T00:00:00+02:00\n'
LISTING_QUERY = (
    "SELECT 'k' || i AS key, i AS size, 'e' AS etag, TIMESTAMP '2026-01-01' AS last_modified FROM range(3) AS t(i)"
)


# what this tool saved itself


def plan_documents(folder: Path) -> st.SearchStrategy[bytes]:
    spec = build_workspace(folder)
    assert in_a_pipe(["--workspace", str(folder), "plan", str(spec)]).code == 0
    (path,) = (folder / ".migrate" / "plans").glob("*/plan.json")
    path.with_name("whole.json").write_bytes(path.read_bytes())
    return mutated_json(json.loads(path.read_bytes()))


def read_plan(folder: Path, content: bytes) -> None:
    """Invariant 6: what is opened is the very plan, whatever was edited that its digest does not cover."""
    (path,) = (folder / ".migrate" / "plans").glob("*/plan.json")
    whole = json.loads(path.with_name("whole.json").read_bytes())
    path.write_bytes(content)
    try:
        plan = Plan.open(path.parent)
        assert find_plan(Workspace(folder), None) == plan
    except (IntegrityError, VersionError):
        return
    finally:
        for words in (["show"], ["plans", "--json"], ["explain", "anna"]):
            assert in_a_pipe(["--workspace", str(folder), *words]).code in (0, 5, 78)
        assert not list((folder / ".migrate").glob("crash-*"))
    assert plan.digest == whole["digest"]
    assert plan.document["totals"] == whole["totals"]


KEYS = [f"users/{number:04d}" for number in range(60)]


def list_keys(folder: Path, *, requests_max: int = 10_000) -> Listed:
    """List a store of 60 keys in pages of 5, one request after another; denied after so many of them."""
    place = MemoryPlace(now=lambda: NOW)
    for key in KEYS:
        place.seed(key, b"x")
    requests = iter(range(requests_max))

    def fault(operation: str, _key: str) -> None:
        if operation == "list" and next(requests, None) is None:
            raise DeniedError("us", "list")

    place.fault = fault
    return list_live(
        MemoryStore("us", place),
        place="here",
        folder=folder / "live",
        scratch=folder,
        max_age_seconds=3600,
        now=lambda: NOW,
        is_stopping=lambda: False,
        on_progress=lambda _name, _rows: None,
        segment_rows=5,
        threads=1,
    )


def saved_listings(folder: Path) -> st.SearchStrategy[tuple[str, bytes]]:
    """A listing that was stopped, and one of its files with other content."""
    with pytest.raises(DeniedError):
        list_keys(folder, requests_max=27)
    files = {path.name: path.read_bytes() for path in (folder / "live").glob("*.json")}
    assert any(json.loads(content.partition(b"\n")[2]).get("segments") for content in files.values())
    (folder / "live").rename(folder / "stopped")

    def spoiled(name: str) -> st.SearchStrategy[tuple[str, bytes]]:
        digest, _, saved = files[name].partition(b"\n")
        edited = mutated_json(json.loads(saved)).map(lambda content: digest + b"\n" + content)
        return st.tuples(st.just(name), mutated_bytes(files[name]) | edited)

    return st.sampled_from(sorted(files)).flatmap(spoiled)


def go_on_listing(folder: Path, spoiled: tuple[str, bytes]) -> None:
    """Invariant 4: whatever became of what was saved, all keys are listed, each once."""
    name, content = spoiled
    shutil.rmtree(folder / "live", ignore_errors=True)
    shutil.copytree(folder / "stopped", folder / "live")
    (folder / "live" / name).write_bytes(content)
    found = list_keys(folder)
    assert [row[0] for row in rows(f"{found.folder}/*.parquet")] == KEYS


PARSERS = {
    "spec, TOML": Parser(fixed(mutated_bytes(SPEC.encode()) | texts.map(str.encode)), read_spec),
    "sizes": Parser(fixed(values("15.5", "KMGTPi", "B")), partial(read_value, parse_size, 2**63 - 1)),
    "rates": Parser(fixed(values("15.5", "KMGTPi", "B/s")), partial(read_value, parse_rate, 2**63 - 1)),
    "durations": Parser(fixed(values("0159", "smhd")), partial(read_value, parse_duration, 36_525 * 86_400)),
    "shares": Parser(fixed(values("0159.", "%")), partial(read_value, parse_percent, 10**30)),
    "words of the command line": Parser(fixed(waves_and_such()), read_words),
    "S3's XML": Parser(fixed(st.sampled_from(s3_pages()).flatmap(mutated_bytes)), read_xml),
    "S3's XML, encodings": Parser(fixed(st.sampled_from(broken_declarations())), read_xml),
    "S3's headers": Parser(fixed(headers()), read_headers),
    "records of a folder": Parser(fixed(mutated_json(json.loads(dump_record(RECORD)))), read_record),
    "capabilities": Parser(lambda folder: mutated_json(probed(folder)), read_capabilities),
    "credentials": Parser(fixed(secret_files()), read_secret),
    "directory, CSV": Parser(fixed(directory_bytes()), read_directory),
    "directory, Parquet": Parser(partial(parquet_of, "SELECT 'anna' AS user_id, 'IE' AS country"), read_directory),
    "listing, CSV": Parser(fixed(mutated_bytes(LISTING_CSV)), read_listing),
    "listing, Parquet": Parser(partial(parquet_of, LISTING_QUERY), read_listing),
    "S3 Inventory, manifest": Parser(manifests, read_manifest),
    "S3 Inventory, Parquet": Parser(partial(parquet_of, INVENTORY_QUERY), read_inventory_file),
    "S3 Inventory, CSV": Parser(fixed(mutated_bytes(INVENTORY_CSV)), read_inventory_csv),
    "plan.json": Parser(plan_documents, read_plan, slow=True),
    "saved listings": Parser(saved_listings, go_on_listing, slow=True),
}


def fuzz(name: str, folder: Path, examples: int) -> None:
    parser = PARSERS[name]

    @settings(
        max_examples=examples // 4 if parser.slow else examples,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(parser.inputs(folder))
    def once(found: Any) -> None:
        parser.check(folder, found)

    once()


@pytest.fixture(autouse=True)
def pages_of_five(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_place, "PAGE_KEYS", 5)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_or_refuses(tmp_path: Path, name: str) -> None:
    """No input gets anything else out of it than what it is for: a value, or an error that says where and what next."""
    fuzz(name, tmp_path, EXAMPLES)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_reads_or_refuses_for_long(tmp_path: Path, name: str) -> None:
    """The same with thousands of inputs."""
    fuzz(name, tmp_path, SOAK_EXAMPLES)


def test_a_parser_that_raises_something_else_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrupted twin: Python's own `int` and `fromisoformat` in the place of ours."""
    monkeypatch.setitem(PARSERS, "sizes", Parser(PARSERS["sizes"].inputs, partial(read_value, int, 2**63 - 1)))  # type: ignore[arg-type]
    with pytest.raises((AssertionError, TypeError, OverflowError, ExceptionGroup)):
        fuzz("sizes", tmp_path, EXAMPLES)


def test_a_saved_listing_that_is_believed_loses_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The corrupted twin: without its SHA-256, a last key that was changed is gone on from."""
    saved_listings(tmp_path)
    (path,) = (tmp_path / "stopped").glob("chain-001.json")
    digest, _, content = path.read_bytes().partition(b"\n")
    state = json.loads(content)
    assert not state["finished"]
    edited = json.dumps({**state, "last_key": KEYS[-5]}).encode()
    go_on_listing(tmp_path, (path.name, digest + b"\n" + edited))
    with pytest.raises(AssertionError):
        go_on_listing(tmp_path, (path.name, hashlib.sha256(edited).hexdigest().encode() + b"\n" + edited))
