"""A network that lies: an HTTP forwarder that does to some requests, or to their answers, what networks and servers do.

Which requests are hit, and by what, follows from a seed and from what is asked for: method, store, key, query and how often that
was asked before. So it is the same in every run, whatever the order of threads, upload ids and the random tails of bucket names.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import parse_qsl, unquote, urlsplit

from proxy import ForwardHandler, RecordingProxy

SLOW_SECONDS = 0.1
HELD_SECONDS = 60.0  # a stalled request is held until the client gives up, which it does much earlier
MILLION = 1_000_000


class Fault(StrEnum):
    """What is done to a request."""

    RESET = "reset"  # the connection is torn down, the server hears nothing
    STALL = "stall"  # nobody answers, the server hears nothing
    SLOW_START = "slow-start"  # a while before the first byte
    INTERNAL_ERROR = "internal-error"  # 500
    SLOW_DOWN = "slow-down"  # 503
    EXPIRED = "expired"  # 403, the credentials have expired
    ABSENT_ONCE = "absent-once"  # 404, the first time that it is asked for
    TRUNCATED = "truncated"  # half of the answer, then the end of the connection
    FLIPPED_READ = "flipped-read"  # one bit of an object's body on its way here
    FLIPPED_WRITE = "flipped-write"  # one bit of an object's body on its way there
    TWICE = "twice"  # a write reaches the server twice
    LOST_ANSWER = "lost-answer"  # a write is done, and nobody hears of it
    CUT_XML = "cut-xml"  # an XML answer that ends in the middle, under a length that fits
    NO_WAY_ON = "no-way-on"  # a listing that does not say whether or where it goes on


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    store: str
    key: str
    query: tuple[tuple[str, str], ...]
    range: str

    @staticmethod
    def of(method: str, target: str, byte_range: str) -> Asked:
        parts = urlsplit(target)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        query = tuple(sorted(parse_qsl(parts.query, keep_blank_values=True)))
        return Asked(method, re.sub(r"-[0-9a-f]{12}$", "", bucket), unquote(key), query, byte_range)

    @property
    def lasting(self) -> Asked:
        """Without what is another one in each run."""
        return replace(
            self, query=tuple(pair for pair in self.query if pair[0] not in ("uploadId", "continuation-token"))
        )

    def has(self, *names: str) -> bool:
        return any(name in names for name, _ in self.query)

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and self.has("list-type", "versions", "uploads")

    @property
    def is_body_read(self) -> bool:
        return self.method == "GET" and self.key != "" and not self.has("tagging", "uploadId", "uploads")

    @property
    def is_write(self) -> bool:
        return self.method in ("PUT", "POST", "DELETE")

    @property
    def is_body_write(self) -> bool:
        return self.method == "PUT" and self.key != "" and not self.has("tagging")

    @property
    def has_xml_answer(self) -> bool:
        return self.is_listing or (self.method == "GET" and self.has("tagging", "uploadId")) or self.method == "POST"


def applies(fault: Fault, asked: Asked) -> bool:
    """Whether the fault can befall such a request."""
    if fault is Fault.ABSENT_ONCE:
        return asked.key != "" and not asked.is_listing and (not asked.is_write or asked.has("uploadId"))
    if fault is Fault.FLIPPED_READ:
        return asked.is_body_read
    if fault is Fault.FLIPPED_WRITE:
        return asked.is_body_write
    if fault in (Fault.TWICE, Fault.LOST_ANSWER):
        return asked.is_write
    if fault is Fault.CUT_XML:
        return asked.has_xml_answer
    if fault is Fault.NO_WAY_ON:
        return asked.is_listing
    return True


Hits = Callable[[Asked], bool]


def every(asked: Asked) -> bool:
    """Each request."""
    return True


@dataclass(frozen=True, slots=True)
class Weather:
    """What the network is like: which of `faults` befalls which share of the requests that `hits` is true of."""

    faults: Sequence[Fault]
    ppm: int
    seed: str = "1"
    hits: Hits = every
    only_first: bool = False  # a request that is asked for again is left alone

    def fault_for(self, asked: Asked, times: int) -> tuple[Fault | None, int]:
        """The fault of the request that is asked for the `times`th time, and a number that decides its details."""
        digest = hashlib.sha256(f"{self.seed}:{asked.lasting}:{times}".encode()).digest()
        numbers = struct.unpack(">QQQ", digest[:24])
        possible = [fault for fault in self.faults if applies(fault, asked)]
        if not possible or numbers[0] % MILLION >= self.ppm or not self.hits(asked):
            return None, 0
        fault = possible[numbers[1] % len(possible)]
        if times > 1 and (self.only_first or fault is Fault.ABSENT_ONCE):
            return None, 0
        return fault, numbers[2]


CALM = Weather((), 0)


class FaultProxy(RecordingProxy):
    """Forwards to `upstream` as `weather` lets it, and counts what it did in `injected`."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, _LyingHandler)
        self.injected: Counter[Fault] = Counter()
        self._weather = CALM
        self._asked: Counter[Asked] = Counter()
        self._lock = threading.Lock()

    @property
    def weather(self) -> Weather:
        return self._weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        with self._lock:
            self._weather = weather
            self._asked.clear()

    def decide(self, asked: Asked) -> tuple[Fault | None, int]:
        with self._lock:
            self._asked[asked.lasting] += 1
            times = self._asked[asked.lasting]
            fault, number = self._weather.fault_for(asked, times)
            if fault is not None:
                self.injected[fault] += 1
            return fault, number


@contextlib.contextmanager
def lying_network(upstream: str) -> Iterator[FaultProxy]:
    """A proxy before `upstream` for the block. Calm until its weather is set."""
    proxy = FaultProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes


class _LyingHandler(ForwardHandler):
    owner: FaultProxy

    def handle_any(self) -> None:
        asked = Asked.of(self.command, self.path, self.headers.get("range") or "")
        fault, number = self.owner.decide(asked)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if fault in _REFUSALS:
            self._say(_refusal(fault, asked))
        elif fault is Fault.RESET:
            self._tear_down()
        elif fault is Fault.STALL:
            self._hold()
        else:
            self._pass_on(fault, number, body)

    def _pass_on(self, fault: Fault | None, number: int, body: bytes) -> None:
        if fault is Fault.SLOW_START:
            time.sleep(SLOW_SECONDS)
        if fault is Fault.FLIPPED_WRITE:
            body = flipped(body, number)
        if fault is Fault.TWICE:
            self._ask(body)
        answer = self._ask(body)
        if fault is Fault.LOST_ANSWER:
            self._tear_down()
            return
        if fault is Fault.FLIPPED_READ and answer.status < 300:
            answer = replace(answer, body=flipped(answer.body, number))
        elif fault is Fault.CUT_XML and answer.status < 300:
            answer = replace(answer, body=answer.body[: number % max(len(answer.body), 1)])
        elif fault is Fault.NO_WAY_ON and answer.status < 300:
            answer = replace(answer, body=without_way_on(answer.body, number))
        self._say(answer, until=0.5 if fault is Fault.TRUNCATED else None)

    def _ask(self, body: bytes) -> _Answer:
        connection = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        with contextlib.closing(connection):
            self.send_head(connection)
            if body:
                connection.send(body)
            answer = connection.getresponse()
            self.owner.note(self, answer.status)
            return _Answer(answer.status, answer.reason, answer.getheaders(), answer.read())

    def _say(self, answer: _Answer, until: float | None = None) -> None:
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        lines = [f"HTTP/1.1 {answer.status} {answer.reason}"]
        lines += [
            f"{name}: {value}"
            for name, value in self.kept_headers(answer.headers)
            if bodiless or name.lower() != "content-length"
        ]
        if not bodiless:
            lines.append(f"Content-Length: {len(answer.body)}")
        message = "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if bodiless else answer.body)
        if until is not None:
            message = message[: int(len(message) * until)]
            self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.write(message)

    def _tear_down(self) -> None:
        """The peer sees a reset, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _hold(self) -> None:
        """Say nothing until the peer has gone."""
        self.close_connection = True
        self.connection.settimeout(HELD_SECONDS)
        with contextlib.suppress(OSError):
            self.connection.recv(1)


_REFUSALS = {
    Fault.INTERNAL_ERROR: (500, "InternalError"),
    Fault.SLOW_DOWN: (503, "SlowDown"),
    Fault.EXPIRED: (403, "ExpiredToken"),
    Fault.ABSENT_ONCE: (404, "NoSuchKey"),
}


def _refusal(fault: Fault, asked: Asked) -> _Answer:
    status, code = _REFUSALS[fault]
    if fault is Fault.ABSENT_ONCE and asked.has("uploadId"):
        code = "NoSuchUpload"
    body = f"<Error><Code>{code}</Code><Message>so says the network</Message></Error>".encode()
    return _Answer(status, "Refused", [("Content-Type", "application/xml")], body)


def flipped(body: bytes, number: int) -> bytes:
    """The body with one bit that is another."""
    if not body:
        return body
    bent = bytearray(body)
    bent[number % len(body)] ^= 1 << (number // len(body) % 8)
    return bytes(bent)


def without_way_on(body: bytes, number: int) -> bytes:
    """A listing that does not say whether it goes on, or that it does and not where."""
    said = b"<IsTruncated>true</IsTruncated>" if number % 2 else b""
    return re.sub(
        rb"<IsTruncated>(true|false)</IsTruncated>|<Next[A-Za-z]+>[^<]*</Next[A-Za-z]+>",
        lambda found: said if found[1] else b"",
        body,
    )
