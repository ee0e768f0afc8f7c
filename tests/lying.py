"""A server that says what a test wants, right or wrong, and then does what a test wants: closes, stalls, drips."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from servers import S3Server

Behaviour = Callable[[socket.socket, bytes], None]


def says(answer: bytes) -> Behaviour:
    """Send these bytes, and close."""

    def behave(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer)

    return behave


def http(status: str, body: bytes = b"", *, length: int | None = None, **headers: str) -> bytes:
    """An answer, whose Content-Length may be a lie. `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def lying(behaviour: Behaviour, *, certificate: Path | None = None) -> Iterator[S3Server]:
    """A server on loopback that meets every request so. It has read headers and body before it does.

    With `certificate`, a file of certificate and key, it speaks TLS.
    """
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with connection:
                behaviour(connection, _read_request(connection))

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                open_sockets.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        scheme = "http" if context is None else "https"
        yield S3Server(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", "a", "the-secret-key")
    finally:
        over.set()
        for each in (*open_sockets, listener):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
    )
    while len(body) < length:
        body += _some(connection)
    return head + b"\r\n\r\n" + body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the client went away")
    return data
