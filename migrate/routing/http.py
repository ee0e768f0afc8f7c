"""Asking a hook: one signed POST a question, bounded in time and number, never redirected.

    Migrate-Timestamp: seconds since 1970, by this machine's clock
    Migrate-Signature: v1=HMAC-SHA256, in hex, over `POST`, path, timestamp and body, each but the last with a newline behind it
    Idempotency-Key:   SHA-256 of the body, in hex; not with `read`

http.client limits each wait on a socket, so a server that sends a byte now and then is never too slow for it: a timer cuts the
connection off. It knows no proxy of the environment. No answer's text goes into an error: a user id may stand in it.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlsplit

import stamina

from migrate.errors import RefusedError, UnreachableError
from migrate.routing.asking import ANSWER_BYTES
from migrate.spec import HttpRouting

_ASK = "Ask `migrate doctor` about it."
_WAIT_SECONDS, _WAIT_MAX_SECONDS = 0.2, 5.0


class _AgainError(UnreachableError):
    """Worth another try."""


class HttpHook:
    """A Transport to a hook. `now` is the time that a signature shows, seconds since 1970."""

    def __init__(
        self,
        asked: HttpRouting,
        key: bytes,
        *,
        now: Callable[[], float] = time.time,
        wait_seconds: float = _WAIT_SECONDS,
    ) -> None:
        parts = urlsplit(asked.url)
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path or "/"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.name = f"the hook at {parts.netloc}"
        self._asked, self._key, self._now, self._wait_seconds = asked, key, now, wait_seconds

    def ask(self, question: bytes, *, changes: bool, seconds: float) -> bytes | None:
        for attempt in stamina.retry_context(
            on=_AgainError,
            attempts=self._asked.attempts,
            timeout=None,
            wait_initial=self._wait_seconds,
            wait_max=_WAIT_MAX_SECONDS,
            wait_jitter=self._wait_seconds,
        ):
            with attempt:
                status, answer = self._post(question, changes, self._asked.timeout_seconds + seconds)
                return self._judge(status, answer)
        raise AssertionError("stamina ends with a result or an error")

    def _judge(self, status: int, answer: bytes) -> bytes | None:
        if status == 200 and len(answer) <= ANSWER_BYTES:
            return answer
        if status == 409:
            return None
        if status in (401, 403):
            fix = "See that it has the same key as routing.http.key, and that the clocks of both machines are right."
            raise RefusedError(f"{self.name} does not accept our signature ({status})", remedy=fix)
        if 300 <= status < 400:
            raise RefusedError(
                f"{self.name} is elsewhere ({status})", remedy="Redirects are never followed: mend its url."
            )
        kind = _AgainError if status in (408, 429) or status >= 500 else UnreachableError
        raise kind(f"{self.name} answers {status}, with {len(answer)} bytes at least", remedy=_ASK)

    def _post(self, body: bytes, changes: bool, seconds: float) -> tuple[int, bytes]:
        """Status and body of one answer, had within `seconds`. _AgainError where there was none."""
        is_cut = threading.Event()
        connection: http.client.HTTPConnection
        if self._tls is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        else:
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=seconds, context=self._tls)

        def cut() -> None:
            is_cut.set()
            with suppress(OSError, AttributeError):  # it may not be open yet, or any more
                connection.sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            connection.connect()
            if is_cut.is_set():  # there was nothing to cut off yet; each step of connecting has an end of its own
                raise TimeoutError
            connection.request("POST", self._path, body, self._headers(body, changes))
            response = connection.getresponse()
            answer = response.read(ANSWER_BYTES + 1)
        except (http.client.HTTPException, OSError) as error:
            raise _AgainError(
                f"{self.name} gave no answer: {'time is up' if is_cut.is_set() else type(error).__name__}", remedy=_ASK
            ) from None  # http.client repeats what it has read
        finally:
            timer.cancel()
            connection.close()
        if is_cut.is_set() or (response.length and len(answer) <= ANSWER_BYTES):
            raise _AgainError(f"{self.name} gave half an answer", remedy=_ASK)
        return response.status, answer

    def _headers(self, body: bytes, changes: bool) -> Mapping[str, str]:
        timestamp = str(int(self._now()))
        headers = {
            "Content-Type": "application/json",
            "Migrate-Timestamp": timestamp,
            "Migrate-Signature": f"v1={sign(self._key, self._path, timestamp, body)}",
        }
        return headers | ({"Idempotency-Key": hashlib.sha256(body).hexdigest()} if changes else {})


def sign(key: bytes, path: str, timestamp: str, body: bytes) -> str:
    """The signature of a POST, in hex."""
    return hmac.new(key, b"\n".join((b"POST", path.encode(), timestamp.encode(), body)), hashlib.sha256).hexdigest()
