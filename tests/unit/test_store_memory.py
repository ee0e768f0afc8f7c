"""What is special about the store in memory: hooks, versions, and servers that can do less."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PermanentStoreError,
    PreconditionError,
    TransientStoreError,
    UnreadableError,
    UnsupportedError,
)
from migrate.model import Attributes, ObjectInfo
from migrate.stores.base import PartInfo
from migrate.stores.memory import ALL_CAPABILITIES, MemoryPlace, MemoryStore, forget_places, place


@pytest.fixture(autouse=True)
def _clean_places() -> Iterator[None]:
    yield
    forget_places()


def put(store: MemoryStore, key: str, body: bytes = b"x", **options: Any) -> str:
    options = {"attributes": Attributes(), "tags": {}, "md5": hashlib.md5(body).digest(), **options}
    return store.put(key, body, **options).etag


def versions(store: MemoryStore) -> list[ObjectInfo]:
    return [info for page in store.list_versions() for info in page]


def test_a_place_is_found_by_its_name() -> None:
    """Two openings of one name see the same data; another test sees none of it."""
    put(MemoryStore("one", place("p")), "k")
    assert MemoryStore("other", place("p")).head("k").size == 1
    forget_places()
    with pytest.raises(NotFoundError):
        MemoryStore("one", place("p")).head("k")


def test_a_fault_comes_before_the_effect() -> None:
    """And a hook that lets others pass breaks only what it means."""
    memory = MemoryPlace()
    store = MemoryStore("m", memory)

    def fault(operation: str, key: str) -> None:
        if (operation, key) == ("put", "bad"):
            raise TransientStoreError("m", operation, key=key)

    memory.fault = fault
    put(store, "good")
    with pytest.raises(TransientStoreError):
        put(store, "bad")
    assert [info.key for page in store.list() for info in page] == ["good"]


def test_a_lost_response_has_its_effect() -> None:
    """What `after` raises comes too late to stop anything."""
    memory = MemoryPlace()
    store = MemoryStore("m", memory)

    def lose(operation: str, key: str) -> None:
        if operation == "put":
            raise TransientStoreError("m", operation, "the answer was lost", key=key)

    memory.after = lose
    with pytest.raises(TransientStoreError):
        put(store, "k")
    assert store.head("k").size == 1


def test_a_body_can_break_off() -> None:
    """The hook is asked for each piece that is read."""
    memory = MemoryPlace()
    store = MemoryStore("m", memory)
    put(store, "k", b"abcdef")
    reads = []

    def fault(operation: str, key: str) -> None:
        if operation == "read":
            reads.append(key)
            if len(reads) == 3:
                raise CorruptBodyError("m", operation, key=key)

    memory.fault = fault
    got = []
    with pytest.raises(CorruptBodyError), store.get("k") as download:
        got.extend(download.chunks(2))
    assert reads == ["k"] * 3


def test_every_request_passes_the_hook() -> None:
    """A recorder sees all that is sent: what shows that sources are only read."""
    memory = MemoryPlace()
    store = MemoryStore("m", memory)
    asked: list[str] = []
    memory.fault = lambda operation, key: asked.append(operation)
    put(store, "k")
    store.put_tags("k", {})
    store.get_tags("k")
    store.head("k")
    store.get("k").read()
    upload = store.create_upload("u", attributes=Attributes())
    etag = store.put_part("u", upload, 1, b"x", md5=hashlib.md5(b"x").digest())
    store.list_parts("u", upload)
    store.list_uploads()
    store.complete_upload("u", upload, [PartInfo(1, etag, 1)], tags={})
    store.abort_upload("u", upload)
    list(store.list())
    list(store.list_versions())
    store.delete("k")
    assert asked == [
        "put", "put_tags", "get_tags", "head", "get", "read", "create_upload", "put_part", "list_parts", "list_uploads",
        "complete_upload", "abort_upload", "list", "list_versions", "delete",
    ]  # fmt: skip


def test_versions_stay() -> None:
    """Overwritten and deleted objects are noncurrent versions; a version can be read and deleted by its id."""
    store = MemoryStore("m", MemoryPlace(versioned=True))
    first, second = (
        store.put("k", body, attributes=Attributes(), tags={}, md5=hashlib.md5(body).digest()) for body in (b"1", b"2")
    )
    store.delete("k")
    with pytest.raises(NotFoundError):
        store.head("k")
    assert [page for page in store.list() if page] == []
    found = versions(store)
    assert [info.is_delete_marker for info in found] == [True, False, False]
    assert [info.is_latest for info in found] == [True, False, False]
    assert store.get("k", version_id=first.version_id).read() == b"1"
    store.delete("k", version_id=found[0].version_id)
    assert store.get("k").read() == b"2"
    store.delete("k", version_id=second.version_id)
    store.delete("k", version_id=first.version_id)
    assert versions(store) == []


def test_seeded_objects_look_like_anything() -> None:
    """Archived, under a customer's key, locked, of any ETag: what planning must find."""
    memory = MemoryPlace()
    store = MemoryStore("m", memory)
    memory.seed("cold", b"x", storage_class="GLACIER")
    memory.seed("theirs", b"x", encryption="SSE-C")
    memory.seed("held", b"x", etag="abc-2", lock="legal-hold", tags={"a": "b"})
    for key in ("cold", "theirs"):
        with pytest.raises(UnreadableError):
            store.get(key)
    info = store.head("held")
    assert (info.etag, info.lock, info.tag_count) == ("abc-2", "legal-hold", 1)
    [page] = store.list()
    assert [(info.storage_class, info.lock, info.tag_count) for info in page] == [
        ("GLACIER", None, 0),
        ("STANDARD", None, 0),
        ("STANDARD", None, 0),
    ]


def test_a_server_that_can_do_less_does_less() -> None:
    """It overwrites, drops metadata and takes wrong bytes, as real ones do: whatever those who open it believe."""
    able = replace(
        ALL_CAPABILITIES,
        conditional_put=False,
        refuses_wrong_md5=False,
        etag_is_md5=False,
        tags=False,
        metadata=False,
        versions=False,
        multipart=False,
        empty_segments=False,
    )
    store = MemoryStore("m", MemoryPlace(able=able))
    put(store, "k", b"1", attributes=Attributes(metadata=(("a", "b"),)))
    put(store, "k", b"2", create_only=True)
    info = store.head("k")
    assert (info.attributes.metadata, info.etag_md5) == ((), None)
    with pytest.raises(CorruptBodyError):
        put(store, "k", b"3", md5=bytes(16))
    assert store.get("k").read() == b"3"
    for ask in (
        lambda: put(store, "a//b"),
        lambda: put(store, "t", tags={"a": "b"}),
        lambda: store.get_tags("k"),
        lambda: versions(store),
        lambda: store.create_upload("u", attributes=Attributes()),
    ):
        with pytest.raises(UnsupportedError):
            ask()


def test_conditions_and_parts_that_do_not_hold() -> None:
    """The twins of what the contract lets pass."""
    store = MemoryStore("m", MemoryPlace())
    with pytest.raises(PreconditionError):
        put(store, "none", if_match="e")
    upload = store.create_upload("u", attributes=Attributes())
    for parts in ([], [PartInfo(1, "e", 1)]):
        with pytest.raises(PermanentStoreError):
            store.complete_upload("u", upload, parts, tags={})
    put(store, "k", b"ab")
    with pytest.raises(PermanentStoreError):
        store.get("k", start=2)
