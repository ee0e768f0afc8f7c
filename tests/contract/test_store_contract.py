"""The contract of a store (migrate/stores/base.py), for every implementation and every server that is at hand.

What a server cannot do is not left out: the store must say so with UnsupportedError, before it has sent anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from odd_keys import ODD_KEYS, PLAIN_KEYS
from places import Place

from migrate.errors import (
    CorruptBodyError,
    NotFoundError,
    PreconditionError,
    RefusedError,
    StoreError,
    UnsupportedError,
)
from migrate.model import Attributes, Tags
from migrate.stores.base import MULTIPART_MIN_BYTES, PartInfo, PutResult, Store

NO_TAGS: Tags = {}
PLAIN = Attributes(content_type="text/plain")
HEADERS = Attributes(
    content_type='text/plain; charset="utf-8"',
    content_encoding="gzip",
    content_language="de, en",
    content_disposition='attachment; filename="a  b.txt"',
    cache_control="private, max-age=60",
    expires="Thu, 01 Dec 2033 16:00:00 GMT",
)
METADATA = Attributes(content_type="image/png", metadata=(("camera", "a, b;  c=d"), ("empty", ""), ("x-y.1", "=?x?=")))
TAGS = {"purpose": "profile photo", "a+b": "c=d/e:é @", "empty": ""}


def md5(body: bytes) -> bytes:
    return hashlib.md5(body, usedforsecurity=False).digest()


def put(store: Store, key: str, body: bytes, attributes: Attributes = PLAIN, tags: Tags = NO_TAGS) -> PutResult:
    return store.put(key, body, attributes=attributes, tags=tags, md5=md5(body))


def get(store: Store, key: str) -> bytes:
    with store.get(key) as download:
        return download.read()


def listed(store: Store, prefix: str = "", start_after: str = "") -> list[str]:
    return [info.key for page in store.list(prefix, start_after=start_after) for info in page]


ROOM = 1024 - len("some/prefix/")
FITTING = [key for key in ODD_KEYS if len(key.encode()) <= ROOM] + ["k" * ROOM, "é" * (ROOM // 2)]


def kept_keys(place: Place) -> list[str]:
    """The keys that the place can hold, its prefix included."""
    able = place.store.capabilities
    if not able.dot_segments:  # it takes keys for paths: `a` and `a/b` are not both to be had, nor are long names
        return [*PLAIN_KEYS, *(key for key in ("new\nline", "tab\tstop") if able.takes_key(key))]
    return [key for key in FITTING if able.takes_key(f"some/prefix/{key}")]


# keys


def test_every_key_arrives_under_its_own_name(place: Place) -> None:
    """Invariant 1: what is written is listed, headed and read under the same bytes, and no other."""
    store, keys = place.store, kept_keys(place)
    for key in keys:
        put(store, key, key.encode())
    assert listed(store) == sorted(keys, key=str.encode)
    for key in keys:
        assert get(store, key) == key.encode()
        assert store.head(key).key == key
        assert store.head(key).size == len(key.encode())


def test_keys_are_deleted_one_by_one(place: Place) -> None:
    """Deleting `a//b` leaves `a/b`, and so on: nothing goes but the key that was named."""
    store, keys = place.store, kept_keys(place)
    for key in keys:
        put(store, key, b"x")
    for gone, key in enumerate(keys, 1):
        store.delete(key)
        assert listed(store) == sorted(keys[gone:], key=str.encode)


@pytest.mark.parametrize("key", ["a//b", "/lead", "trail/", "a/../b", "..", "tab\tstop", "\uffff"])
def test_an_odd_key_is_refused_where_the_store_bends_it(store: Store, key: str) -> None:
    """Without the capability the key raises, and nothing arrives under another name."""
    if store.capabilities.takes_key(key):
        put(store, key, b"x")
        assert listed(store) == [key]
        return
    with pytest.raises(UnsupportedError):
        put(store, key, b"x")
    assert listed(store) == []


@pytest.mark.parametrize("key", ["k" * 1025, "é" * 513, "lone \udcff surrogate"])
def test_a_key_that_s3_does_not_have_is_refused(store: Store, key: str) -> None:
    """Over 1,024 bytes, or no UTF-8."""
    with pytest.raises(UnsupportedError):
        put(store, key, b"x")
    assert listed(store) == []


# listing


def test_a_long_listing_is_complete_and_in_byte_order(store: Store) -> None:
    """Invariant 4: more than one page, nothing missing, nothing twice."""
    keys = [f"u{number % 7}/{number:05}" for number in range(1003)]
    for key in keys:
        put(store, key, b"")
    pages = list(store.list())
    assert len(pages) > 1
    assert [info.key for page in pages for info in page] == sorted(keys)
    middle = sorted(keys)[500]
    assert listed(store, start_after=middle) == sorted(keys)[501:]
    assert listed(store, "u3/", "u3/00500") == [key for key in sorted(keys) if key > "u3/00500" and key[:3] == "u3/"]


def test_a_listing_shows_size_etag_and_time(store: Store) -> None:
    """What planning decides by."""
    before = datetime.now(UTC) - timedelta(seconds=5)
    put(store, "a", b"hello")
    [[info]] = store.list()
    assert (info.size, info.etag) == (5, store.head("a").etag)
    assert before < info.last_modified < datetime.now(UTC) + timedelta(seconds=5)
    assert info.last_modified.tzinfo is UTC


def test_prefixes_are_text_not_folders(store: Store) -> None:
    """`user/1` is a prefix of `user/10`, and of nothing else."""
    for key in ("user/1/a", "user/10/a", "user/2/a", "z"):
        put(store, key, b"x")
    assert listed(store, "user/1") == ["user/1/a", "user/10/a"]
    assert listed(store, "nobody/") == []


# objects


@pytest.mark.parametrize("size", [0, 1, 70_001, 3 * 2**20])
def test_bytes_come_back(store: Store, size: int) -> None:
    """Whole, and in pieces; the empty object too."""
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    result = store.put("k", memoryview(body), attributes=PLAIN, tags=NO_TAGS, md5=md5(body))
    assert result.etag == store.head("k").etag
    assert get(store, "k") == body
    with store.get("k") as download:
        assert download.info.size == size
        assert b"".join(download.chunks(64 * 1024)) == body


def test_a_range_is_that_range(store: Store) -> None:
    """`info.size` stays the whole object's."""
    body = bytes(range(256)) * 8
    put(store, "k", body)
    for start, length in ((0, 1), (100, 300), (2000, 48), (2047, 1), (2000, 500)):
        with store.get("k", start=start, length=length) as download:
            assert download.read() == body[start : start + length]
            assert download.info.size == len(body)
    with store.get("k", start=2000) as download:
        assert download.read() == body[2000:]
    with store.get("k", start=0, length=10) as download:
        assert b"".join(download.chunks(3)) == body[:10]


def test_an_overwrite_replaces_everything(store: Store) -> None:
    """Bytes and attributes of the old object are gone."""
    put(store, "k", b"old", PLAIN if not store.capabilities.metadata else METADATA)
    put(store, "k", b"new")
    assert get(store, "k") == b"new"
    assert store.head("k").attributes.metadata == ()


def test_content_headers_are_kept_or_refused(store: Store) -> None:
    """All of them, to the byte; a store that is not known to keep them is not sent them."""
    if not store.capabilities.metadata:
        with pytest.raises(UnsupportedError):
            put(store, "k", b"x", HEADERS)
        with pytest.raises(UnsupportedError):
            store.create_upload("k", attributes=HEADERS)
        assert listed(store) == []
        put(store, "k", b"x")
        assert store.head("k").attributes == PLAIN
        return
    put(store, "k", b"x", HEADERS)
    with store.get("k") as download:
        assert download.info.attributes == store.head("k").attributes == HEADERS


def test_metadata_is_kept_or_refused(store: Store) -> None:
    """User metadata comes back to the byte; a store that keeps none says so first."""
    if not store.capabilities.metadata:
        with pytest.raises(UnsupportedError):
            put(store, "k", b"x", METADATA)
        assert listed(store) == []
        return
    put(store, "k", b"x", METADATA)
    assert store.head("k").attributes == METADATA


@pytest.mark.parametrize("value", ["Ålesund", "naïve  日本語", "\U0001f9f3", "latin-1 \udce9\udcff"])
def test_metadata_beyond_ascii_is_kept_or_refused(place: Place, value: str) -> None:
    """Raw UTF-8 and raw bytes alike, in the lossless form of `Attributes`."""
    attributes = replace(PLAIN, metadata=(("city", value),))
    if not place.store.capabilities.metadata:
        with pytest.raises(UnsupportedError):
            put(place.store, "k", b"x", attributes)
        assert listed(place.store) == []
        return
    put(place.store, "k", b"x", attributes)
    assert place.store.head("k").attributes == attributes


@pytest.mark.parametrize("value", ["line\nbreak", "injected\r\nx-amz-acl: public-read", " blank before", "bell \x07"])
def test_metadata_that_no_header_can_hold_is_refused_or_kept(store: Store, value: str) -> None:
    """It must not arrive as something else, nor smuggle a header in."""
    attributes = replace(PLAIN, metadata=(("a", value),))
    try:
        put(store, "k", b"x", attributes)
    except UnsupportedError:
        assert listed(store) == []
    else:
        assert store.head("k").attributes == attributes


def test_metadata_names_are_kept_or_refused(store: Store) -> None:
    """Ceph turns `a_b` into `a-b`: that must not count as copied."""
    if not store.capabilities.metadata:
        pytest.skip("the store keeps no metadata")
    attributes = replace(PLAIN, metadata=(("a-b", "1"), ("c_d", "2")))
    for key in ("k", "odd//k"):
        try:
            put(store, key, b"x", attributes)
        except UnsupportedError:
            assert key not in listed(store)  # nor is the bent object left there
        else:
            assert store.head(key).attributes == attributes


def test_tags_are_kept_or_refused(store: Store) -> None:
    """Set with the object, counted in its headers, changed by themselves."""
    if not store.capabilities.tags:
        with pytest.raises(UnsupportedError):
            put(store, "k", b"x", tags=TAGS)
        assert listed(store) == []
        return
    put(store, "k", b"x", tags=TAGS)
    assert store.get_tags("k") == TAGS
    with store.get("k") as download:
        assert download.info.tag_count == len(TAGS)
    store.put_tags("k", {"other": "c+d"})
    assert store.get_tags("k") == {"other": "c+d"}
    put(store, "k", b"x")
    assert store.get_tags("k") == {}
    assert store.head("k").tag_count == 0


# conditions and errors


def test_a_get_with_another_etag_is_refused(store: Store) -> None:
    """A source that changed since the plan is not read half old, half new."""
    etag = put(store, "k", b"old").etag
    with store.get("k", if_match=etag) as download:
        assert download.read() == b"old"
    put(store, "k", b"newer")
    with pytest.raises(PreconditionError):
        store.get("k", if_match=etag)


def test_create_only_never_overwrites(store: Store) -> None:
    """Or is refused where the server would overwrite all the same."""
    if not store.capabilities.conditional_put:
        with pytest.raises(UnsupportedError):
            store.put("k", b"x", attributes=PLAIN, tags=NO_TAGS, md5=md5(b"x"), create_only=True)
        assert listed(store) == []
        return
    keys = ["k", "odd//k"] if store.capabilities.empty_segments else ["k"]  # both ways out of the s3 store
    for key in keys:
        store.put(key, b"first", attributes=PLAIN, tags=NO_TAGS, md5=md5(b"first"), create_only=True)
        with pytest.raises(PreconditionError):
            store.put(key, b"second", attributes=PLAIN, tags=NO_TAGS, md5=md5(b"second"), create_only=True)
        assert get(store, key) == b"first"


def test_a_put_with_another_etag_is_refused(store: Store) -> None:
    """A repair replaces the object that it looked at, and no newer one."""
    etag = put(store, "k", b"old").etag
    body = b"repaired"
    if not store.capabilities.conditional_put:
        with pytest.raises(UnsupportedError):
            store.put("k", body, attributes=PLAIN, tags=NO_TAGS, md5=md5(body), if_match=etag)
        assert get(store, "k") == b"old"
        return
    store.put("k", body, attributes=PLAIN, tags=NO_TAGS, md5=md5(body), if_match=etag)
    with pytest.raises(PreconditionError):
        store.put("k", b"late", attributes=PLAIN, tags=NO_TAGS, md5=md5(b"late"), if_match=etag)
    assert get(store, "k") == body


@pytest.mark.parametrize("key", ["k", "some//odd"])
def test_bytes_that_are_not_what_was_promised_are_corrupt(store: Store, key: str) -> None:
    """The corrupted twin of every write here: the wrong MD5 never counts as written."""
    if not store.capabilities.takes_key(key):
        pytest.skip("the store takes no odd key")
    with pytest.raises(CorruptBodyError):
        store.put(key, b"these", attributes=PLAIN, tags=NO_TAGS, md5=md5(b"others"))


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.head("gone"),
        lambda store: store.get("gone"),
        lambda store: store.list_parts("gone", "no-such-upload"),
    ],
    ids=["head", "get", "list_parts"],
)
def test_what_is_not_there_is_not_found(store: Store, ask: Callable[[Store], object]) -> None:
    """And only what the store itself says is missing (invariant 4)."""
    put(store, "other", b"x")
    with pytest.raises(NotFoundError):
        ask(store)


def test_deleting_what_is_not_there_is_quiet(store: Store) -> None:
    """Invariant 2: a delete can be repeated."""
    put(store, "k", b"x")
    store.delete("k")
    store.delete("k")
    with pytest.raises(NotFoundError):
        store.head("k")


def test_no_error_shows_the_key(store: Store) -> None:
    """Invariant 10: the key stands in a field, not in the text."""
    key = "user-4711-secret"
    with pytest.raises(NotFoundError) as caught:
        store.get(key)
    assert key not in str(caught.value) + caught.value.remedy
    assert caught.value.key == key


def writings(store: Store) -> list[Callable[[], object]]:
    part = PartInfo(1, "e", 1)
    return [
        lambda: put(store, "k", b"y"),
        lambda: store.create_upload("k", attributes=PLAIN),
        lambda: store.put_part("k", "u", 1, b"y", md5=md5(b"y")),
        lambda: store.complete_upload("k", "u", [part], tags=NO_TAGS),
        lambda: store.put_tags("k", {"a": "b"}),
    ]


def test_a_store_opened_to_be_cleared_takes_deletions_alone(place: Place) -> None:
    """As the sources are for a purge: no byte is sent there."""
    store = place.clearing
    put(place.store, "k", b"x")
    put(place.store, "other", b"x")
    upload = place.store.create_upload("big", attributes=PLAIN) if place.store.capabilities.multipart else None
    for write in writings(store):
        with pytest.raises(RefusedError):
            write()
    assert get(store, "k") == b"x"
    store.delete("k")
    assert listed(store) == ["other"]
    if upload is not None:
        store.abort_upload("big", upload)
        assert list(store.list_uploads("")) == []


def test_a_store_opened_to_be_read_refuses_every_change(place: Place) -> None:
    """Sources are only ever read."""
    store = place.reading
    put(place.store, "k", b"x")
    for change in [*writings(store), lambda: store.abort_upload("k", "u"), lambda: store.delete("k")]:
        with pytest.raises(RefusedError):
            change()
    assert get(store, "k") == b"x"
    assert listed(store) == ["k"]


# parts


def begin(store: Store, key: str, parts: int) -> tuple[str, list[bytes], list[PartInfo]]:
    bodies = [bytes([number]) * MULTIPART_MIN_BYTES for number in range(parts - 1)] + [b"the end"]
    upload = store.create_upload(key, attributes=PLAIN)
    sent = [
        PartInfo(number, store.put_part(key, upload, number, body, md5=md5(body)), len(body))
        for number, body in enumerate(bodies, 1)
    ]
    return upload, bodies, sent


def composite(bodies: list[bytes]) -> str:
    return f"{hashlib.md5(b''.join(md5(body) for body in bodies), usedforsecurity=False).hexdigest()}-{len(bodies)}"


def test_parts_are_listed_and_joined(store: Store) -> None:
    """An upload goes on where it stopped: what has arrived is known, the rest is sent, and the whole is the parts."""
    upload, bodies, sent = begin(store, "big", 3)
    assert list(store.list_parts("big", upload)) == sent
    (found,) = store.list_uploads("")
    assert (found.key, found.upload_id) == ("big", upload)
    assert found.started is not None
    assert found.started.tzinfo is not None
    assert list(store.list_uploads("other")) == []
    tags = TAGS if store.capabilities.tags else NO_TAGS
    result = store.complete_upload("big", upload, sent, tags=tags)
    info = store.head("big")
    assert (info.etag, info.size) == (result.etag, sum(map(len, bodies)))
    if "-" in info.etag:
        assert info.etag == composite(bodies)
    assert get(store, "big") == b"".join(bodies)
    assert list(store.list_uploads("")) == []
    if tags:
        assert store.get_tags("big") == tags


def test_an_upload_keeps_attributes(store: Store) -> None:
    """They are given at its beginning."""
    if not store.capabilities.metadata:
        with pytest.raises(UnsupportedError):
            store.create_upload("big", attributes=METADATA)
        assert list(store.list_uploads("")) == []
        return
    upload = store.create_upload("big", attributes=METADATA)
    etag = store.put_part("big", upload, 1, b"x", md5=md5(b"x"))
    store.complete_upload("big", upload, [PartInfo(1, etag, 1)], tags=NO_TAGS)
    assert store.head("big").attributes == METADATA


def test_an_aborted_upload_leaves_nothing(store: Store) -> None:
    """Parts left behind are data in the wrong country. Aborting twice is quiet."""
    upload, _, sent = begin(store, "big", 2)
    store.abort_upload("big", upload)
    store.abort_upload("big", upload)
    assert list(store.list_uploads("")) == []
    with pytest.raises(NotFoundError):
        store.list_parts("big", upload)
    with pytest.raises(StoreError):
        store.complete_upload("big", upload, sent, tags=NO_TAGS)
    assert listed(store) == []


def test_a_part_that_is_sent_again_replaces_the_first(store: Store) -> None:
    """Invariant 2, for parts."""
    upload = store.create_upload("big", attributes=PLAIN)
    store.put_part("big", upload, 1, b"first", md5=md5(b"first"))
    try:
        etag = store.put_part("big", upload, 1, b"second", md5=md5(b"second"))
    except UnsupportedError:  # rclone takes each part once
        [part] = store.list_parts("big", upload)
        assert part.size == len(b"first")
        return
    [part] = store.list_parts("big", upload)
    assert part == PartInfo(1, etag, 6)
    store.complete_upload("big", upload, [part], tags=NO_TAGS)
    assert get(store, "big") == b"second"


def test_a_part_that_is_not_what_was_promised_is_corrupt(store: Store) -> None:
    """The corrupted twin."""
    upload = store.create_upload("big", attributes=PLAIN)
    with pytest.raises(CorruptBodyError):
        store.put_part("big", upload, 1, b"these", md5=md5(b"others"))
    store.abort_upload("big", upload)


def test_uploads_under_odd_keys_are_found(store: Store) -> None:
    """An upload that nobody finds stays for ever."""
    if not store.capabilities.takes_key("a//b"):
        with pytest.raises(UnsupportedError):
            store.create_upload("a//b", attributes=PLAIN)
        return
    keys = ["a//b", "tab\tstop", "a+b %25", "é\U0001f9f3"]
    for key in keys:
        store.create_upload(key, attributes=PLAIN)
    assert sorted(found.key for found in store.list_uploads()) == sorted(keys)
