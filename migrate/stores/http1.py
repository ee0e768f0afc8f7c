"""HTTP/1.1 as far as S3 needs it: one request and its answer at a time on a connection, each within a time of its own.

The standard library's client makes mail headers of every answer, and urllib3 puts its own layers on that: together 0.15 ms of
CPU for a small GET, more than hashing its body takes. Here the headers become a dict, and the body is read from the socket into
the bytes that the caller gets. Nothing is redirected, nothing is tried twice, and no proxy of the environment is known.

Source: RFC 9112.
"""

from __future__ import annotations

import io
import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

CONNECT_SECONDS = 10.0
_REARM_SECONDS = 0.25  # how far a socket's time-out may be off before it is set anew: each setting is a system call
_RESTED_SECONDS = 1.0  # a connection that rested longer is looked at before it is used again
_SLICE_BYTES = 2**20
_BUFFER_BYTES = 64 * 1024
_JOINED_BYTES = 16 * 1024  # a body so small goes out in one piece with its headers
_LINE_BYTES = 64 * 1024
_LINES_MAX = 256

# A server that sends headers and body apart, with Nagle's algorithm on, holds the body back until the headers are
# acknowledged, and Linux delays that by 40 ms: 45 ms a small GET from Ceph RGW, 2 ms where the acknowledgement goes at once.
_QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class NoSuchHostError(OSError):
    """No server has this name."""


class NoConnectionError(OSError):
    """The server took no connection."""


class NoConnectionInTimeError(OSError):
    """The server took no connection in time."""


class BrokenAnswerError(OSError):
    """What came is no answer, or ended before its headers did."""


class EndedEarlyError(OSError):
    """The body ended before its announced length."""


class Pool:
    """Connections to one server. For any number of threads: `size` of them are kept for later, and more may be open.

    `ca_certs` is a file of certificates, for TLS; None for plain HTTP.
    """

    def __init__(self, host: str, port: int | None, *, size: int, ca_certs: str | None) -> None:
        self._host = host
        self._port = port or (80 if ca_certs is None else 443)
        self._size = size
        self._tls = None if ca_certs is None else ssl.create_default_context(cafile=ca_certs)
        self._idle: deque[_Connection] = deque()

    def ask(self, method: str, path: str, headers: Mapping[str, bytes], body: Any, deadline: float) -> Response:
        """Send a request; the answer, whose body is still to be read. All of it is over by `deadline` (monotonic seconds).

        OSError of any kind where there is no answer; TimeoutError where there is none in time.
        """
        head = _head(method, path, headers, body)
        connection = self._connection(deadline)
        try:
            connection.send(head, body)
            return Response(self, connection, method)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def take_back(self, connection: _Connection) -> None:
        """A connection whose answer was read to its end."""
        if len(self._idle) < self._size:
            connection.rest()
            self._idle.append(connection)
        else:
            connection.close()

    def _connection(self, deadline: float) -> _Connection:
        while True:
            try:
                found = self._idle.pop()  # the one that was used last
            except IndexError:
                return _Connection(self._connect(deadline), deadline)
            if found.is_alive():
                found.deadline = deadline
                return found
            found.close()

    def _connect(self, deadline: float) -> socket.socket:
        timeout = min(CONNECT_SECONDS, deadline - time.monotonic())
        if timeout <= 0:
            raise _too_long()
        try:
            plain = socket.create_connection((self._host, self._port), timeout)
        except (socket.gaierror, UnicodeError) as error:  # the latter for a name that IDNA cannot encode
            raise NoSuchHostError("no server has this name") from error
        except TimeoutError as error:
            raise NoConnectionInTimeError("no connection in time") from error
        except OSError as error:
            raise NoConnectionError("no connection") from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls is None:
            return plain
        try:
            return self._tls.wrap_socket(plain, server_hostname=self._host)
        except BaseException:
            plain.close()
            raise


class _Connection(io.RawIOBase):
    """A connected socket that knows when its request is over. As a raw stream it is what has arrived."""

    def __init__(self, connected: socket.socket, deadline: float) -> None:
        self._socket = connected
        self._armed = -1.0
        self._rests_since = 0.0
        self.deadline = deadline
        self.arrived = io.BufferedReader(self, _BUFFER_BYTES)

    def send(self, head: bytes, body: Any) -> None:
        if body is not None and len(body) <= _JOINED_BYTES:
            head, body = head + bytes(body), None
        self._send(head)
        if body is not None:
            view = memoryview(body)
            for start in range(0, len(view), _SLICE_BYTES):
                self._send(view[start : start + _SLICE_BYTES])
        if _QUICKACK is not None:
            self._socket.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def is_alive(self) -> bool:
        """Whether the server has neither hung up nor said anything since."""
        if time.monotonic() - self._rests_since < _RESTED_SECONDS:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def rest(self) -> None:
        """Nothing is under way on it from now on."""
        self._rests_since = time.monotonic()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._arm()
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            raise _too_long() from None

    def close(self) -> None:
        if not self.closed:
            self._socket.close()
            super().close()

    def _send(self, piece: Any) -> None:
        self._arm()
        try:
            self._socket.sendall(piece)
        except BlockingIOError:
            raise _too_long() from None

    def _arm(self) -> None:
        """Let the next wait last no longer than to the deadline. TimeoutError where that has passed.

        The kernel keeps the time of a plain socket, which saves a system call, and with it a turn for the interpreter, a wait.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise _too_long()
        if abs(left - self._armed) <= min(_REARM_SECONDS, left):
            return
        self._armed = left
        if isinstance(self._socket, ssl.SSLSocket):
            self._socket.settimeout(left)
            return
        self._socket.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self._socket.setsockopt(
                socket.SOL_SOCKET, option, struct.pack("ll", int(left), int(left % 1 * 1_000_000) or 1)
            )


class Response:
    """An answer: status, headers with names in lower case (of the same name, joined by `, `), and a body to be read.

    To be closed, which gives the connection back where the body was read to its end.
    """

    def __init__(self, pool: Pool, connection: _Connection, method: str) -> None:
        self._pool = pool
        self._connection = connection
        self._arrived = connection.arrived
        version, self.status = self._status()
        self.headers = self._fields()
        while 100 <= self.status < 200:
            version, self.status = self._status()
            self.headers = self._fields()
        keeps = self.headers.get("connection", "" if version >= b"HTTP/1.1" else "close").lower()
        self._is_last = "close" in keeps
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        self._left: int | None = self._length(
            method
        )  # of the body, or of the chunk; None: up to the end of the connection
        self._is_over = self._left == 0 and not self._chunked
        self._is_given = False

    def set_deadline(self, deadline: float) -> None:
        """Give the body a time of its own (monotonic seconds)."""
        self._connection.deadline = deadline

    def read(self, size: int | None = None) -> bytes:
        """Up to `size` bytes of the body, fewer only at its end; all of it without. b"" at the end.

        EndedEarlyError where the connection ends before the body; OSError, TimeoutError.
        """
        if self._is_over:
            return b""
        if self._chunked:
            return self._read_chunks(size)
        if self._left is None:
            data = self._arrived.read(-1 if size is None else size)
            self._is_over = self._is_last = size is None or len(data) < size
            return data
        wanted = self._left if size is None else min(size, self._left)
        data = self._arrived.read(wanted)
        if len(data) < wanted:
            raise EndedEarlyError("the body ended early")
        self._left -= wanted
        self._is_over = self._left == 0
        return data

    def close(self) -> None:
        if self._is_given:
            return
        self._is_given = True
        if self._is_over and not self._is_last:
            self._pool.take_back(self._connection)
        else:
            self._connection.close()

    def _status(self) -> tuple[bytes, int]:
        line = self._line()
        version, _, rest = line.partition(b" ")
        code = rest[:3]
        if not version.startswith(b"HTTP/1.") or not code.isdigit() or rest[3:4] not in (b"", b" "):
            raise BrokenAnswerError("no status line")
        return version, int(code)

    def _fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        last = ""
        for _ in range(_LINES_MAX):
            line = self._line()
            if not line:
                return fields
            name, colon, value = line.decode("latin-1").partition(":")
            if last and name[0] in " \t":  # RFC 9112, 5.2: a folded line goes on with the one before
                fields[last] += " " + line.decode("latin-1").strip(" \t")
                continue
            last, value = name.lower(), value.strip(" \t")
            if not colon or not last.strip():
                raise BrokenAnswerError("a header without a name")
            fields[last] = value if last not in fields else f"{fields[last]}, {value}"
        raise BrokenAnswerError("too many headers")

    def _line(self) -> bytes:
        line = self._arrived.readline(_LINE_BYTES)
        if not line.endswith(b"\n"):  # an end here must not read as the blank line after the headers
            raise BrokenAnswerError("the headers end early")
        return line.rstrip(b"\r\n")

    def _length(self, method: str) -> int | None:
        if method == "HEAD" or self.status in (204, 304):
            self._chunked = False
            return 0
        if self._chunked:
            return 0
        announced = self.headers.get("content-length")
        if announced is None:
            self._is_last = True
            return None
        if not (announced.isascii() and announced.isdigit()):
            raise BrokenAnswerError("a length that is none")
        return int(announced)

    def _read_chunks(self, size: int | None) -> bytes:
        pieces: list[bytes] = []
        wanted = size
        while wanted is None or wanted > 0:
            if not self._left and not self._begin_chunk():
                break
            assert self._left is not None, "a chunk has a length"
            length = self._left if wanted is None else min(wanted, self._left)
            piece = self._arrived.read(length)
            if len(piece) < length:
                raise EndedEarlyError("the body ended early")
            pieces.append(piece)
            self._left -= length
            if wanted is not None:
                wanted -= length
            if not self._left and self._arrived.readline(_LINE_BYTES).strip():
                raise EndedEarlyError("a chunk does not end where it should")
        return b"".join(pieces)

    def _begin_chunk(self) -> bool:
        """Read the next chunk's length; False at the last one, behind which the trailer is read."""
        line = self._arrived.readline(_LINE_BYTES)
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError as error:
            raise EndedEarlyError("no length of a chunk") from error
        if self._left < 0:
            raise EndedEarlyError("no length of a chunk")
        if self._left:
            return True
        self._is_over = True
        try:
            self._fields()
        except BrokenAnswerError:  # the body is whole all the same
            self._is_last = True
        return False


def _too_long() -> TimeoutError:
    return TimeoutError("the request took too long")


def _head(method: str, path: str, headers: Mapping[str, bytes], body: Any) -> bytes:
    """The request up to its body. ValueError where a value would be read as more than that."""
    lines = [f"{method} {path} HTTP/1.1".encode("ascii")]
    lines += [b"%s: %s" % (name.encode("ascii"), value) for name, value in headers.items()]
    if body is not None or method in ("PUT", "POST"):
        lines.append(b"content-length: %d" % (0 if body is None else len(body)))
    head = b"\r\n".join(lines)
    if head.count(b"\n") != len(lines) - 1 or head.count(b"\r") != len(lines) - 1 or b"\0" in head:
        raise ValueError("a header holds a line's end")
    return head + b"\r\n\r\n"
