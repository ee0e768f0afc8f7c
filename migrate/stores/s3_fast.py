"""Small plain objects, written by obstore: less than half of the CPU time of a request that Python puts together.

obstore cleans keys, knows no `Expires`, no redirect and no raw bytes in a header; `fits` says what it writes faithfully, and a
property test holds it to that. Its time limit belongs to a client, not to a request, and so do its retries: hence small
bodies alone, and no retries.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store as Obstore

from migrate.errors import ExpiredError, StoreError, TransientStoreError
from migrate.model import Attributes, Tags
from migrate.stores.base import Body, PutResult
from migrate.stores.http1 import CONNECT_SECONDS
from migrate.stores.keys import is_odd
from migrate.stores.s3_endpoint import own_certificates
from migrate.stores.s3_errors import error_of
from migrate.stores.s3_http import MIN_BYTES_A_SECOND
from migrate.stores.s3_sign import CredentialSource

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # not there at run time

MAX_BYTES = 2**20
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})\b")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_NAMES = {
    "content_type": "Content-Type",
    "content_encoding": "Content-Encoding",
    "content_language": "Content-Language",
    "content_disposition": "Content-Disposition",
    "cache_control": "Cache-Control",
}
_TAKEN = ("content", "cache", "storage", "expires", "website", "metadata", "tag")
# obstore asks again when less than five minutes are left; so credentials are asked for once a minute.
_CREDENTIALS_LAST = timedelta(minutes=6)


def fits(key: str, body: Body, attributes: Attributes, tags: Tags) -> bool:
    """True for what obstore writes under exactly this key, with exactly these attributes and tags.

    Never with tags: obstore sends a blank in a tag as `+`, and Ceph keeps that.
    """
    if len(body) > MAX_BYTES or is_odd(key) or tags:
        return False
    if attributes.expires is not None or attributes.website_redirect is not None:
        return False
    if any(_is_taken(name) for name, _ in attributes.metadata):
        return False
    return all(_plain(value) for value in (*_texts(attributes), *(value for _, value in attributes.metadata)))


def _is_taken(name: str) -> bool:
    """Whether obstore would read a metadata name as a header of its own, as it does in any spelling: `content-type`,
    `contenttype`, `storage_class`."""
    return re.sub(r"[^a-z]", "", name.lower()).startswith(_TAKEN)


def _texts(attributes: Attributes) -> list[str]:
    return [text for name in _NAMES if (text := getattr(attributes, name)) is not None]


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip() and "  " not in text


@contextmanager
def _without_environment() -> Iterator[None]:
    """Hide from obstore what would lead it elsewhere: it reads AWS_* and *_PROXY from the environment when it is built, and lets
    them go before what it is told. Another endpoint, a proxy or another key there would pass the door by (invariant 7).
    """
    with _environment:
        hidden = {name: os.environ.pop(name) for name in list(os.environ) if _leads_elsewhere(name)}
        try:
            yield
        finally:
            os.environ.update(hidden)


def _leads_elsewhere(name: str) -> bool:
    upper = name.upper()
    return upper.startswith("AWS_") or upper.endswith("_PROXY")


_environment = threading.Lock()


class FastWriter:
    """One obstore client, built at the first write. For any number of threads."""

    def __init__(
        self,
        name: str,
        bucket: str,
        prefix: str,
        base: SplitResult,
        *,
        region: str,
        credentials: CredentialSource,
        timeout_s: float,
        pool: int,
    ) -> None:
        self._name = name
        self._bucket = bucket
        self._prefix = prefix
        self._base = base
        self._region = region
        self._credentials = credentials
        self._limit = timedelta(seconds=timeout_s + MAX_BYTES / MIN_BYTES_A_SECOND)
        self._pool = pool
        self._store: Obstore | None = None
        self._lock = threading.Lock()

    def put(self, key: str, body: Body, *, attributes: Attributes, create_only: bool) -> PutResult:
        """One PUT. The ETag is the caller's to confirm."""
        sent: dict[str, str] = {
            name: text for field, name in _NAMES.items() if (text := getattr(attributes, field)) is not None
        }
        sent.update(attributes.metadata)
        try:
            result = obstore.put(
                self._client(),
                self._prefix + key,
                body,
                attributes=sent or None,
                mode="create" if create_only else "overwrite",
                use_multipart=False,
            )
        except (BaseError, OSError) as error:
            refusal = self._error(key, error)
            if isinstance(refusal, ExpiredError):
                self._store = None  # it keeps credentials for a minute: the next one asks for them
            raise refusal from None
        return PutResult((result["e_tag"] or "").strip('"'), result["version"])

    def close(self) -> None:
        self._store = None

    def _client(self) -> Obstore:
        store = self._store
        if store is None:
            with self._lock:
                store = self._store = self._store or self._build()
        return store

    def _build(self) -> Obstore:
        path_style = self._base.path.rstrip("/") != ""
        host = f"{self._base.scheme}://{self._base.netloc}"
        options: ClientConfig = {
            "allow_http": self._base.scheme == "http",
            "connect_timeout": timedelta(seconds=min(CONNECT_SECONDS, self._limit.total_seconds())),
            "timeout": self._limit,
            "pool_max_idle_per_host": str(self._pool),
        }
        own = own_certificates()
        if own is not None:
            options["root_certificate"] = Path(own).read_bytes()
        with _without_environment():
            return self._obstore(host, options, path_style=path_style)

    def _obstore(self, host: str, options: ClientConfig, *, path_style: bool) -> Obstore:
        return Obstore(
            self._bucket,
            endpoint=host,
            region=self._region,
            virtual_hosted_style_request=not path_style,
            credential_provider=self._credential,
            unsigned_payload=self._base.scheme == "https",
            client_options=options,
            retry_config={"max_retries": 0, "retry_timeout": self._limit},
        )

    def _credential(self) -> Any:
        now = self._credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + _CREDENTIALS_LAST,
        }

    def _error(self, key: str, error: Exception) -> StoreError:
        """What obstore's text means. It tells the status and the error's code there and nowhere else."""
        text = str(error).replace(self._prefix + key, "")
        status, code = _STATUS.search(text), _CODE.search(text)
        if status is None and "Received redirect" in text:
            return error_of(self._name, "put", key, 301, {}, b"")
        if status is None:
            return TransientStoreError(self._name, "put", "no answer, or not in time", key=key)
        document = f"<Error><Code>{code[1]}</Code></Error>".encode() if code is not None else b""
        return error_of(self._name, "put", key, int(status[1]), {}, document)
