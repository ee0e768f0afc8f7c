"""A way to a server that adds latency, or that refuses what is more than a rate: `python -m bench.slowed PORT UPSTREAM MS RATE`.

Every byte from the client waits for MS milliseconds, which is a round trip's time; of RATE requests a second (0: no bound) what
is over is answered with 503 SlowDown, as S3 does. It forwards what it gets untouched, so signatures hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import servers

_REFUSAL = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_ANSWER = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_REFUSAL),
    _REFUSAL,
)
_BURST_SECONDS = 0.25


@contextlib.contextmanager
def slowed(server: servers.S3Server, *, latency_ms: int = 0, rate: int = 0) -> Iterator[servers.S3Server]:
    """The same server by a slower way, which ends with the block."""
    port = servers.free_port()
    root = Path(__file__).parents[1]
    words = [str(port), server.endpoint.rpartition(":")[2], str(latency_ms), str(rate)]
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.slowed", *words],
        stdin=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}"},
    )
    try:
        servers.wait_until(lambda: servers.answers(port), seconds=30, what="the slowed server")
        yield servers.S3Server(f"http://127.0.0.1:{port}", server.access_key, server.secret_key, server.region)
    finally:
        process.kill()
        process.wait()


class _Bucket:
    """A token bucket of requests."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._tokens = rate * _BURST_SECONDS
        self._at = time.monotonic()

    def take(self) -> bool:
        if not self._rate:
            return True
        now = time.monotonic()
        self._tokens = min(self._rate * _BURST_SECONDS, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class _Upstream(asyncio.Protocol):
    """The server's side of a connection: what it says goes to the client at once."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.transport.close()


class _Client(asyncio.Protocol):
    """The client's side: requests are told apart, so that one can be refused."""

    transport: asyncio.Transport

    def __init__(self, upstream_port: int, latency_seconds: float, bucket: _Bucket) -> None:
        self._upstream_port = upstream_port
        self._latency_seconds = latency_seconds
        self._bucket = bucket
        self._loop = asyncio.get_running_loop()
        self._upstream: asyncio.Transport | None = None
        self._waiting: list[bytes] = []
        self._head = b""
        self._body_left = 0
        self._is_refusing = False
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        transport, _ = await self._loop.create_connection(lambda: _Upstream(self), "127.0.0.1", self._upstream_port)
        self._upstream = transport
        for data in self._waiting:
            transport.write(data)
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        while data:
            if self._body_left:
                part, data = data[: self._body_left], data[self._body_left :]
                self._body_left -= len(part)
                self._pass_on(part)
                continue
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._head[: end + 4], self._head[end + 4 :]
            self._head = b""
            self._body_left = _length_of(head)
            self._is_refusing = not self._bucket.take()
            self._pass_on(head)
        # the body of a refused request is read to its end before the answer, as clients expect it

    def _pass_on(self, data: bytes) -> None:
        if not self._is_refusing:
            self._loop.call_later(self._latency_seconds, self._send, data)
        elif not self._body_left:
            self._loop.call_later(self._latency_seconds, self.transport.write, _ANSWER)

    def _send(self, data: bytes) -> None:
        if self._upstream is None:
            self._waiting.append(data)
        else:
            self._upstream.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


def _length_of(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _serve(port: int, upstream: int, latency_seconds: float, rate: int) -> None:
    loop = asyncio.get_running_loop()
    bucket = _Bucket(rate)
    await loop.create_server(lambda: _Client(upstream, latency_seconds, bucket), "127.0.0.1", port)
    await loop.run_in_executor(None, sys.stdin.read)  # its end is ours


if __name__ == "__main__":
    _port, _upstream, _ms, _rate = map(int, sys.argv[1:])
    asyncio.run(_serve(_port, _upstream, _ms / 1000, _rate))
