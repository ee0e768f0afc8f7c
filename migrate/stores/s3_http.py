"""Requests to one S3 endpoint: signed, and each with a limit on the whole of its time.

A limit on each wait on a socket alone would let a server be slow without end that sends a byte now and then: here every
connection knows the moment at which its request is over, sends and reads no longer than that, and nothing is tried twice.

No URL leaves this module in an error or a log: it holds the key (design, invariant 10).
"""

from __future__ import annotations

import hashlib
import ssl
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from migrate.errors import CorruptBodyError, StoreError, TransientStoreError
from migrate.stores import http1
from migrate.stores.base import Body
from migrate.stores.keys import quote_key
from migrate.stores.s3_endpoint import own_certificates
from migrate.stores.s3_errors import error_of
from migrate.stores.s3_sign import EMPTY_SHA256, UNSIGNED, CredentialSource, canonical_query, sign

MIN_BYTES_A_SECOND = 256 * 1024  # the slowest transfer of a body that still counts as one
_ERROR_BYTES = 64 * 1024
_ANSWER_BYTES = 64 * 2**20
_PAGE_BYTES = 4 * 2**20  # more than a page of 1,000 keys of 1,024 bytes each, all of them encoded

Query = Sequence[tuple[str, str]]
Headers = Mapping[str, bytes]

_REMEDY = "See that the store's `endpoint` is right, and that its server can be reached from here."
_NO_ANSWER: Mapping[type[Exception], str] = {
    http1.NoSuchHostError: "no server has the name of",
    http1.NoConnectionInTimeError: "no connection in time to",
    http1.NoConnectionError: "no connection to",
    TimeoutError: "no answer in time from",
}


class Answer:
    """A success: its headers, names in lower case, and a body that is still to be read. Must be closed, or read to its end."""

    def __init__(self, client: S3Client, operation: str, key: str | None, response: http1.Response) -> None:
        self._client = client
        self._operation = operation
        self._key = key
        self._response = response
        self.headers: Mapping[str, str] = response.headers
        self.status = response.status

    def read(self, size: int | None = None, *, expect_bytes: int = 0) -> bytes:
        """Up to `size` bytes, or all; b"" at the end. `expect_bytes` is how many there may be, for the time they get.

        CorruptBodyError where the body ends before its announced length.
        """
        self._response.set_deadline(time.monotonic() + self._client.limit_s(expect_bytes))
        try:
            return self._response.read(size)
        except OSError as error:
            self._response.close()
            self._client.fail(self._operation, self._key, error)

    def close(self) -> None:
        """Give the connection back if the body is read to its end, drop it otherwise."""
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
        certificates = (own_certificates() or _certificates()) if self._tls else None
        self._pool = http1.Pool(parts.hostname or "", parts.port, size=concurrency, ca_certs=certificates)

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
        try:
            response = self._pool.ask(
                method, f"{path}?{encoded}" if encoded else path, signed, body, time.monotonic() + limit_s
            )
        except (OSError, ValueError) as error:
            self.fail(operation, key, error)
        answer = Answer(self, operation, key, response)
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
        if isinstance(error, ssl.SSLCertVerificationError):
            raise StoreError(
                self.name,
                operation,
                "the server's certificate is not trusted",
                key=key,
                remedy="AWS_CA_BUNDLE names a file of the certificates to trust.",
            ) from None
        if isinstance(error, http1.EndedEarlyError):
            raise CorruptBodyError(self.name, operation, "the body ended early", key=key) from None
        for kind, said in _NO_ANSWER.items():
            if isinstance(error, kind):
                said, refused = f"{said} {self._place}", kind is not TimeoutError
                raise TransientStoreError(
                    self.name, operation, said, key=key, remedy=_REMEDY, refused=refused
                ) from None
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


def _certificates() -> str:
    """Those that botocore brings along: AWS's SDKs trust them. botocore itself, which takes its time, is not loaded for it."""
    found = find_spec("botocore")
    assert found is not None, "botocore is installed with us"
    return str(Path(str(found.origin)).with_name("cacert.pem"))
