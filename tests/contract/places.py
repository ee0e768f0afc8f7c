"""The stores that the contract suite is run on: how each is made, and what its server is known to do.

A new implementation is one more function in PLACES: it gets the test's request and gives a `Place`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from servers import S3Server

from migrate.stores.base import Capabilities, Store
from migrate.stores.file import FileStore
from migrate.stores.memory import MemoryPlace, MemoryStore
from migrate.stores.s3 import S3Store
from migrate.stores.s3_sign import S3Credentials

EVERYTHING = Capabilities(
    conditional_put=True,
    refuses_wrong_md5=True,
    etag_is_md5=True,
    tags=True,
    metadata=True,
    versions=True,
    multipart=True,
    empty_segments=True,
    trailing_slashes=True,
    dot_segments=True,
    line_breaks=True,
    control_characters=True,
    object_lock=True,
    small_put=True,
)
# moto's routes are regular expressions whose `.` stops at a line feed
MOTO = replace(EVERYTHING, refuses_wrong_md5=False, line_breaks=False)
RCLONE = Capabilities(
    refuses_wrong_md5=True, etag_is_md5=True, multipart=True, line_breaks=True, control_characters=True, small_put=True
)


@dataclass(frozen=True, slots=True)
class Place:
    """One empty store, to be written; and the same place opened to be read."""

    store: Store
    reading: Store
    clearing: Store
    """Opened so that things may be deleted, and nothing written."""


def s3_store(
    server: S3Server,
    bucket: str,
    prefix: str,
    capabilities: Capabilities,
    *,
    writable: bool = True,
    deletable: bool = False,
    timeout: float = 30,
    kms_key: str | None = None,
) -> S3Store:
    """The product's store on a server of the tests."""
    return S3Store(
        "place",
        bucket,
        prefix,
        endpoint=server.endpoint,
        region=server.region,
        credentials=S3Credentials(server.access_key, server.secret_key),
        capabilities=capabilities,
        writable=writable,
        deletable=deletable,
        timeout=timeout,
        kms_key=kms_key,
        concurrency=8,
    )


_RIGHTS = ((True, False), (False, False), (False, True))  # writable, deletable: as a Place has them


def new_bucket(server: S3Server) -> str:
    bucket = f"b-{uuid.uuid4().hex[:20]}"
    server.boto3().create_bucket(Bucket=bucket)  # type: ignore[attr-defined]
    return bucket


def _on_server(fixture: str, capabilities: Capabilities) -> Callable[[pytest.FixtureRequest], Place]:
    def make(request: pytest.FixtureRequest) -> Place:
        server: S3Server = request.getfixturevalue(fixture)
        bucket = new_bucket(server)
        stores = [
            s3_store(server, bucket, "some/prefix/", capabilities, writable=writable, deletable=deletable)
            for writable, deletable in _RIGHTS
        ]
        for store in stores:
            request.addfinalizer(store.close)
        return Place(*stores)

    return make


def _memory(request: pytest.FixtureRequest) -> Place:
    place = MemoryPlace()
    return Place(
        *(MemoryStore("place", place, writable=writable, deletable=deletable) for writable, deletable in _RIGHTS)
    )


def _file(request: pytest.FixtureRequest) -> Place:
    root = request.getfixturevalue("tmp_path") / "store"
    root.mkdir()
    stores = [FileStore("place", root, writable=writable, deletable=deletable) for writable, deletable in _RIGHTS]
    for store in stores:
        request.addfinalizer(store.close)
    return Place(*stores)


PLACES: dict[str, Callable[[pytest.FixtureRequest], Place]] = {
    "memory": _memory,
    "file": _file,
    "s3-moto": _on_server("moto_server", MOTO),
    "s3-rclone": _on_server("rclone_server", RCLONE),
    "s3-rgw": _on_server("rgw_server", EVERYTHING),
}
