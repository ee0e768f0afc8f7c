"""A server of objects that nobody stores: keys, sizes and bodies follow from numbers, so that ten million of them cost nothing.

    python -m bench.synthetic PORT USERS EACH PRESENT

It answers HEAD, GET, PUT and listings of one bucket as S3 does, with `EACH` objects a user, of which the first `PRESENT` are
there; what is put is there as well. For figures about plans, ledgers and processes; bytes are moved between real servers.
`GET /-/mark` tells how many objects were put since the last mark, and when the first of them was, and begins anew.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import hashlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import servers

OBJECT_BYTES = 1024
CHANGED = "2026-01-01T00:00:00"
_PAGE = 1000
_CHANGED_HTTP = "Thu, 01 Jan 2026 00:00:00 GMT"
_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Formula:
    """Which objects there are: `each` a user, in the order of their keys."""

    users: int
    each: int

    @property
    def total(self) -> int:
        return self.users * self.each

    def key(self, number: int) -> str:
        return f"users/u{number // self.each:07d}/f{number % self.each:06d}.jpg"

    def number(self, key: str) -> int | None:
        """The number of the object with this key; None where there is none."""
        try:
            number = int(key[7:14]) * self.each + int(key[16:22])
        except ValueError:
            return None
        return number if number < self.total and self.key(number) == key else None

    def users_named(self) -> list[str]:
        return [f"u{number:07d}" for number in range(self.users)]

    def listing_query(self) -> str:
        """SQL that yields the listing: the same keys and ETags as the server has."""
        body = f"repeat(lpad(CAST(n AS VARCHAR), {_DIGITS}, '0'), {OBJECT_BYTES // _DIGITS})"
        return (
            f"SELECT format('users/u{{:07d}}/f{{:06d}}.jpg', n // {self.each}, n % {self.each}) AS key, "
            f"CAST({OBJECT_BYTES} AS BIGINT) AS size, md5({body}) AS etag, TIMESTAMP '{CHANGED}' AS last_modified "
            f"FROM range({self.total}) AS numbers(n)"
        )


def body_of(number: int) -> bytes:
    return f"{number:0{_DIGITS}d}".encode() * (OBJECT_BYTES // _DIGITS)


def etag_of(number: int) -> str:
    return hashlib.md5(body_of(number), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class SyntheticServer:
    """Where one listens."""

    s3: servers.S3Server

    def mark(self) -> tuple[int, float | None]:
        """Objects put since the last mark, and when the first of them was, in `time.monotonic` seconds."""
        with urllib.request.urlopen(f"{self.s3.endpoint}/-/mark", timeout=60) as answer:
            puts, first = json.load(answer)
        return puts, first

    def look(self) -> tuple[int, float | None]:
        """The same, and nothing begins anew."""
        with urllib.request.urlopen(f"{self.s3.endpoint}/-/look", timeout=60) as answer:
            puts, first = json.load(answer)
        return puts, first


@contextlib.contextmanager
def serving(formula: Formula, present: int) -> Iterator[SyntheticServer]:
    """A server in a process of its own, which ends with the block."""
    port = servers.free_port()
    arguments = [str(value) for value in (port, formula.users, formula.each, present)]
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.synthetic", *arguments],
        stdin=subprocess.PIPE,
        cwd=root,
        env={"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": ""},
    )
    try:
        servers.wait_until(lambda: servers.answers(port), seconds=30, what="the synthetic server")
        yield SyntheticServer(servers.S3Server(f"http://127.0.0.1:{port}", "synthetic", "synthetic"))
    finally:
        process.kill()
        process.wait()


class _Bucket:
    """What is there."""

    def __init__(self, formula: Formula, present: int) -> None:
        self.formula = formula
        self.present = present
        self.added: list[int] = []  # in order
        self.puts = 0
        self.first_at: float | None = None

    def has(self, number: int | None) -> bool:
        return number is not None and (number < self.present or self._is_added(number))

    def _is_added(self, number: int) -> bool:
        place = bisect.bisect_left(self.added, number)
        return place < len(self.added) and self.added[place] == number

    def put(self, number: int) -> None:
        if self.puts == 0:
            self.first_at = time.monotonic()
        self.puts += 1
        if number >= self.present and not self._is_added(number):
            bisect.insort(self.added, number)

    def first_from(self, number: int) -> int | None:
        """The first object that is there, from `number` on."""
        if number < self.present:
            return number
        place = bisect.bisect_left(self.added, number)
        return self.added[place] if place < len(self.added) else None

    def page(self, query: dict[str, str]) -> bytes:
        """ListObjectsV2, with `delimiter=/` or without."""
        formula, prefix = self.formula, query.get("prefix", "")
        last = query.get("continuation-token") or query.get("start-after", "")
        room = range(formula.total)
        place = max(bisect.bisect_left(room, prefix, key=formula.key), bisect.bisect_right(room, last, key=formula.key))
        most = int(query.get("max-keys", _PAGE))
        found: list[str] = []
        while (number := self.first_from(place)) is not None and (key := formula.key(number)).startswith(prefix):
            if len(found) == most:
                return self._page(found, last)
            cut = key.find("/", len(prefix)) if query.get("delimiter") else -1
            if cut < 0:
                found.append(_content(key, number))
                last, place = key, number + 1
            else:
                found.append(f"<CommonPrefixes><Prefix>{key[: cut + 1]}</Prefix></CommonPrefixes>")
                last = key[:cut] + "0"  # the character after the slash: past all of the folder
                place = bisect.bisect_left(room, last, key=formula.key)
        return self._page(found, None)

    @staticmethod
    def _page(found: list[str], after: str | None) -> bytes:
        token = "" if after is None else f"<NextContinuationToken>{after}</NextContinuationToken>"
        return (
            '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url'
            f"</EncodingType><KeyCount>{len(found)}</KeyCount><IsTruncated>{str(after is not None).lower()}</IsTruncated>"
            f"{token}{''.join(found)}</ListBucketResult>"
        ).encode()


def _content(key: str, number: int) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>{CHANGED}.000Z</LastModified><ETag>&quot;{etag_of(number)}&quot;</ETag>"
        f"<Size>{OBJECT_BYTES}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


class _Connection(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self, bucket: _Bucket) -> None:
        self._bucket = bucket
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                if headers.get("expect") == "100-continue":
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            method, target, _ = first.split(" ")
            self._answer(method, target, body)

    def _answer(self, method: str, target: str, body: bytes) -> None:
        parts = urlsplit(target)
        bucket = self._bucket
        if parts.path.startswith("/-/"):
            self._send(200, json.dumps([bucket.puts, bucket.first_at]).encode())
            if parts.path == "/-/mark":
                bucket.puts, bucket.first_at = 0, None
            return
        key = unquote(parts.path.lstrip("/").partition("/")[2])
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        number = bucket.formula.number(key)
        if not key and method == "GET" and "list-type" in query:
            self._send(200, bucket.page(query), {"Content-Type": "application/xml"})
        elif key and "tagging" in query and bucket.has(number):
            self._send(200, b"<Tagging><TagSet></TagSet></Tagging>")
        elif key and number is not None and method == "PUT" and not (query.keys() - {"x-id"}):
            bucket.put(number)
            self._send(200, b"", {"ETag": f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'})
        elif key and number is not None and method in ("GET", "HEAD") and bucket.has(number):
            about = {"ETag": f'"{etag_of(number)}"', "Last-Modified": _CHANGED_HTTP, "Content-Type": "image/jpeg"}
            self._send(200, body_of(number), about, is_head=method == "HEAD")
        elif key and method in ("GET", "HEAD"):
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", is_head=method == "HEAD")
        elif method in ("PUT", "HEAD") and not key:
            self._send(200, b"", is_head=method == "HEAD")
        else:
            self._send(501, b"<Error><Code>NotImplemented</Code></Error>", is_head=method == "HEAD")

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, is_head: bool = False) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        date = formatdate(usegmt=True)
        head = f"HTTP/1.1 {status} {status}\r\nDate: {date}\r\n{lines}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + (b"" if is_head else body))


async def _serve(port: int, bucket: _Bucket) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(bucket), "127.0.0.1", port)
    await loop.run_in_executor(None, sys.stdin.read)  # its end is ours
    server.close()


if __name__ == "__main__":
    _port, _users, _each, _present = map(int, sys.argv[1:])
    asyncio.run(_serve(_port, _Bucket(Formula(_users, _each), _present)))
