"""HTTP/1.1 as S3 servers speak it, from a server that says exactly what a test wants, on one connection or on several."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.stores.http1 import BrokenAnswerError, EndedEarlyError, NoConnectionError, Pool

BODY = bytes(range(256)) * 300  # more than one buffer


class Said:
    """A server that answers request after request from a list, as far as its connections last; what it was asked."""

    def __init__(self, answers: Sequence[bytes], *, pieces: int | None = None, hangs_up_after: float | None = None):
        self._answers = iter(answers)
        self._pieces = pieces
        self._hangs_up_after = hangs_up_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.asked: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    data = connection.recv(65536)
                    if not data:
                        return
                    request += data
                self.asked.append(request)
                answer = next(self._answers, None)
                if answer is None:
                    return
                step = self._pieces or max(1, len(answer))
                for start in range(0, len(answer), step):
                    connection.sendall(answer[start : start + step])
                if b"onnection: close" in answer.partition(b"\r\n\r\n")[0] or answer.startswith(b"HTTP/1.0"):
                    return
                if self._hangs_up_after is not None:
                    time.sleep(self._hangs_up_after)
                    return

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def pool(answers: Sequence[bytes], **how: float) -> Iterator[tuple[Pool, Said]]:
    said = Said(answers, **how)  # type: ignore[arg-type]
    found = Pool("127.0.0.1", said.port, size=4, ca_certs=None)
    try:
        yield found, said
    finally:
        found.close()
        said.close()


def soon() -> float:
    return time.monotonic() + 5


def whole(found: Pool, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    response = found.ask(method, "/b/k", {"host": b"here"}, None, soon())
    try:
        return response.status, dict(response.headers), response.read()
    finally:
        response.close()


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", b""]) + body


def chunked(body: bytes, size: int, *, extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    return (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in chunks)
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


@pytest.mark.parametrize("pieces", [1, 7, None])
def test_a_body_of_a_length_comes_whole_and_the_connection_serves_again(pieces: int | None) -> None:
    body = BODY[:3_000] if pieces == 1 else BODY
    with pool([plain(body), plain(b""), plain(body)], pieces=pieces) as (found, said):  # type: ignore[arg-type]
        assert [whole(found)[2] for _ in range(3)] == [body, b"", body]
        assert (said.connections, len(said.asked)) == (1, 3)


@pytest.mark.parametrize("size", [1, 1_000, 70_000, len(BODY)])
def test_chunks_are_one_body_and_the_connection_serves_again(size: int) -> None:
    body = BODY[:500] if size == 1 else BODY
    answer = chunked(body, size, extension=b";name=value", trailer=b"X-Sum: 1\r\n")
    with pool([answer, answer]) as (found, said):
        assert whole(found)[2] == body
        response = found.ask("GET", "/b/k", {}, None, soon())
        pieces = list(iter(lambda: response.read(777), b""))
        response.close()
        assert b"".join(pieces) == body
        assert all(len(piece) == 777 for piece in pieces[:-1])
        assert said.connections == 1


def test_a_body_without_a_length_ends_with_its_connection() -> None:
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + BODY
    with pool([answer, b"HTTP/1.0 200 OK\r\n\r\nold"]) as (found, said):
        assert whole(found)[2] == BODY
        assert whole(found)[2] == b"old"
        assert said.connections == 2


def test_an_answer_to_head_has_no_body_whatever_its_length_says() -> None:
    with pool([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", plain(b"next")]) as (found, said):
        assert whole(found, "HEAD")[2] == b""
        assert whole(found)[2] == b"next"
        assert said.connections == 1


def test_what_comes_before_the_answer_is_left_out() -> None:
    with pool([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plain(b"body")]) as (
        found,
        _,
    ):
        status, headers, body = whole(found)
        assert (status, headers, body) == (200, {"content-length": "4"}, b"body")


def test_headers_are_kept_to_the_byte() -> None:
    more = (
        b"X-One:  a  b \t",
        b"x-one: c",
        b"X-Raw: \xff\xc3\xa9",
        b"X-Folded: a",
        b"\t b",
        b"X-Empty:",
        b"X-Colon: a:b",
    )
    with pool([plain(b"", *more)]) as (found, _):
        headers = whole(found)[1]
    assert headers == {
        "content-length": "0",
        "x-one": "a  b, c",
        "x-raw": b"\xff\xc3\xa9".decode("latin-1"),
        "x-folded": "a b",
        "x-empty": "",
        "x-colon": "a:b",
    }


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: nameless\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_none(answer: bytes) -> None:
    with pool([answer], hangs_up_after=0) as (found, _), pytest.raises(BrokenAnswerError):
        whole(found)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        chunked(b"hello", 5)[:-5],  # without the last chunk
        chunked(b"hello", 5)[:-8],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    ],
)
@pytest.mark.parametrize("size", [None, 3])
def test_a_body_that_ends_early_is_never_a_whole_one(answer: bytes, size: int | None) -> None:
    with pool([answer], hangs_up_after=0) as (found, _):
        response = found.ask("GET", "/b/k", {}, None, soon())
        with pytest.raises(EndedEarlyError):
            list(iter(lambda: response.read(size), b""))
        response.close()


def test_a_connection_whose_answer_was_not_read_to_its_end_is_dropped() -> None:
    with pool([plain(BODY), plain(b"second")]) as (found, said):
        response = found.ask("GET", "/b/k", {}, None, soon())
        response.read(10)
        response.close()
        response.close()
        assert whole(found)[2] == b"second"
        assert said.connections == 2


def test_no_more_connections_are_kept_than_asked_for() -> None:
    with pool([plain(b"x")] * 12) as (found, said):
        opened = [found.ask("GET", "/b/k", {}, None, soon()) for _ in range(6)]
        for response in opened:
            response.read()
            response.close()
        assert said.connections == 6
        again = [found.ask("GET", "/b/k", {}, None, soon()) for _ in range(6)]
        for response in again:
            response.read()
            response.close()
        assert said.connections == 8  # four were kept


def test_a_connection_that_the_server_closed_while_it_rested_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrate.stores.http1._RESTED_SECONDS", 0.0)
    with pool([plain(b"x"), plain(b"y")], hangs_up_after=0.05) as (found, said):
        assert whole(found)[2] == b"x"
        time.sleep(0.3)
        assert whole(found)[2] == b"y"
        assert said.connections == 2


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"])
def test_a_server_that_falls_silent_ends_in_time(answer: bytes) -> None:
    with pool([answer], hangs_up_after=30) as (found, _):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            found.ask("GET", "/b/k", {}, None, begun + 0.3).read()
        assert time.monotonic() - begun < 3


def test_a_server_that_takes_no_body_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the kernel takes the connection, and nobody reads
        found = Pool("127.0.0.1", listener.getsockname()[1], size=1, ca_certs=None)
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            found.ask("PUT", "/b/k", {}, bytes(64 * 2**20), begun + 0.3)
        assert time.monotonic() - begun < 3


def test_nobody_there_is_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoConnectionError):
        Pool("127.0.0.1", port, size=1, ca_certs=None).ask("GET", "/", {}, None, soon())


@pytest.mark.parametrize("value", [b"a\r\nx: y", b"a\nx: y", b"a\rx", b"a\0"])
def test_no_value_becomes_a_header_of_its_own(value: bytes) -> None:
    with pool([plain(b"")]) as (found, said):
        with pytest.raises(ValueError, match="line's end"):
            found.ask("GET", "/b/k", {"x-amz-meta-a": value}, None, soon())
        assert said.connections == 0


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [("PUT", b"hello", b"5"), ("PUT", None, b"0"), ("POST", b"", b"0"), ("GET", None, None), ("DELETE", None, None)],
)
def test_a_body_is_announced(method: str, body: bytes | None, length: bytes | None) -> None:
    with pool([plain(b"")]) as (found, said):
        found.ask(method, "/b/k?x=1", {"host": b"here"}, body, soon()).close()
        head = said.asked[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[:2] == [f"{method} /b/k?x=1 HTTP/1.1".encode(), b"host: here"]
    assert head[2:] == ([] if length is None else [b"content-length: " + length])


@given(st.binary(max_size=2_000), st.integers(1, 400), st.integers(1, 50), st.sampled_from([None, 1, 13, 5_000]))
def test_however_it_is_cut_a_body_is_the_same(body: bytes, chunk: int, pieces: int, size: int | None) -> None:
    makes: list[Callable[[], bytes]] = [lambda: plain(body), lambda: chunked(body, chunk)]
    for make in makes:
        with pool([make()], pieces=pieces) as (found, _):
            response = found.ask("GET", "/b/k", {}, None, soon())
            read = b""
            while piece := response.read(size):
                read += piece
            response.close()
        assert read == body
