"""A platform that keeps routes, for the tests of routing: its rules, with a clock of its own, a hook, and a command.

As a program, `python routes.py STATE` answers one question on stdin from the state in that file. It imports nothing but the
standard library, so that it starts quickly.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BEGIN = 1_800_000_000.0  # the platform's clock at first: another time than everybody else's
LOOK_SECONDS = 0.05
SKEW_SECONDS = 300


@dataclass
class Platform:
    """Routes by user, as the contract wants them. `broken` names one way in which they are not."""

    now: float = BEGIN
    routes: dict[str, dict[str, Any]] = field(default_factory=dict)
    leaves_after: int | None = None  # at which look of a waiting freeze the writers have ended
    waited: float = 0.0  # how long the last freeze waited
    seen: dict[str, bool] = field(default_factory=dict)  # by idempotency key: whether it was accepted
    broken: str = ""

    def answer(self, question: dict[str, Any], key: str | None = None) -> dict[str, Any] | None:
        """The route after the verb; None where it is refused. A key that was seen changes nothing again."""
        row = self.row(question["user"])
        if key is None or key not in self.seen:
            accepted = getattr(self, f"_{question['verb']}")(row, question)
            if key is not None:
                self.seen[key] = accepted
        else:
            accepted = self.seen[key]
        return self._shown(row) if accepted else None

    def row(self, user: str) -> dict[str, Any]:
        if self.broken == "folds ids":
            user = user.strip().casefold()
        return self.routes.setdefault(user, {"home": "us", "token": None, "until": 0.0, "writers": 0})

    def holds(self, row: dict[str, Any], token: str) -> bool:
        return self.is_frozen(row) and (row["token"] == token or self.broken == "any token")

    def is_frozen(self, row: dict[str, Any]) -> bool:
        return bool(row["token"] and (row["until"] > self.now or self.broken == "never ends"))

    def begin_write(self, user: str) -> str | None:
        """The home to write at; None while the user is frozen."""
        row = self.row(user)
        if self.is_frozen(row) and self.broken != "writers do not ask":
            return None
        row["writers"] += 1
        return str(row["home"])

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        if not self.is_frozen(row):
            return {"home": row["home"], "frozen_by": None, "frozen_until": None}
        until = datetime.fromtimestamp(row["until"], UTC).isoformat()
        return {"home": row["home"], "frozen_by": row["token"], "frozen_until": until}

    def _read(self, row: dict[str, Any], question: dict[str, Any]) -> bool:
        return True

    def _freeze(self, row: dict[str, Any], question: dict[str, Any]) -> bool:
        token = question["token"]
        is_new = row["token"] != token or self.broken in ("renews", "revives")
        is_free = not self.is_frozen(row) or self.broken in ("steals", "lets all in")
        is_free = is_free or (row["token"] == token and self.broken == "renews")
        if is_new and is_free:
            row |= {"token": token, "until": self.now + question["ttl_seconds"]}
        elif not self.holds(row, token):
            return bool(row["token"] == token)  # used up: accepted, and the route says that nothing holds
        self._drain(row, question["drain_seconds"] * (10 if self.broken == "waits too long" else 1))
        return True

    def _drain(self, row: dict[str, Any], seconds: float) -> None:
        self.waited, looks = 0.0, 0
        while row["writers"] and self.waited < seconds and self.broken != "does not wait":
            self.waited += LOOK_SECONDS
            looks += 1
            if looks == self.leaves_after:
                row["writers"] = 0

    def _flip(self, row: dict[str, Any], question: dict[str, Any]) -> bool:
        if self.broken == "flips nothing":
            return True
        if not self.holds(row, question["token"]) and self.broken != "flips without a freeze":
            return bool(row["token"] == question["token"] and row["home"] == question["home"])
        row["home"] = question["home"]
        return True

    def _unfreeze(self, row: dict[str, Any], question: dict[str, Any]) -> bool:
        if self.holds(row, question["token"]) or self.broken == "unfreezes anybody's":
            row["until"] = 0.0 if self.broken != "stays frozen" else row["until"]
        return True


@dataclass
class Hook:
    """The platform behind HTTP. `faults` holds, for the requests to come, what goes wrong with each; then nothing does."""

    key: bytes
    now: Callable[[], float] = time.time
    platform: Platform = field(default_factory=Platform)
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str | None, dict[str, Any]]] = field(
        default_factory=list
    )  # key and question of what was let in
    arrived: int = 0
    is_over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    @contextmanager
    def held(self) -> Iterator[Platform]:
        """The platform, with no request at it."""
        with self.lock:
            yield self.platform

    def is_signed(self, path: str, headers: Any, body: bytes) -> bool:
        """Whether we know the key, and the request is of now."""
        stamp = headers.get("Migrate-Timestamp", "")
        if not stamp.isdigit() or abs(int(stamp) - self.now()) > SKEW_SECONDS:
            return False
        message = f"POST\n{path}\n{stamp}\n".encode() + body
        wanted = f"v1={hmac.new(self.key, message, hashlib.sha256).hexdigest()}"
        return hmac.compare_digest(wanted, headers.get("Migrate-Signature", ""))

    def respond(self, path: str, headers: Any, body: bytes, fault: str) -> tuple[int, bytes]:
        if not self.is_signed(path, headers, body):
            return 401, b""
        key, question = headers.get("Idempotency-Key"), json.loads(body)
        self.requests.append((key, question))
        if fault.isdigit():
            return int(fault), question["user"].encode()
        route = self.platform.answer(question, key)
        if fault == "twice":  # a network that delivers the request again
            route = self.platform.answer(question, key)
        return (409, b"") if route is None else (200, json.dumps(route).encode())

    @contextmanager
    def served(self, certificate: Path | None = None) -> Iterator[Hook]:
        """Listen on a port of its own until the end of the block; with a certificate by TLS."""
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with hook.lock:
                    hook.arrived += 1
                    fault = hook.faults.pop(0) if hook.faults else ""
                    status, answer = hook.respond(self.path, self.headers, body, fault)
                if fault == "lost":
                    self.close_connection = True
                    return
                if fault == "silent":
                    hook.is_over.wait(30)
                    return
                if fault == "drips":
                    while not hook.is_over.wait(0.02):
                        try:
                            self.wfile.write(b"H")
                        except OSError:
                            return
                    return
                if fault == "no json":
                    answer = b"yes " + body
                self.send_response(302 if fault == "elsewhere" else status)
                if fault == "elsewhere":
                    self.send_header("Location", f"{hook.url}/elsewhere")
                self.send_header("Content-Length", str(len(answer) + (9 if fault == "half" else 0)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *words: object) -> None:
                """Nothing: the path of a request is no news."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/routes"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.is_over.set()
            server.shutdown()
            server.server_close()
            thread.join()


@contextmanager
def kept(path: Path) -> Iterator[Platform]:
    """The platform whose state is the file at `path`, with nobody else at it."""
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        platform = Platform(**json.load(file))
        yield platform
        file.seek(0)
        file.truncate()
        json.dump(asdict(platform), file)


def main() -> int:
    """Answer one question: 0 with the route, 75 where it is refused."""
    question = json.load(sys.stdin)
    with kept(Path(sys.argv[1])) as platform:
        route = platform.answer(question)
    if route is None:
        return 75
    json.dump(route, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
