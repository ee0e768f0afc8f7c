"""The bare loops: the least that the same work can be done with. Each is a process of its own, measured as the tool is.

    python -m bench.bare copy SOURCE TARGET KEYS        the requests that the tool makes, in as many threads; no plan, no ledger
    python -m bench.bare obstore SOURCE TARGET KEYS     GET and PUT by obstore alone, which shows no header that we would miss
    python -m bench.bare parts SOURCE TARGET KEYS       large objects, in the tool's parts, within the tool's bytes in flight
    python -m bench.bare plan LISTING LISTING USERS OUT the join and the sort that a plan cannot do without, by DuckDB
    python -m bench.bare list SOURCE                    boto3's paginator through a bucket

A place is ENDPOINT BUCKET ACCESS SECRET as JSON; KEYS is a JSON file of keys and sizes.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
from servers import S3Server

from bench.worlds import PART_BYTES, THREADS, obstore_of, part_sizes
from migrate.stores.base import Capabilities, PartInfo
from migrate.stores.s3 import S3Store
from migrate.stores.s3_sign import S3Credentials

_BYTES_IN_FLIGHT = 128 * 2**20  # the tool's default
_SEEN = Capabilities(
    conditional_put=True, etag_is_md5=True, metadata=True, multipart=True, small_put=True, refuses_wrong_md5=True
)


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


def main() -> None:
    name, *arguments = sys.argv[1:]
    {"copy": copy, "obstore": copy_by_obstore, "parts": copy_in_parts}[name](*arguments)


if __name__ == "__main__":
    main()
