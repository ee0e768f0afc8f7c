"""The s3 store over TLS: whom it trusts, and that its time is bounded there as well."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from lying import Behaviour, http, lying, says
from places import EVERYTHING, s3_store
from servers import S3Server

from migrate.errors import CorruptBodyError, StoreError, TransientStoreError
from migrate.model import Attributes
from migrate.stores.s3 import S3Store

OBJECT = {"ETag": '"5d41402abc4b2a76b9719d911017c592"', "Last_Modified": "Tue, 24 Nov 2026 03:00:00 GMT"}
HELLO = hashlib.md5(b"hello", usedforsecurity=False).digest()


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, vouched for by AWS_CA_BUNDLE."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    return certificate


def opened(server: S3Server, *, timeout: float = 5) -> S3Store:
    return s3_store(server, "bucket", "", EVERYTHING, timeout=timeout)


@pytest.mark.parametrize("attributes", [Attributes(), Attributes(expires="0")], ids=["obstore", "signed"])
def test_a_server_of_ones_own_is_trusted_by_its_certificate(trusted: Path, attributes: Attributes) -> None:
    """AWS_CA_BUNDLE holds for both clients, as for the AWS tools."""
    with lying(says(http("200 OK", b"hello", **OBJECT)), certificate=trusted) as server:
        with opened(server).get("k") as download:
            assert download.read() == b"hello"
        assert opened(server).put("k", b"hello", attributes=attributes, tags={}, md5=HELLO).etag == HELLO.hex()


def test_a_stranger_is_not_trusted(certificate: Path) -> None:
    """The twin: nobody vouches for this one, and no second try would change that."""
    with lying(says(http("200 OK", b"hello", **OBJECT)), certificate=certificate) as server:
        with pytest.raises(StoreError, match="certificate") as caught:
            opened(server).get("k")
        assert not isinstance(caught.value, TransientStoreError)
        with pytest.raises(StoreError):
            opened(server).put("k", b"hello", attributes=Attributes(), tags={}, md5=HELLO)


def test_the_body_is_not_hashed_for_the_signature(trusted: Path) -> None:
    """TLS guards it, and Content-MD5, which is signed; a second digest of every byte would be for nothing."""
    requests: list[bytes] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        requests.append(request)
        connection.sendall(http("200 OK", **OBJECT))

    with lying(behave, certificate=trusted) as server:
        opened(server).put("k", b"hello", attributes=Attributes(expires="0"), tags={}, md5=HELLO)
    assert b"x-amz-content-sha256: UNSIGNED-PAYLOAD" in requests[0]
    assert b"content-md5" in requests[0].split(b"SignedHeaders=")[1].split(b",")[0]


def silent(over: threading.Event) -> Behaviour:
    return lambda connection, request: (over.wait(30), None)[1]


def dripping(over: threading.Event) -> Behaviour:
    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(http("200 OK", length=1000, **OBJECT))
        while not over.wait(0.05):
            connection.sendall(b"x")

    return behave


@pytest.mark.parametrize("how", [silent, dripping])
def test_time_is_bounded_over_tls(trusted: Path, how: object) -> None:
    """Invariant 11."""
    over = threading.Event()
    with lying(how(over), certificate=trusted) as server:  # type: ignore[operator]
        begun = time.monotonic()
        with pytest.raises(TransientStoreError), opened(server, timeout=0.5).get("k") as download:
            download.read()
        assert time.monotonic() - begun < 5
        over.set()


def test_a_short_body_is_corrupt_over_tls(trusted: Path) -> None:
    """Whether the connection closes with or without TLS's goodbye."""
    answer = http("200 OK", b"hel", length=5, **OBJECT)
    with (
        lying(says(answer), certificate=trusted) as server,
        pytest.raises((CorruptBodyError, TransientStoreError)),
        opened(server).get("k") as download,
    ):
        download.read()


@contextlib.contextmanager
def bending(server: S3Server, answering: threading.Event) -> Iterator[S3Server]:
    """A relay before `server`, for one connection, that flips a bit of the first bytes that come once it is answering."""
    listener = socket.create_server(("127.0.0.1", 0))
    inner = socket.create_connection(("127.0.0.1", urlsplit(server.endpoint).port or 0))

    def pass_on(source: socket.socket, sink: socket.socket, *, bends: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if bends and answering.is_set():
                    data = data[:-1] + bytes([data[-1] ^ 1])
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def relay() -> None:
        with contextlib.suppress(OSError):
            outer = listener.accept()[0]
            threading.Thread(target=pass_on, args=(outer, inner), kwargs={"bends": False}, daemon=True).start()
            pass_on(inner, outer, bends=True)
            outer.close()

    threading.Thread(target=relay, daemon=True).start()
    try:
        place = urlsplit(server.endpoint)._replace(netloc=f"127.0.0.1:{listener.getsockname()[1]}").geturl()
        yield replace(server, endpoint=place)
    finally:
        for each in (listener, inner):
            each.close()


def read_bent(certificate: Path | None) -> tuple[bool, bytes]:
    """What a GET through such a relay brings, and whether the store says that its way is guarded."""
    answering = threading.Event()

    def behave(connection: socket.socket, request: bytes) -> None:
        answering.set()
        connection.sendall(http("200 OK", b"hello", **OBJECT))

    with lying(behave, certificate=certificate) as server, bending(server, answering) as bent:
        store = opened(bent)
        with store.get("k") as download:
            return store.guarded, download.read()


def test_tls_finds_a_bit_that_was_flipped_on_the_way(trusted: Path) -> None:
    """So nothing has to be read twice over it (`Store.guarded`)."""
    with pytest.raises(TransientStoreError):
        read_bent(trusted)


def test_without_tls_the_bit_arrives() -> None:
    """The twin: over plain HTTP it is left to whoever reads to find it."""
    assert read_bent(None) == (False, b"helln")


def test_a_large_body_goes_out_in_slices(trusted: Path) -> None:
    """5 MiB over TLS, each slice under the same deadline."""
    body = b"x" * (5 * 2**20 + 1)
    md5 = hashlib.md5(body, usedforsecurity=False)
    arrived: list[int] = []

    def behave(connection: socket.socket, request: bytes) -> None:
        arrived.append(len(request.partition(b"\r\n\r\n")[2]))
        connection.sendall(http("200 OK", ETag=f'"{md5.hexdigest()}"'))

    with lying(behave, certificate=trusted) as server:
        opened(server).put("k", memoryview(body), attributes=Attributes(), tags={}, md5=md5.digest())
    assert arrived == [len(body)]
