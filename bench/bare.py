"""The bare loops: the least that the same work can be done with. Each is a process of its own, measured as the tool is.

    python -m bench.bare copy SOURCE TARGET KEYS        the requests that the tool makes, in as many threads; no plan, no ledger
    python -m bench.bare obstore SOURCE TARGET KEYS     GET and PUT by obstore alone, which shows no header that we would miss
    python -m bench.bare parts SOURCE TARGET KEYS       large objects, in the tool's parts, within the tool's bytes in flight
    python -m bench.bare plan LISTING LISTING USERS OUT the join and the sort that a plan cannot do without, by DuckDB
    python -m bench.bare list-boto3 SOURCE              boto3's paginator through a bucket
    python -m bench.bare list-tool SOURCE FOLDER        the tool's live listing of it, in a workspace

A place is ENDPOINT BUCKET ACCESS SECRET as JSON; KEYS is a JSON file of keys and sizes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import obstore
from servers import S3Server

from bench.pairs import Command, Ended, measure
from bench.worlds import PART_BYTES, THREADS, obstore_of, part_sizes
from migrate.inventory.take import take_inventory
from migrate.model import Role
from migrate.planner.session import MEMORY_BYTES
from migrate.planner.session import THREADS as THREADS_OF_PLAN
from migrate.spec import StoreSpec
from migrate.stores.base import Capabilities, PartInfo
from migrate.stores.s3 import S3Store
from migrate.stores.s3_sign import S3Credentials
from migrate.workspace import Workspace

_BYTES_IN_FLIGHT = 128 * 2**20  # the tool's default
_SEEN = Capabilities(
    conditional_put=True, etag_is_md5=True, metadata=True, multipart=True, small_put=True, refuses_wrong_md5=True
)


def measured(loop: str, *arguments: str, folder: Path) -> Ended:
    """Run a loop in a process of its own."""
    root = Path(__file__).parents[1]
    command: Command = [sys.executable, "-m", "bench.bare", loop, *arguments]
    return measure(command, folder=folder, environment={"PYTHONPATH": f"{root}:{root / 'tests'}"})


def place(server: S3Server, bucket: str) -> str:
    """A place as an argument."""
    return json.dumps([server.endpoint, bucket, server.access_key, server.secret_key])


def _server(text: str) -> tuple[S3Server, str]:
    endpoint, bucket, access, secret = json.loads(text)
    return S3Server(endpoint, access, secret), bucket


def _store(text: str) -> S3Store:
    server, bucket = _server(text)
    return S3Store(
        "bare",
        bucket,
        endpoint=server.endpoint,
        region=server.region,
        credentials=S3Credentials(server.access_key, server.secret_key),
        capabilities=_SEEN,
        writable=True,
        concurrency=THREADS,
    )


def _in_threads(work: Callable[[Any], object], items: list[Any], threads: int = THREADS) -> None:
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items, chunksize=1):
            pass


def copy(source: str, target: str, keys: str) -> None:
    """One GET and one PUT an object, MD5 and SHA-256 over its body, its attributes kept."""
    reader, writer = _store(source), _store(target)

    def one(item: list[Any]) -> bytes:
        with reader.get(item[0]) as download:
            body = download.read()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        digest = hashlib.sha256(body).digest()
        writer.put(item[0], body, attributes=download.info.attributes, tags={}, md5=md5, create_only=True)
        return digest

    _in_threads(one, json.loads(Path(keys).read_text()))


def copy_by_obstore(source: str, target: str, keys: str) -> None:
    """The same by obstore both ways."""
    reader, writer = obstore_of(*_server(source)), obstore_of(*_server(target))

    def one(item: list[Any]) -> bytes:
        found = obstore.get(reader, item[0])
        body = found.bytes()
        digest = hashlib.sha256(body).digest()
        hashlib.md5(body, usedforsecurity=False)
        obstore.put(writer, item[0], body, attributes=found.attributes, mode="create", use_multipart=False)
        return digest

    _in_threads(one, json.loads(Path(keys).read_text()))


def copy_in_parts(source: str, target: str, keys: str) -> None:
    """A ranged GET and an UploadPart a part, MD5 and SHA-256 over it; as many parts at once as the tool holds in memory."""
    reader, writer = _store(source), _store(target)
    begun: list[tuple[str, str, int, int, int]] = []
    for key, size in json.loads(Path(keys).read_text()):
        upload = writer.create_upload(key, attributes=reader.head(key).attributes)
        begun += [(key, upload, n, n * PART_BYTES, length) for n, length in enumerate(part_sizes(size))]
    sent: dict[tuple[str, str], list[PartInfo]] = {}

    def one(part: tuple[str, str, int, int, int]) -> bytes:
        key, upload, number, start, length = part
        with reader.get(key, start=start, length=length) as download:
            body = download.read()
        md5 = hashlib.md5(body, usedforsecurity=False).digest()
        digest = hashlib.sha256(body).digest()
        etag = writer.put_part(key, upload, number + 1, body, md5=md5)
        sent.setdefault((key, upload), []).append(PartInfo(number + 1, etag, length))
        return digest

    _in_threads(one, begun, min(THREADS, _BYTES_IN_FLIGHT // PART_BYTES))
    for (key, upload), parts in sent.items():
        writer.complete_upload(key, upload, sorted(parts, key=lambda part: part.number), tags={})


_PLAN = """
COPY (
    WITH listed AS (
        SELECT a.key, a.size, a.etag, a.last_modified, b.etag IS DISTINCT FROM a.etag AS differs
        FROM read_parquet($first) AS a
        FULL JOIN read_parquet($second) AS b ON a.key = b.key
    )
    SELECT u.user_id, u.country, l.*, r.role
    FROM listed AS l
    JOIN read_csv($users, header = true, all_varchar = true) AS u ON split_part(l.key, '/', 2) = u.user_id
    CROSS JOIN (VALUES ('home'), ('backup')) AS r(role)
    ORDER BY u.user_id, l.key, r.role
) TO $out (FORMAT parquet)
"""


def plan(first: str, second: str, users: str, out: str) -> None:
    """Two inventories joined, with the directory, and sorted: a row a copy. The tool's memory limit and threads."""
    settings: dict[str, Any] = {
        "memory_limit": f"{MEMORY_BYTES // 2**20}MiB",
        "threads": THREADS_OF_PLAN,
        "temp_directory": f"{out}.spill",
    }
    with duckdb.connect(config=settings) as connection:
        query = _PLAN
        for name, value in (("first", first), ("second", second), ("users", users), ("out", out)):
            query = query.replace(f"${name}", f"'{value}'")
        connection.execute(query)
    Path(out).unlink()


def list_by_boto3(source: str) -> None:
    """boto3's paginator through a bucket; what a listing is for is kept of each key."""
    server, bucket = _server(source)
    client: Any = server.boto3()
    found = [
        (item["Key"], item["Size"], item["ETag"], item["LastModified"])
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        for item in page.get("Contents", ())
    ]
    print(len(found))


def list_by_tool(source: str, folder: str) -> None:
    """What `migrate plan` does of a live listing, and nothing of the plan: sealed segments of Parquet included."""
    server, bucket = _server(source)
    spec = StoreSpec(
        site="us", role=Role.SOURCE, url=f"s3://{bucket}/", endpoint=server.endpoint, credentials="env:BENCH"
    )
    workspace = Workspace(Path(folder))

    def no_reports(name: str) -> S3Store:
        raise KeyError(name)

    taken = take_inventory(
        "us",
        spec,
        _store(source),
        opener=no_reports,
        workspace=workspace,
        scratch=workspace.ensure(workspace.scratch),
        now=lambda: datetime.now(UTC),
    )
    print(taken.rows)


def main() -> None:
    name, *arguments = sys.argv[1:]
    loops: dict[str, Callable[..., None]] = {
        "copy": copy,
        "obstore": copy_by_obstore,
        "parts": copy_in_parts,
        "plan": plan,
        "list-boto3": list_by_boto3,
        "list-tool": list_by_tool,
    }
    loops[name](*arguments)


if __name__ == "__main__":
    main()
