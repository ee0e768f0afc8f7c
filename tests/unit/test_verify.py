"""One check, one verdict; each with the corrupted twin that it catches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from moving import MIB, PartedRun, World, now

from migrate.errors import DeniedError, NotFoundError, TransientStoreError, UnreachableError
from migrate.model import Attributes, CheckResult, Level, PlannedObject, Receipt, Verdict
from migrate.transfer.parted import PartedCopy
from migrate.transfer.whole import copy_whole
from migrate.verify import (
    Expected,
    PartedCheck,
    check_head,
    check_object,
    check_prefix,
    digest_of,
    in_range,
    is_sampled,
)

ATTRIBUTES = Attributes(content_type="text/plain", metadata=(("a", "b"),))


def copied(
    world: World, body: bytes = b"hello", tags: dict[str, str] | None = None
) -> tuple[PlannedObject, dict[int, Receipt]]:
    planned = world.plan(world.places["us"].seed("users/u1/k", body, attributes=ATTRIBUTES, tags=tags))
    results = copy_whole(planned, planned.copies, {}, world.caller, now)
    return planned, {result.ordinal: result.receipt for result in results if result.receipt is not None}


def verdicts(results: list[CheckResult]) -> list[tuple[Verdict, str | None]]:
    return [(result.verdict, result.reason) for result in results]


@pytest.mark.parametrize("level", [Level.CONTENT, Level.BOTH_ENDS])
def test_what_was_copied_matches(level: Level) -> None:
    """Bytes, attributes and tags are as the receipt, or the source, says."""
    world = World()
    planned, receipts = copied(world, tags={"t": "1"})
    assert verdicts(check_object(planned, receipts, level, world.caller)) == [(Verdict.MATCH, None)] * 2


@pytest.mark.parametrize("level", [Level.CONTENT, Level.BOTH_ENDS])
@pytest.mark.parametrize("twin", ["bit", "attributes", "tags", "gone", "longer"])
def test_a_corrupted_target_is_found(level: Level, twin: str) -> None:
    """A flipped bit, another attribute, a lost tag, a lost object: none is a MATCH (Invariants 8 and 9)."""
    world = World()
    planned, receipts = copied(world, tags={"t": "1"})
    body = {"bit": b"hellO", "longer": b"hello!"}.get(twin, b"hello")
    attributes = replace(ATTRIBUTES, cache_control="x") if twin == "attributes" else ATTRIBUTES
    if twin == "gone":
        world.places["home"].remove(planned.target_key)
    else:
        world.places["home"].seed(
            planned.target_key, body, attributes=attributes, tags={} if twin == "tags" else {"t": "1"}
        )
    expected = {
        "gone": (Verdict.MISSING, "not_found"),
        "bit": (Verdict.MISMATCH, "content"),
        "longer": (Verdict.MISMATCH, "content"),
        "attributes": (Verdict.MISMATCH, "attributes"),
        "tags": (Verdict.MISMATCH, "attributes"),
    }[twin]
    assert verdicts(check_object(planned, receipts, level, world.caller)) == [expected, (Verdict.MATCH, None)]


def test_both_ends_does_not_trust_the_receipt() -> None:
    """A receipt that was written for wrong bytes convinces `content`, and does not convince `both-ends` (Invariant 8)."""
    world = World()
    planned, receipts = copied(world)
    for name in ("home", "backup"):
        world.places[name].seed(planned.target_key, b"wrong", attributes=ATTRIBUTES)
    forged = {
        ordinal: receipt._replace(sha256=hashlib.sha256(b"wrong").digest()) for ordinal, receipt in receipts.items()
    }
    assert {verdict for verdict, _ in verdicts(check_object(planned, forged, Level.CONTENT, world.caller))} == {
        Verdict.MATCH
    }
    assert {verdict for verdict, _ in verdicts(check_object(planned, forged, Level.BOTH_ENDS, world.caller))} == {
        Verdict.MISMATCH
    }


def hide_tag_counts(world: World, *names: str) -> None:
    """The servers do not count tags in the headers, as AWS does not for who may not read them."""
    for name in names:
        found = world.places[name].find("users/u1/k")
        assert found is not None
        found.info = replace(found.info, tag_count=0)


@pytest.mark.parametrize("level", [Level.CONTENT, Level.BOTH_ENDS])
def test_tags_that_are_not_counted_are_read(level: Level) -> None:
    """A hidden count is not a lost tag: what is there is asked for before it is called different."""
    world = World()
    planned, receipts = copied(world, tags={"t": "1"})
    hide_tag_counts(world, "us", "home", "backup")
    assert verdicts(check_object(planned, receipts, level, world.caller)) == [(Verdict.MATCH, None)] * 2


def test_both_ends_finds_a_lost_tag_that_nobody_counts() -> None:
    """The source's tags were hidden from the copier, so that neither copy nor receipt has them: MISMATCH (Invariant 8)."""
    world = World()
    copied(world)  # so that the store has shown that it lets tags be read
    info = world.places["us"].seed("users/u1/k", b"hello", attributes=ATTRIBUTES, tags={"t": "1"})
    for name in ("home", "backup"):
        world.places[name].remove("users/u1/k")
    hide_tag_counts(world, "us")
    planned = world.plan(info)
    results = copy_whole(planned, planned.copies, {}, world.caller, now)
    receipts = {result.ordinal: result.receipt for result in results if result.receipt is not None}
    assert len(receipts) == 2
    assert (
        verdicts(check_object(planned, receipts, Level.BOTH_ENDS, world.caller))
        == [(Verdict.MISMATCH, "attributes")] * 2
    )


def test_both_ends_finds_a_tag_too_much_that_nobody_counts() -> None:
    """Somebody tagged a copy, and the target hides the count: MISMATCH; the twin without a tag is a MATCH."""
    world = World()
    planned, receipts = copied(world)
    found = world.places["home"].find(planned.target_key)
    assert found is not None
    found.tags = {"theirs": "yes"}
    assert verdicts(check_object(planned, receipts, Level.BOTH_ENDS, world.caller)) == [
        (Verdict.MISMATCH, "attributes"),
        (Verdict.MATCH, None),
    ]


@pytest.mark.parametrize(("level", "asked"), [(Level.CONTENT, 1), (Level.BOTH_ENDS, 3)])
def test_what_reading_tags_costs(level: Level, asked: int) -> None:
    """By content one request a target, whatever it holds; at both ends one an object and end."""
    world = World()
    every = []
    for key in ("a", "b", "c"):
        planned = world.plan(world.places["us"].seed(key, b"x"))
        every.append((planned, copy_whole(planned, planned.copies, {}, world.caller, now)))
    world.caller.has_tags.clear()
    seen: list[str] = []
    world.places["home"].fault = lambda operation, key: seen.append(operation)
    for planned, results in every:
        receipts = {result.ordinal: result.receipt for result in results if result.receipt is not None}
        assert {verdict for verdict, _ in verdicts(check_object(planned, receipts, level, world.caller))} == {
            Verdict.MATCH
        }
    assert seen.count("get_tags") == asked


@pytest.mark.parametrize("level", [Level.CONTENT, Level.BOTH_ENDS])
def test_a_target_whose_tags_may_not_be_read_ends_the_check(level: Level) -> None:
    """Nothing shows then that it has no tag too much: no MATCH, and no run through a million copies (Invariant 9)."""
    world = World()
    planned, receipts = copied(world)

    def deny(operation: str, key: str) -> None:
        if operation == "get_tags":
            raise DeniedError("home", "get_tags")

    world.places["home"].fault = deny
    with pytest.raises(UnreachableError, match="home: tags may not be read"):
        check_object(planned, receipts, level, world.caller)


@pytest.mark.parametrize("change", ["changed", "gone"])
def test_a_source_that_moved_on_is_unknown_at_both_ends(change: str) -> None:
    """There is nothing to compare with any more: UNKNOWN, never MATCH (Invariant 9)."""
    world = World()
    planned, receipts = copied(world)
    if change == "gone":
        world.places["us"].remove(planned.key)
    else:
        world.places["us"].seed(planned.key, b"newer")
    assert set(verdicts(check_object(planned, receipts, Level.BOTH_ENDS, world.caller))) == {
        (Verdict.UNKNOWN, f"source_{change}")
    }


def test_what_cannot_be_read_is_unknown_and_a_store_that_is_down_ends_the_check() -> None:
    """One unreadable object is UNKNOWN; a silent store says nothing about any copy (Invariant 9)."""
    world = World()
    planned, receipts = copied(world)

    def fail_one(operation: str, key: str) -> None:
        if key == planned.target_key:
            raise TransientStoreError("home", operation)

    world.places["home"].fault = fail_one
    assert verdicts(check_object(planned, receipts, Level.CONTENT, world.caller))[0] == (Verdict.UNKNOWN, "unavailable")

    def fail_all(operation: str, key: str) -> None:
        raise TransientStoreError("home", operation)

    world.places["home"].fault = fail_all
    with pytest.raises(UnreachableError):
        check_object(planned, receipts, Level.CONTENT, world.caller)


def test_a_large_object_is_checked_by_its_parts() -> None:
    """The composite digest is computed again from the target, read in pieces of any size."""
    world = World()
    body = bytes(range(256)) * (4096 * 11)
    planned = world.plan(world.places["us"].seed("users/u1/big", body))
    run = PartedRun()
    results = run.drive(
        PartedCopy(planned, planned.copies, {}, {}, caller=world.caller, configured_part_bytes=5 * MIB, now=now)
    )
    receipts = {result.ordinal: result.receipt for result in results if result.receipt is not None}
    assert {verdict for verdict, _ in verdicts(check_object(planned, receipts, Level.BOTH_ENDS, world.caller))} == {
        Verdict.MATCH
    }
    world.places["home"].seed("users/u1/big", body[:-1] + b"!")
    assert verdicts(check_object(planned, receipts, Level.CONTENT, world.caller))[0] == (Verdict.MISMATCH, "content")
    store = world.open("us")
    digests = {digest_of(store.get("users/u1/big"), 5 * MIB) for _ in range(2)}
    assert digests == {receipts[0].sha256}


def large(world: World) -> tuple[PlannedObject, dict[int, Receipt], bytes]:
    """An object of three parts that was copied to both targets."""
    body = bytes(range(256)) * (4096 * 11)
    planned = world.plan(world.places["us"].seed("users/u1/big", body, attributes=ATTRIBUTES, tags={"t": "1"}))
    run = PartedRun()
    results = run.drive(
        PartedCopy(planned, planned.copies, {}, {}, caller=world.caller, configured_part_bytes=5 * MIB, now=now)
    )
    return planned, {result.ordinal: result.receipt for result in results if result.receipt is not None}, body


def check_in_parts(
    world: World,
    planned: PlannedObject,
    receipts: dict[int, Receipt],
    level: Level,
    before_part: Callable[[int], None] = lambda number: None,
) -> list[tuple[Verdict, str | None]]:
    """Drive a PartedCheck as a worker does; the last parts come first, since their order says nothing."""
    assert PartedCheck.serves(planned, receipts)
    check = PartedCheck(planned, receipts, level, world.caller)
    check.look()
    while jobs := check.parts():
        for number, job in enumerate(reversed(jobs)):
            before_part(number)
            job()
            assert check.take_part() == (number == len(jobs) - 1)
    return verdicts(check.judge())


@pytest.mark.parametrize("level", [Level.CONTENT, Level.BOTH_ENDS])
@pytest.mark.parametrize("twin", [None, "first bit", "last bit", "longer", "attributes", "tags", "gone"])
def test_a_large_object_is_checked_in_parts_side_by_side(level: Level, twin: str | None) -> None:
    """The parts' digests in any order make the composite one; each corrupted twin is caught (Invariants 8 and 9)."""
    world = World()
    planned, receipts, body = large(world)
    found = world.places["home"].find(planned.target_key)
    assert found is not None
    if twin == "gone":
        world.places["home"].remove(planned.target_key)
    elif twin == "attributes":
        found.info = replace(found.info, attributes=replace(ATTRIBUTES, cache_control="x"))
    elif twin == "tags":
        found.tags = {"t": "2"}
    elif twin == "longer":
        world.places["home"].seed(planned.target_key, body + b"!", attributes=ATTRIBUTES, tags={"t": "1"})
    elif twin is not None:
        found.body = b"!" + body[1:] if twin == "first bit" else body[:-1] + b"!"
    expected = {
        None: (Verdict.MATCH, None),
        "gone": (Verdict.MISSING, "not_found"),
        "attributes": (Verdict.MISMATCH, "attributes"),
        "tags": (Verdict.MISMATCH, "attributes"),
    }.get(twin, (Verdict.MISMATCH, "content"))
    assert check_in_parts(world, planned, receipts, level) == [expected, (Verdict.MATCH, None)]


def test_an_object_that_changes_between_two_parts_is_unknown() -> None:
    """Parts of two objects make no content: the ETag of the first look is demanded each time (Invariant 9)."""
    world = World()
    planned, receipts, body = large(world)

    def replace_target(number: int) -> None:
        if number == 3:
            world.places["home"].seed(planned.target_key, body, etag="f" * 32, attributes=ATTRIBUTES, tags={"t": "1"})

    results = check_in_parts(world, planned, receipts, Level.CONTENT, replace_target)
    assert results == [(Verdict.UNKNOWN, "precondition"), (Verdict.MATCH, None)]

    def replace_source(number: int) -> None:
        if number == 3:
            world.places["us"].seed(planned.key, body, etag="e" * 32)

    results = check_in_parts(world, planned, receipts, Level.BOTH_ENDS, replace_source)
    assert results == [(Verdict.UNKNOWN, "source_changed")] * 2


def test_a_part_that_cannot_be_read_is_tried_again_by_itself() -> None:
    """A reset connection costs one part; a part that is never had makes its copy UNKNOWN, and no other (Invariant 9)."""
    world = World()
    planned, receipts, _ = large(world)
    reads: list[str] = []

    def fail(times: int) -> None:
        reads.clear()

        def fault(operation: str, key: str) -> None:
            if operation == "get" and key == planned.target_key:
                reads.append(key)
                if len(reads) <= times:
                    raise TransientStoreError("home", operation)

        world.places["home"].fault = fault

    fail(1)
    assert check_in_parts(world, planned, receipts, Level.CONTENT) == [(Verdict.MATCH, None)] * 2
    assert len(reads) == 4
    fail(1000)
    results = check_in_parts(world, planned, receipts, Level.CONTENT)
    assert results == [(Verdict.UNKNOWN, "unavailable"), (Verdict.MATCH, None)]


def test_receipts_with_parts_of_two_sizes_are_checked_whole() -> None:
    """Then the parts of one end are not those of the other."""
    world = World()
    planned, receipts, _ = large(world)
    assert not PartedCheck.serves(planned, {**receipts, 1: receipts[1]._replace(part_bytes=6 * MIB)})
    assert not PartedCheck.serves(*copied(world))


def expect(planned: PlannedObject, receipts: dict[int, Receipt]) -> Expected:
    return Expected(0, planned.target_key, planned.size, receipts[0].etag)


def test_a_listing_finds_missing_different_and_extra_objects() -> None:
    """Existence, size and ETag by one listing; what no copy stands for is EXTRA."""
    world = World()
    planned, receipts = copied(world)
    extra = world.places["home"].seed("users/u1/extra", b"who wrote this")
    found = check_prefix("home", "u1", "users/u1/", [expect(planned, receipts)], None, None, world.caller)
    assert verdicts(list(found.results)) == [(Verdict.MATCH, None)]
    assert [(item.key, item.size) for item in found.extras] == [("users/u1/extra", extra.size)]
    world.places["home"].seed(planned.target_key, b"hellO")
    found = check_prefix("home", "u1", "users/u1/", [expect(planned, receipts)], None, None, world.caller)
    assert verdicts(list(found.results)) == [(Verdict.MISMATCH, "etag")]
    world.places["home"].remove(planned.target_key)
    found = check_prefix("home", "u1", "users/u1/", [expect(planned, receipts)], None, None, world.caller)
    assert verdicts(list(found.results)) == [(Verdict.MISSING, "not_found")]


def test_a_listing_that_fails_is_not_a_missing_object() -> None:
    """An error while listing never reads as "the object is gone" (Invariant 4)."""
    world = World()
    planned, receipts = copied(world)

    def fail(operation: str, key: str) -> None:
        if operation == "list":
            raise TransientStoreError("home", "list")

    world.places["home"].fault = fail
    found = check_prefix("home", "u1", "users/u1/", [expect(planned, receipts)], None, None, world.caller)
    assert verdicts(list(found.results)) == [(Verdict.UNKNOWN, "unavailable")]
    assert found.extras == ()


def test_each_batch_of_a_split_user_answers_for_its_own_range() -> None:
    """Together the ranges cover everything, so that an EXTRA object is found exactly once."""
    world = World()
    for key in ("users/u1/a", "users/u1/m", "users/u1/z", "users/u1/ümlaut"):
        world.places["home"].seed(key, b"x")
    ranges = [(None, "users/u1/m"), ("users/u1/m", "users/u1/z"), ("users/u1/z", None)]
    found = [
        extra.key
        for key_from, key_until in ranges
        for extra in check_prefix("home", "u1", "users/u1/", [], key_from, key_until, world.caller).extras
    ]
    assert sorted(found) == sorted(["users/u1/a", "users/u1/m", "users/u1/z", "users/u1/ümlaut"])
    assert not in_range("b", "b\x00", None)


def test_a_head_tells_the_same_where_there_is_no_prefix() -> None:
    """MATCH, MISMATCH by size, MISSING, and UNKNOWN where the answer did not come."""
    world = World()
    planned, receipts = copied(world)
    item = expect(planned, receipts)
    assert check_head("home", item, world.caller).verdict is Verdict.MATCH
    assert check_head("home", item._replace(size=1), world.caller).reason == "size"
    assert check_head("home", item._replace(key="users/u1/none"), world.caller).verdict is Verdict.MISSING

    def fail(operation: str, key: str) -> None:
        if key == planned.target_key:
            raise TransientStoreError("home", "head")
        raise NotFoundError("home", "head")

    world.places["home"].fault = fail
    assert check_head("home", item, world.caller).verdict is Verdict.UNKNOWN


def test_a_sample_is_the_same_for_every_worker_and_about_as_large_as_asked() -> None:
    """Decided by SHA-256: 5 % of 20,000 copies is 1,000, give or take four standard deviations."""
    digest = hashlib.sha256(b"a batch").digest()
    chosen = [ordinal for ordinal in range(20_000) if is_sampled(digest, ordinal, 50_000)]
    assert 877 <= len(chosen) <= 1123
    assert chosen == [ordinal for ordinal in range(20_000) if is_sampled(digest, ordinal, 50_000)]
    assert all(is_sampled(digest, ordinal, 1_000_000) for ordinal in range(100))
