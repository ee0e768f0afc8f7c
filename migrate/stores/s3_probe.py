"""What `migrate doctor` asks of an S3 server beyond what a store does: its region, its clock, its settings, its strictness."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from migrate.errors import NotFoundError, PermanentStoreError, StoreError
from migrate.model import Attributes
from migrate.regions import region_of_location
from migrate.stores.base import PutResult
from migrate.stores.probe_checks import Encrypted, Refusals, StoreDetails, is_absent
from migrate.stores.s3 import S3Store
from migrate.stores.s3_headers import ENCRYPTION, ENCRYPTION_KEY, is_same_key, parse_http_date

_BODY = b"written by migrate doctor with a wrong checksum"
_OTHER = b"other bytes"


class S3Questions:
    """Questions for one S3Store, sent by its own client. The contract stands in `probe_checks.Questions`."""

    def __init__(self, store: S3Store, *, is_aws: bool) -> None:
        self._store = store
        self._is_aws = is_aws
        self._client = store._client  # a friend: no store offers raw requests to others, or its short way

    def details(self, clock: Callable[[], datetime]) -> StoreDetails:
        """Raises StoreError only where the server cannot be reached: what we may not ask is None."""
        location = self._ask("location", rb"<LocationConstraint[^>]*?(?:/>|>([^<]*)<)")
        versioning = self._ask("versioning", rb"<Status>([^<]*)<")
        lock = self._ask("object-lock", rb"<ObjectLockEnabled>([^<]*)<")
        return StoreDetails(
            region=region_of_location(location) if location is not None and self._is_aws else location or None,
            is_aws=self._is_aws,
            clock_skew_seconds=self._skew(clock),
            versioning=None if versioning is None else versioning == "Enabled",
            object_lock=None if lock is None else lock == "Enabled",
        )

    def refusals(self, key: str) -> Refusals:
        return Refusals(
            md5=self._is_refused(f"{key}-md5", {"content-md5": _digest("md5")}),
            sha256=self._is_refused(
                f"{key}-sha256",
                {"x-amz-checksum-sha256": _digest("sha256"), "x-amz-sdk-checksum-algorithm": b"SHA256"},
            ),
        )

    def put_small(
        self, key: str, body: bytes, attributes: Attributes, *, create_only: bool = False
    ) -> PutResult | None:
        if self._store._kms_key is not None:
            return None
        return self._store._fast.put(key, body, attributes=attributes, create_only=create_only)

    def put_encrypted(self, key: str, body: bytes) -> Encrypted | None:
        if self._store._kms_key is None:
            return None
        headers = {**self._store._headers("put", key, Attributes()), "content-md5": _digest("md5", body)}
        answer, _ = self._client.call("put", "PUT", key, (), headers, body)
        return Encrypted(answer.get(ENCRYPTION), is_same_key(answer.get(ENCRYPTION_KEY), self._store._kms_key))

    def _ask(self, setting: str, pattern: bytes) -> str | None:
        """A bucket's setting: the text that `pattern` finds, "" where it finds none or the server has none, None if unknown."""
        try:
            _, content = self._client.call(f"get {setting}", "GET", None, [(setting, "")])
        except NotFoundError:
            return ""
        except PermanentStoreError:
            return None
        match = re.search(pattern, content)
        return (match[1] or b"").decode(errors="replace").strip() if match else ""

    def _skew(self, clock: Callable[[], datetime]) -> float | None:
        before = clock()
        headers, _ = self._client.call("list", "GET", None, [("list-type", "2"), ("max-keys", "1")])
        with suppress(KeyError, ValueError):
            # the header has whole seconds, cut off: on average it is half a second behind
            middle = before + (clock() - before) / 2
            return (middle - parse_http_date(headers["date"])).total_seconds() - 0.5
        return None

    def _is_refused(self, key: str, headers: dict[str, bytes]) -> bool:
        with suppress(StoreError):  # whether it was refused, the look afterwards says
            self._client.call("put", "PUT", key, (), headers, _BODY)
        return is_absent(self._store, key)


def _digest(algorithm: str, body: bytes = _OTHER) -> bytes:
    return base64.b64encode(hashlib.new(algorithm, body, usedforsecurity=False).digest())
