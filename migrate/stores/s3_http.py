"""HTTP to one S3 endpoint: pooled connections, signed requests, and a limit on the whole of each request's time.

urllib3 limits each wait on a socket, so a server that sends a byte now and then is never too slow for it. Here every
connection knows the moment at which its request is over, sends and reads no longer than that, and nothing is tried twice.

No URL leaves this module in an error or a log: it holds the key (design, invariant 10).
"""

from __future__ import annotations

import hashlib
import http.client
import io
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import urlsplit

import urllib3
from botocore.httpsession import get_cert_path
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse

from migrate.errors import CorruptBodyError, StoreError, TransientStoreError
from migrate.stores.base import Body
from migrate.stores.keys import quote_key
from migrate.stores.s3_endpoint import own_certificates
from migrate.stores.s3_errors import error_of
from migrate.stores.s3_sign import EMPTY_SHA256, UNSIGNED, CredentialSource, canonical_query, sign

# urllib3 logs URLs, and with them keys: each request at DEBUG, a header that it cannot parse at WARNING.
logging.getLogger("urllib3").setLevel(logging.CRITICAL)

CONNECT_SECONDS = 10.0
MIN_BYTES_A_SECOND = 256 * 1024  # the slowest transfer of a body that still counts as one
_REARM_SECONDS = 0.25  # how far a socket's time-out may be off before it is set anew: each setting is a system call
_SLICE_BYTES = 2**20
_ERROR_BYTES = 64 * 1024
_ANSWER_BYTES = 64 * 2**20
_PAGE_BYTES = 4 * 2**20  # more than a page of 1,000 keys of 1,024 bytes each, all of them encoded


# A server that sends headers and body apart, with Nagle's algorithm on, holds the body back until the headers are
# acknowledged, and Linux delays that by 40 ms: 45 ms a small GET from Ceph RGW, 2 ms where the acknowledgement goes at once.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)

Query = Sequence[tuple[str, str]]
Headers = Mapping[str, bytes]


class _Moment(threading.local):
    """When the request of this thread has to be over (monotonic seconds), and the socket that it went out by."""

    deadline = 0.0
    socket: _BoundedSocket | None = None


_moment = _Moment()


class _BoundedSocket:
    """A connected socket that knows a deadline. It has what http.client and urllib3 use of a socket, and no more."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self._armed = -1.0
        self.deadline = _moment.deadline
        self.in_headers = True

    def arm(self) -> None:
        """Let the next wait last no longer than to the deadline. TimeoutError where that has passed."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        if abs(left - self._armed) > min(_REARM_SECONDS, left):
            self._inner.settimeout(left)
            self._armed = left

    def sendall(self, data: Any) -> None:
        if len(data) <= _SLICE_BYTES:
            self.arm()
            self._inner.sendall(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _SLICE_BYTES):
            self.arm()
            self._inner.sendall(view[start : start + _SLICE_BYTES])

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        """http.client calls it once an answer, between sending and reading."""
        if _QUICKACK is not None:
            self._inner.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)
        return io.BufferedReader(_BoundedReader(self, self._inner.makefile("rb", buffering=0)), 64 * 1024)

    def settimeout(self, value: float | None) -> None:
        """urllib3's limits on single waits: the deadline stands in for them."""

    def fileno(self) -> int:
        return self._inner.fileno()

    def shutdown(self, how: int) -> None:
        self._inner.shutdown(how)

    def close(self) -> None:
        self._inner.close()


class _BoundedReader(io.RawIOBase):
    def __init__(self, bounded: _BoundedSocket, raw: socket.SocketIO) -> None:
        self._bounded = bounded
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._bounded.arm()
        count = self._raw.readinto(buffer)
        if count == 0 and self._bounded.in_headers:
            # http.client takes an end for the blank line after the headers, and those that were to come are lost
            raise ConnectionResetError("the headers end early")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Bounded:
    """What both kinds of connection share."""

    sock: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock = _BoundedSocket(self.sock)

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is not None:
            self.sock.deadline = _moment.deadline
            self.sock.in_headers = True
        super().request(*arguments, **options)  # type: ignore[misc]
        _moment.socket = self.sock


class _PlainConnection(_Bounded, HTTPConnection):
    pass


class _TlsConnection(_Bounded, HTTPSConnection):
    pass


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class Answer:
    """A success: its headers, and a body that is still to be read. Must be closed, or read to its end."""

    def __init__(
        self, client: S3Client, operation: str, key: str | None, response: BaseHTTPResponse, bounded: _BoundedSocket
    ) -> None:
        self._client = client
        self._operation = operation
        self._key = key
        self._response = response
        self._bounded = bounded
        # names in lower case; a plain dict, because urllib3's takes 20 µs for what is looked up in one answer
        self.headers = {name.lower(): value for name, value in response.headers.itermerged()}
        self.status = response.status

    def read(self, size: int | None = None, *, expect_bytes: int = 0) -> bytes:
        """Up to `size` bytes, or all; b"" at the end. `expect_bytes` is how many there may be, for the time they get.

        CorruptBodyError where the body ends before its announced length.
        """
        self._bounded.deadline = time.monotonic() + self._client.limit_s(expect_bytes)
        try:
            return self._response.read(size) if size is not None else self._response.read()
        except (HTTPError, OSError) as error:
            self._response.close()
            self._client.fail(self._operation, self._key, error)

    def close(self) -> None:
        """Give the connection back if the body is read to its end, drop it otherwise."""
        if self._response.length_remaining == 0 or self._response.closed:
            self._response.release_conn()
        else:
            self._response.close()


class S3Client:
    """Signed requests to one bucket. For any number of threads.

    `base` is the URL under which keys hang: `https://HOST[:PORT]` for a virtual host, with `/BUCKET` for the path style.
    `prefix` goes before every key.
    `named` is the reference to the credentials, for errors.
    `timeout_s` is what a request without a body may take; a body gets time on top by `MIN_BYTES_A_SECOND`.
    """

    def __init__(
        self,
        name: str,
        base: str,
        prefix: str,
        *,
        region: str,
        credentials: CredentialSource,
        timeout_s: float,
        concurrency: int,
        named: str = "the credentials",
    ) -> None:
        parts = urlsplit(base)
        self._place = base
        self._named = named
        self._prefix = prefix
        self.name = name
        self.region = region
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._host = parts.netloc.encode()
        self._path = parts.path.rstrip("/")
        self._tls = parts.scheme == "https"
        # Not `block`: a thread may hold one answer open and ask for another; what is over the size is closed after use.
        if self._tls:
            self._pool: urllib3.HTTPConnectionPool = _TlsPool(
                parts.hostname or "",
                parts.port,
                maxsize=concurrency,
                ca_certs=own_certificates() or get_cert_path(True),
            )
        else:
            self._pool = _PlainPool(parts.hostname or "", parts.port, maxsize=concurrency)

    def limit_s(self, size_bytes: int) -> float:
        """How long a request with a body of `size_bytes`, sent or received, may take in all."""
        return self._timeout_s + size_bytes / MIN_BYTES_A_SECOND

    def send(
        self,
        operation: str,
        method: str,
        key: str | None,
        query: Query = (),
        headers: Headers | None = None,
        body: Body | None = None,
    ) -> Answer:
        """One request; the answer (2xx) with its body unread. Any other answer raises by `s3_errors`.

        `key` is relative to the prefix; None for the bucket. `operation` is its name in errors.
        """
        path = f"{self._path}/{quote_key(self._prefix + key)}" if key is not None else self._path or "/"
        encoded = canonical_query(query)
        signed = sign(
            method,
            path,
            encoded,
            {"host": self._host, **(headers or {})},
            payload_sha256=self._payload(body),
            credentials=self._credentials(),
            region=self.region,
            now=datetime.now(UTC),
        )
        # added after the signing: what stands between may change them
        signed["user-agent"] = b"migrate"
        signed["accept-encoding"] = b"identity"
        limit_s = self.limit_s(len(body) if body is not None else 0)
        _moment.deadline = time.monotonic() + limit_s
        try:
            response = self._pool.urlopen(
                method,
                f"{path}?{encoded}" if encoded else path,
                body=body,  # type: ignore[arg-type]  # any buffer will do
                headers=signed,  # type: ignore[arg-type]  # bytes are sent as they are; a text would have to be latin-1
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=min(CONNECT_SECONDS, limit_s), read=limit_s),
            )
        except (HTTPError, OSError, ValueError) as error:
            self.fail(operation, key, error)
        bounded, _moment.socket = _moment.socket, None
        assert bounded is not None  # there is no answer without a request
        bounded.in_headers = False
        answer = Answer(self, operation, key, response, bounded)
        if 200 <= answer.status < 300:
            return answer
        raise self._refusal(operation, key, answer)

    def call(
        self,
        operation: str,
        method: str,
        key: str | None,
        query: Query = (),
        headers: Headers | None = None,
        body: Body | None = None,
    ) -> tuple[Mapping[str, str], bytes]:
        """One request, and its whole (small) answer: headers and body."""
        answer = self.send(operation, method, key, query, headers, body)
        announced = answer.headers.get("content-length", "")
        expected = int(announced) if announced.isascii() and announced.isdigit() else _PAGE_BYTES
        try:
            content = answer.read(_ANSWER_BYTES, expect_bytes=min(expected, _ANSWER_BYTES))
            if len(content) == _ANSWER_BYTES or answer.read(1):
                raise StoreError(self.name, operation, "the answer is too large to be one", key=key)
        finally:
            answer.close()
        return answer.headers, content

    def fail(self, operation: str, key: str | None, error: Exception) -> NoReturn:
        """Raise what an error of the network means. Its own text stays here: it holds the URL."""
        if isinstance(error, SSLError) and "certificate" in str(error).lower():
            raise StoreError(
                self.name,
                operation,
                "the server's certificate is not trusted",
                key=key,
                remedy="AWS_CA_BUNDLE names a file of the certificates to trust.",
            ) from None
        remedy = "See that the store's `endpoint` is right, and that its server can be reached from here."
        said = None
        if isinstance(error, NameResolutionError):
            said = f"no server has the name of {self._place}"
        elif isinstance(error, NewConnectionError):
            said = f"no connection to {self._place}"
        elif isinstance(error, ConnectTimeoutError):
            said = f"no connection in time to {self._place}"
        elif isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
            said = f"no answer in time from {self._place}"
        if said is not None:
            raise TransientStoreError(self.name, operation, said, key=key, remedy=remedy) from None
        if _ended_early(error):
            raise CorruptBodyError(self.name, operation, "the body ended early", key=key) from None
        raise TransientStoreError(self.name, operation, "the connection broke", key=key) from None

    def close(self) -> None:
        self._pool.close()

    def _payload(self, body: Body | None) -> str:
        """The body's SHA-256 for the signature. Over TLS it stays unsigned, as in the AWS SDKs: Content-MD5 is signed."""
        if body is None or len(body) == 0:
            return EMPTY_SHA256
        return UNSIGNED if self._tls else hashlib.sha256(body).hexdigest()

    def _refusal(self, operation: str, key: str | None, answer: Answer) -> StoreError:
        try:
            content = answer.read(_ERROR_BYTES)
        except StoreError:  # status and headers say enough
            content = b""
        answer.close()
        return error_of(
            self.name,
            operation,
            key,
            answer.status,
            answer.headers,
            content,
            place=self._place,
            credentials=self._named,
        )


def _ended_early(error: Exception) -> bool:
    parts = (error, *error.args) if isinstance(error, ProtocolError) else (error,)
    return any(isinstance(part, (IncompleteRead, http.client.IncompleteRead)) for part in parts)
