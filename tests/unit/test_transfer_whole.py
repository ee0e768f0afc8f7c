"""One object that is copied whole."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from moving import QUICK, World, now

from migrate.errors import (
    CorruptBodyError,
    DeniedError,
    NotFoundError,
    ThrottledError,
    TransientStoreError,
    UnreachableError,
    UnreadableError,
)
from migrate.model import Attributes, CopyResult, Evidence, Outcome, PlannedObject, attributes_digest
from migrate.stores.memory import ALL_CAPABILITIES, MemoryStore
from migrate.transfer.caller import Caller
from migrate.transfer.whole import copy_whole

RICH = Attributes(
    content_type="image/jpeg",
    content_encoding="identity",
    content_language="ga",
    content_disposition='attachment; filename="a"',
    cache_control="no-cache",
    expires="Thu, 01 Dec 2033 16:00:00 GMT",
    metadata=(("camera", "x1"), ("place", "Dublin")),
)


def copy(world: World, planned: PlannedObject, repairs: dict[int, str | None] | None = None) -> list[CopyResult]:
    return copy_whole(planned, planned.copies, repairs or {}, world.caller, now)


def test_home_and_backup_get_everything_from_one_get() -> None:
    """An object is read once; each copy keeps bytes, attributes and tags, and has its own receipt (Invariant 1)."""
    world = World()
    info = world.places["us"].seed("users/u1/a", b"hello", attributes=RICH, tags={"kind": "photo"})
    gets: list[str] = []
    world.places["us"].fault = lambda operation, key: gets.append(operation)
    results = copy(world, world.plan(info))
    assert [result.outcome for result in results] == [Outcome.COPIED, Outcome.COPIED]
    assert gets.count("get") == 1
    for name in ("home", "backup"):
        found = world.places[name].find("users/u1/a")
        assert found is not None
        assert (found.body, found.info.attributes, found.tags) == (b"hello", RICH, {"kind": "photo"})
    receipt = results[0].receipt
    assert receipt is not None
    assert receipt.sha256 == hashlib.sha256(b"hello").digest()
    assert receipt.attributes == attributes_digest(RICH, {"kind": "photo"})
    assert receipt.evidence is Evidence.MD5
    assert receipt.etag == info.etag


def test_an_object_without_content_type_gets_s3s_default_in_so_many_words() -> None:
    """What a server would add by itself is written out, so that attributes compare equal later."""
    world = World()
    copy(world, world.plan(world.places["us"].seed("k", b"x")))
    found = world.places["home"].find("k")
    assert found is not None
    assert found.info.attributes.content_type == "binary/octet-stream"


@pytest.mark.parametrize("versioned", [False, True])
def test_a_changed_source_is_drifted_and_nothing_is_written(versioned: bool) -> None:
    """If-Match fails when the source was overwritten: drifted, never half old and half new."""
    world = World(versioned=versioned)
    planned = world.plan(world.places["us"].seed("k", b"old"))
    world.places["us"].seed("k", b"new!")
    results = copy(world, planned)
    assert [(result.outcome, result.reason) for result in results] == [(Outcome.DRIFTED, "changed")] * 2
    assert world.body("home", "k") is None


def test_a_version_with_the_same_bytes_is_drifted_too() -> None:
    """A rewrite of the metadata alone keeps the ETag; where there are versions, the version id shows it."""
    world = World(versioned=True)
    planned = world.plan(world.places["us"].seed("k", b"same"))
    world.places["us"].seed("k", b"same", attributes=RICH)
    assert {result.outcome for result in copy(world, planned)} == {Outcome.DRIFTED}


def test_a_source_that_is_gone_is_drifted() -> None:
    """A 404 that stays a 404 at a second look is a deletion."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"x"))
    world.places["us"].remove("k")
    assert [(result.outcome, result.reason) for result in copy(world, planned)] == [(Outcome.DRIFTED, "gone")] * 2


def test_a_404_that_is_wrong_once_is_not_a_deletion() -> None:
    """The second look finds the object: the copy is not called drifted (Invariant 4)."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"x"))
    lies = iter([True])

    def lie(operation: str, key: str) -> None:
        if operation == "get" and next(lies, False):
            raise NotFoundError("us", "get", key=key)

    world.places["us"].fault = lie
    assert Outcome.DRIFTED not in {result.outcome for result in copy(world, planned)}


def test_an_equal_object_at_the_target_is_present() -> None:
    """Replay is a no-op: the second run finds its own work, reads it no further, and writes nothing (Invariant 2)."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"x", attributes=RICH, tags={"a": "b"}))
    copy(world, planned)
    puts: list[str] = []
    world.places["home"].after = lambda operation, key: puts.append(operation)
    results = copy(world, planned)
    assert {result.outcome for result in results} == {Outcome.PRESENT}
    assert "put" not in puts


@pytest.mark.parametrize("difference", ["body", "attributes", "tags"])
def test_something_else_at_the_target_is_left_alone(difference: str) -> None:
    """A target key that holds other bytes, attributes or tags is never overwritten: the copy is quarantined (Invariant 2)."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"ours", attributes=RICH, tags={"a": "b"}), copies=1)
    world.places["home"].seed(
        "k",
        b"else" if difference == "body" else b"ours",
        attributes=replace(RICH, cache_control=None) if difference == "attributes" else RICH,
        tags={} if difference == "tags" else {"a": "b"},
    )
    (result,) = copy(world, planned)
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "occupied")
    assert world.body("home", "k") == (b"else" if difference == "body" else b"ours")


@pytest.mark.parametrize("conditional", [True, False])
def test_a_repair_replaces_only_what_the_verification_saw(conditional: bool) -> None:
    """A repair names the ETag that it may replace; anything newer is left alone (Invariant 2)."""
    world = World(target_able=replace(ALL_CAPABILITIES, conditional_put=conditional))
    planned = world.plan(world.places["us"].seed("k", b"ours"), copies=1)
    bad = world.places["home"].seed("k", b"bad!")
    (refused,) = copy(world, planned, {0: "another-etag"})
    assert refused.reason == "occupied"
    assert world.body("home", "k") == b"bad!"
    (mended,) = copy(world, planned, {0: bad.etag})
    assert mended.outcome is Outcome.COPIED
    assert world.body("home", "k") == b"ours"


def test_a_repair_replaces_rotten_bytes_under_an_etag_that_looks_right() -> None:
    """The verification read the bytes and they were wrong: then the ETag proves nothing, and the object is sent again."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"ours"), copies=1)
    copy(world, planned)
    found = world.places["home"].find("k")
    assert found is not None
    found.body = b"0urs"
    (mended,) = copy(world, planned, {0: found.info.etag})
    assert mended.outcome is Outcome.COPIED
    assert world.body("home", "k") == b"ours"


def test_without_conditional_put_the_target_is_looked_at_first() -> None:
    """A store that ignores If-None-Match would overwrite: so it is asked before anything is sent."""
    world = World(target_able=replace(ALL_CAPABILITIES, conditional_put=False))
    planned = world.plan(world.places["us"].seed("k", b"ours"), copies=1)
    world.places["home"].seed("k", b"else")
    (result,) = copy(world, planned)
    assert result.reason == "occupied"
    assert world.body("home", "k") == b"else"


def test_a_flipped_bit_is_never_written() -> None:
    """The MD5 of what came is compared with the ETag; the twin with the right ETag passes (Invariant 1)."""
    world = World()
    right = world.places["us"].seed("right", b"body")
    wrong = world.places["us"].seed("wrong", b"bodY", etag=hashlib.md5(b"body").hexdigest())
    assert {result.outcome for result in copy(world, world.plan(right))} == {Outcome.COPIED}
    results = copy(world, world.plan(wrong))
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, "corrupt_body")}
    assert world.body("home", "wrong") is None


def test_a_small_object_with_a_composite_etag_is_proven_by_its_parts() -> None:
    """A one-part multipart object has MD5-of-MD5 and `-1` as its ETag; that is evidence too."""
    world = World()
    composite = hashlib.md5(hashlib.md5(b"body").digest()).hexdigest() + "-1"
    (result,) = copy(world, world.plan(world.places["us"].seed("k", b"body", etag=composite), copies=1))
    assert result.receipt is not None
    assert result.receipt.evidence is Evidence.COMPOSITE
    (result,) = copy(world, world.plan(world.places["us"].seed("j", b"bodY", etag=composite), copies=1))
    assert result.receipt is not None
    assert result.receipt.evidence is Evidence.LENGTH


def test_transient_errors_are_tried_again_and_end_well() -> None:
    """A request that fails twice and then works leaves a copy, and counts two retries."""
    world = World()
    failures = iter([TransientStoreError("us", "get"), ThrottledError("us", "get", wait_seconds=0.0)])

    def fail(operation: str, key: str) -> None:
        if operation == "get" and (error := next(failures, None)) is not None:
            raise error

    world.places["us"].fault = fail
    planned = world.plan(world.places["us"].seed("k", b"x"))
    assert {result.outcome for result in copy(world, planned)} == {Outcome.COPIED}
    assert world.caller.retries == 2


def test_a_lost_answer_to_a_put_is_recognised_as_our_own() -> None:
    """The PUT took effect and its answer was lost: the second try finds the object equal, and the copy is copied."""
    world = World()
    lost = iter([True])

    def lose(operation: str, key: str) -> None:
        if operation == "put" and next(lost, False):
            raise TransientStoreError("home", "put")

    world.places["home"].after = lose
    (result,) = copy(world, world.plan(world.places["us"].seed("k", b"x"), copies=1))
    assert result.outcome is Outcome.COPIED


def test_an_object_that_was_there_before_a_throttled_put_is_present() -> None:
    """A PUT that was refused wrote nothing: what the next try finds is not ours, and is called present."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"x", attributes=RICH), copies=1)
    world.places["home"].seed("k", b"x", attributes=RICH)
    refused = iter([True])

    def slow_down(operation: str, key: str) -> None:
        if operation == "put" and next(refused, False):
            raise ThrottledError("home", "put", wait_seconds=0.0)

    world.places["home"].fault = slow_down
    (result,) = copy(world, planned)
    assert result.outcome is Outcome.PRESENT


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnreadableError("us", "get"), "unreadable"),
        (DeniedError("us", "get"), "denied"),
        (TransientStoreError("us", "get"), "unavailable"),
        (CorruptBodyError("us", "get"), "corrupt_body"),
    ],
)
def test_one_bad_object_is_quarantined_while_its_store_is_up(error: Exception, reason: str) -> None:
    """What fails for good is set aside with its reason; no key is in the text (Invariant 10)."""
    world = World()

    def fail(operation: str, key: str) -> None:
        if key == "bad-key":
            raise error

    world.places["us"].fault = fail
    results = copy(world, world.plan(world.places["us"].seed("bad-key", b"x")))
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, reason)}
    assert all("bad-key" not in str(result.detail) for result in results)


@pytest.mark.parametrize("error", [TransientStoreError("us", "any"), DeniedError("us", "any")])
def test_a_store_that_is_down_quarantines_nothing(error: Exception) -> None:
    """When the store answers nothing at all, the run stops and no copy is blamed (Invariant 9)."""
    world = World()

    def fail(operation: str, key: str) -> None:
        raise error

    planned = world.plan(world.places["us"].seed("k", b"x"))
    world.places["us"].fault = fail
    with pytest.raises(UnreachableError):
        copy(world, planned)


def test_tags_that_a_target_cannot_keep_are_not_dropped() -> None:
    """A copy that would lose its tags is quarantined as cannot_keep, and nothing is written."""
    world = World(target_able=replace(ALL_CAPABILITIES, tags=False))
    planned = world.plan(world.places["us"].seed("k", b"x", tags={"a": "b"}), copies=1)
    (result,) = copy(world, planned)
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "cannot_keep")
    assert world.body("home", "k") is None


def test_tags_that_may_not_be_read_end_the_run_instead_of_being_lost() -> None:
    """A reader without the right sees no tag count either: the store is asked once, and a refusal is not silence."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"x"))

    def deny(operation: str, key: str) -> None:
        if operation == "get_tags":
            raise DeniedError("us", "get_tags")

    world.places["us"].fault = deny
    with pytest.raises(UnreachableError, match="tags may not be read"):
        copy(world, planned)
    assert world.body("home", "k") is None


def test_a_store_that_let_tags_be_read_is_not_asked_again() -> None:
    """One more request a store, not one an object."""
    world = World()
    asked: list[str] = []
    world.places["us"].fault = lambda operation, key: asked.append(operation)
    for key in ("a", "b", "c"):
        copy(world, world.plan(world.places["us"].seed(key, b"x")))
    assert asked.count("get_tags") == 1


def test_a_server_that_has_no_tags_and_says_500_is_still_a_source() -> None:
    """Probed as without tags: its objects have none to lose. Believed to have them: the object is set aside."""
    world = World()

    def fail(operation: str, key: str) -> None:
        if operation == "get_tags":
            raise TransientStoreError("us", "get_tags", "500")

    planned = world.plan(world.places["us"].seed("k", b"x"), copies=1)
    world.places["us"].fault = fail
    (result,) = copy(world, planned)
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "unavailable")
    tagless = replace(ALL_CAPABILITIES, tags=False)
    world.caller = Caller(
        lambda name: MemoryStore(name, world.places[name], capabilities=tagless),
        concurrency=lambda name: 4,
        retry=QUICK,
    )
    (result,) = copy(world, planned)
    assert result.outcome is Outcome.COPIED


def hide_tag_count(world: World, name: str, key: str) -> None:
    """The server does not count the tags in the object's headers, as AWS does not for who may not read them."""
    found = world.places[name].find(key)
    assert found is not None
    found.info = replace(found.info, tag_count=0)


def test_tags_that_nobody_counts_do_not_make_a_copy_present() -> None:
    """The key holds our bytes with tags of somebody else's, and the count of tags is hidden: occupied (Invariant 2)."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"ours", attributes=RICH), copies=1)
    world.places["home"].seed("k", b"ours", attributes=RICH, tags={"theirs": "yes"})
    hide_tag_count(world, "home", "k")
    (result,) = copy(world, planned)
    assert (result.outcome, result.reason) == (Outcome.QUARANTINED, "occupied")


def test_a_lost_answer_is_looked_for_before_the_bytes_are_sent_again() -> None:
    """The PUT was done and its answer lost, each time: a HEAD finds the object, and the copy is made by one PUT (Invariant 2)."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"hello"), copies=1)
    puts: list[str] = []

    def lose(operation: str, key: str) -> None:
        if operation == "put":
            puts.append(key)
            raise TransientStoreError("home", operation)

    world.places["home"].after = lose
    [result] = copy_whole(planned, planned.copies, {}, world.caller, now)
    assert (result.outcome, puts) == (Outcome.COPIED, ["k"])


@pytest.mark.parametrize("guarded", [True, False])
def test_what_no_etag_proves_is_read_twice_where_nothing_guards_the_way(guarded: bool) -> None:
    """An ETag that is no MD5 says nothing of the bytes: over plain HTTP two reads must agree, over TLS one is enough."""
    world = World()
    planned = world.plan(world.places["us"].seed("k", b"hello", etag="opaque"), copies=1)
    reads: list[str] = []
    world.places["us"].fault = lambda operation, key: reads.append(operation) if operation == "get" else None

    def open_so(name: str) -> MemoryStore:
        store = world.open(name)
        store.guarded = guarded
        return store

    caller = Caller(open_so, concurrency=lambda name: 4, retry=QUICK)
    [result] = copy_whole(planned, planned.copies, {}, caller, now)
    assert result.outcome is Outcome.COPIED
    assert len(reads) == (1 if guarded else 2)
