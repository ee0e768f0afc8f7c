"""An HTTP forwarder that writes down what passes: to show which requests a command sends. It can be stricter than its server.

Requests and answers go through untouched, Host and Authorization included, so that signatures hold.
"""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from urllib.parse import urlsplit

_BLOCK_BYTES = 256 * 1024
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"})

_KMS_KEY = "x-amz-server-side-encryption-aws-kms-key-id"


@dataclass(frozen=True, slots=True)
class Seen:
    """One request. `target` is path and query as they were sent."""

    method: str
    target: str
    headers: dict[str, str]
    status: int


class RecordingProxy:
    """Forwards to `upstream` (`http://HOST:PORT`) and keeps a list of what it forwarded, in `seen`.

    `wants_md5`: a PUT of an object without Content-MD5 is refused, as S3 does where a bucket gives each a retention period.
    `shows_kms_key`: what an answer shows instead of the KMS key that an object is under.
    From when `redirect` is set, status and endpoint, every request is told to go there instead, to a bucket in another region.
    """

    def __init__(
        self,
        upstream: str,
        kind: type[ForwardHandler] | None = None,
        *,
        wants_md5: bool = False,
        shows_kms_key: str | None = None,
    ) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.wants_md5 = wants_md5
        self.shows_kms_key = shows_kms_key
        self.redirect: tuple[int, str] | None = None
        self.seen: list[Seen] = []
        handler = type("Handler", (kind or ForwardHandler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def methods(self) -> set[str]:
        return {request.method for request in self.seen}

    def note(self, request: BaseHTTPRequestHandler, status: int) -> None:
        """Write down a request and how it was answered."""
        self.seen.append(Seen(request.command, request.path, dict(request.headers.items()), status))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def recording(upstream: str, *, wants_md5: bool = False, shows_kms_key: str | None = None) -> Iterator[RecordingProxy]:
    """A proxy before `upstream` for the block."""
    proxy = RecordingProxy(upstream, wants_md5=wants_md5, shows_kms_key=shows_kms_key)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()


class ForwardHandler(BaseHTTPRequestHandler):
    """Forwards one request after the other of a connection."""

    owner: RecordingProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nothing on stderr."""

    def handle_any(self) -> None:
        if self.owner.wants_md5 and self.command == "PUT" and "content-md5" not in self.headers:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self._refuse(b"<Error><Code>InvalidRequest</Code><Message>Content-MD5 is required</Message></Error>")
            return
        if self.owner.redirect is not None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            status, there = self.owner.redirect
            self._refuse(b"", status, {"Location": there + self.path, "x-amz-bucket-region": "ap-southeast-1"})
            return
        connection = http.client.HTTPConnection(self.owner.upstream, timeout=60)
        with contextlib.closing(connection):
            self.send_head(connection)
            self._send_body(connection)
            answer = connection.getresponse()
            self.owner.note(self, answer.status)
            self._send_answer(answer)

    def send_head(self, connection: http.client.HTTPConnection) -> None:
        """Forward the request's line and headers as they are."""
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders()

    @staticmethod
    def kept_headers(headers: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Those of an answer that are not about one connection."""
        return ((name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP)

    def _refuse(self, document: bytes, status: int = 400, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.owner.note(self, status)
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(document)))
        self.end_headers()
        self.wfile.write(document)

    def _send_body(self, connection: http.client.HTTPConnection) -> None:
        left = int(self.headers.get("content-length") or 0)
        while left:
            block = self.rfile.read(min(left, _BLOCK_BYTES))
            if not block:
                return
            connection.send(block)
            left -= len(block)

    def _send_answer(self, answer: http.client.HTTPResponse) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in self.kept_headers(answer.getheaders()):
            self.send_header(name, self._shown(name.lower(), value))
        bodiless = self.command == "HEAD" or answer.status in (204, 304)
        if answer.length is None and not bodiless:
            body = answer.read()
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.end_headers()
        while not bodiless and (block := answer.read(_BLOCK_BYTES)):
            self.wfile.write(block)

    def _shown(self, name: str, value: str) -> str:
        return (self.owner.shows_kms_key or value) if name == _KMS_KEY else value

    def _any(self) -> None:
        self.handle_any()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815
