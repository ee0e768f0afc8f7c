"""One object that is copied in parts."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace

import pytest
from moving import MIB, QUICK, PartedRun, World, now

from migrate.errors import DeniedError, NotFoundError, TransientStoreError
from migrate.model import Attributes, Evidence, Outcome, PlannedObject, composite_sha256
from migrate.stores.memory import ALL_CAPABILITIES, MemoryStore
from migrate.transfer.caller import Caller
from migrate.transfer.parted import PartedCopy
from migrate.transfer.parts import Begun, Finished, OrderedMd5, Upload

BODY = b"".join(bytes([number]) * MIB for number in range(12))  # three parts of five, five and two MiB
PARTS = [BODY[: 5 * MIB], BODY[5 * MIB : 10 * MIB], BODY[10 * MIB :]]
SHA256 = composite_sha256(hashlib.sha256(part).digest() for part in PARTS)


def composite(body: bytes, part: int) -> str:
    md5s = [hashlib.md5(body[start : start + part]).digest() for start in range(0, len(body), part)]
    return f"{hashlib.md5(b''.join(md5s)).hexdigest()}-{len(md5s)}"


def parted(
    world: World, planned: PlannedObject, run: PartedRun, repairs: dict[int, str | None] | None = None
) -> PartedCopy:
    return PartedCopy(
        planned,
        planned.copies,
        run.known(),
        repairs or {},
        caller=world.caller,
        configured_part_bytes=5 * MIB,
        now=now,
    )


def seed(world: World, *, etag: str | None = None, tags: dict[str, str] | None = None) -> PlannedObject:
    attributes = Attributes(content_type="video/mp4", metadata=(("a", "b"),))
    return world.plan(world.places["us"].seed("big", BODY, etag=etag, attributes=attributes, tags=tags))


def test_parts_are_read_once_and_sent_to_both_targets() -> None:
    """Home and backup get the same parts from one read each; the digest is composite, and attributes and tags are kept."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB), tags={"kind": "film"})
    reads: list[str] = []
    world.places["us"].fault = lambda operation, key: reads.append(operation)
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert reads.count("get") == 3
    for result, name in zip(results, ("home", "backup"), strict=True):
        found = world.places[name].find("big")
        assert found is not None
        assert found.body == BODY
        assert found.tags == {"kind": "film"}
        assert found.info.attributes.metadata == (("a", "b"),)
        assert result.receipt is not None
        assert (result.receipt.sha256, result.receipt.part_bytes) == (SHA256, 5 * MIB)
        assert result.receipt.evidence is Evidence.COMPOSITE
        assert result.receipt.etag == planned.etag


def test_a_killed_copy_goes_on_at_the_next_part() -> None:
    """After two parts and a crash, only the third is read and sent; nothing is left behind."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2)
    reads: list[str] = []
    world.places["us"].fault = lambda operation, key: reads.append(operation)
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert reads.count("get") == 1
    assert world.body("home", "big") == BODY
    assert not world.places["home"].uploads


def test_the_store_and_not_the_ledger_says_which_parts_are_there() -> None:
    """A part that the ledger remembers and the store does not have is sent again."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2)
    upload = next(iter(world.places["home"].uploads.values()))
    del upload.parts[1]
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert world.body("home", "big") == BODY


def test_a_crash_between_complete_and_receipt_is_recognised() -> None:
    """The upload is gone and the object there, equal to the parts in the ledger: the receipt is written, nothing is sent."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run))  # the results of this life are lost
    run.results.clear()
    sent: list[str] = []
    world.places["home"].fault = lambda operation, key: sent.append(operation)
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert "put_part" not in sent
    assert [result.receipt.sha256 for result in results if result.receipt] == [SHA256] * 2


def test_an_upload_that_the_ledger_lost_is_aborted() -> None:
    """Parts that nobody answers for are data in the wrong hands: they go before a new upload begins."""
    world = World()
    planned = seed(world)
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=1)
    fresh = PartedRun()
    results = fresh.drive(parted(world, planned, fresh))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert not world.places["home"].uploads


def test_an_upload_that_was_begun_with_other_attributes_is_not_gone_on_with() -> None:
    """The source's metadata was rewritten between two lives: the object gets what the source has now."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=1)
    world.places["us"].seed("big", BODY, etag=planned.etag, attributes=Attributes(content_type="video/webm"))
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    found = world.places["home"].find("big")
    assert found is not None
    assert found.info.attributes.content_type == "video/webm"


def test_a_plain_md5_is_proven_over_the_whole_even_after_a_resume() -> None:
    """Where the ETag is one MD5, parts sent earlier are read again, not sent again; the evidence is md5."""
    world = World()
    planned = seed(world)
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2)
    sent: list[str] = []
    world.places["home"].fault = lambda operation, key: sent.append(operation)
    results = run.drive(parted(world, planned, run))
    assert [result.receipt.evidence for result in results if result.receipt] == [Evidence.MD5] * 2
    assert sent.count("put_part") == 1


def test_a_flipped_bit_in_a_large_object_is_found_before_it_is_joined() -> None:
    """The MD5 over all parts is not the ETag: quarantined, the parts are taken away; the true twin passes above."""
    world = World()
    planned = seed(world, etag=hashlib.md5(b"another body").hexdigest())
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, "corrupt_body")}
    assert world.body("home", "big") is None
    assert not world.places["home"].uploads


def test_a_source_that_changes_between_parts_is_drifted() -> None:
    """Never half old and half new: If-Match on each part; what was sent is taken away (Invariant 2)."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    copy = parted(world, planned, run)
    reads = iter([None, None])

    def change(operation: str, key: str) -> None:
        if operation == "get" and next(reads, 1) == 1:
            world.places["us"].fault = lambda operation, key: None
            world.places["us"].seed("big", b"new")

    world.places["us"].fault = change
    results = run.drive(copy)
    assert [(result.outcome, result.reason) for result in results] == [(Outcome.DRIFTED, "changed")] * 2
    assert world.body("home", "big") is None
    assert not world.places["home"].uploads


def test_one_target_that_fails_does_not_hold_the_other() -> None:
    """Each copy has its own outcome: the backup is quarantined, the home is copied."""
    world = World()
    planned = seed(world)

    def fail(operation: str, key: str) -> None:
        if operation == "put_part":
            raise TransientStoreError("backup", "put_part")

    world.places["backup"].fault = fail
    run = PartedRun()
    outcomes = {result.ordinal: (result.outcome, result.reason) for result in run.drive(parted(world, planned, run))}
    assert outcomes == {0: (Outcome.COPIED, None), 1: (Outcome.QUARANTINED, "unavailable")}
    assert not world.places["backup"].uploads


def test_a_lost_answer_to_complete_is_recognised() -> None:
    """Complete took effect and its answer was lost: the second try finds no upload, but the object."""
    world = World()
    planned = seed(world)
    lost = iter([True])

    def lose(operation: str, key: str) -> None:
        if operation == "complete_upload" and next(lost, False):
            raise TransientStoreError("home", "complete_upload")

    world.places["home"].after = lose
    run = PartedRun()
    assert [result.outcome for result in run.drive(parted(world, planned, run))] == [Outcome.COPIED] * 2


def test_an_equal_large_object_is_present_and_another_is_left_alone() -> None:
    """What is at the target already is compared by reading both ends (Invariant 2)."""
    world = World()
    planned = seed(world)
    source = world.places["us"].find("big")
    assert source is not None
    world.places["home"].seed("big", BODY, attributes=source.info.attributes)
    world.places["backup"].seed("big", BODY[:-1] + b"!", attributes=source.info.attributes)
    run = PartedRun()
    outcomes = {result.ordinal: (result.outcome, result.reason) for result in run.drive(parted(world, planned, run))}
    assert outcomes == {0: (Outcome.PRESENT, None), 1: (Outcome.QUARANTINED, "occupied")}


def test_a_repair_of_a_large_object_replaces_what_was_seen() -> None:
    """The ETag that the verification saw may be replaced, in parts as well."""
    world = World()
    planned = seed(world)._replace(copies=seed(world).copies[:1])
    bad = world.places["home"].seed("big", BODY[:-1] + b"!")
    run = PartedRun()
    (result,) = run.drive(parted(world, planned, run, {0: bad.etag}))
    assert result.outcome is Outcome.COPIED
    assert world.body("home", "big") == BODY


def test_a_target_without_multipart_refuses_a_large_object() -> None:
    """What cannot be kept is said, not tried."""
    world = World(target_able=replace(ALL_CAPABILITIES, multipart=False))
    planned = seed(world)
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, "cannot_keep")}


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 2, 1), (2, 3, 1)])
def test_the_md5_over_parts_is_in_order_whatever_order_they_arrive_in(order: tuple[int, ...]) -> None:
    """Parts wait for their turn."""
    ordered = OrderedMd5()
    threads = [threading.Thread(target=ordered.feed, args=(number, PARTS[number - 1])) for number in order]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert ordered.digest() == hashlib.md5(BODY).digest()


def test_uploads_known_with_another_part_size_are_begun_anew() -> None:
    """All workers send the same parts (Invariant 2): an upload with other ones cannot be gone on with."""
    world = World()
    planned = seed(world)
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=1)
    known = {ordinal: Upload(replace(up.started, part_bytes=6 * MIB), up.parts) for ordinal, up in run.known().items()}
    copy = PartedCopy(planned, planned.copies, known, {}, caller=world.caller, configured_part_bytes=5 * MIB, now=now)
    fresh = PartedRun()
    assert [result.outcome for result in fresh.drive(copy)] == [Outcome.COPIED] * 2
    assert not world.places["home"].uploads


def finish(copy: PartedCopy) -> list[tuple[Outcome, str | None]]:
    done = copy.finish().run()
    assert isinstance(done, Finished)
    return [(result.outcome, result.reason) for result in done.settled]


@pytest.mark.parametrize("repairs", [{}, {0: "what-a-verification-saw"}])
def test_what_came_to_the_key_while_parts_were_sent_is_left_alone(repairs: dict[int, str | None]) -> None:
    """Right before the parts are joined the key is looked at: only a repair of that very ETag replaces it (Invariant 2)."""
    world = World()
    planned = seed(world)._replace(copies=seed(world).copies[:1])
    run = PartedRun()
    copy = parted(world, planned, run, repairs)
    run.drive(copy, finish=False)
    world.places["home"].seed("big", b"somebody else's")
    assert finish(copy) == [(Outcome.QUARANTINED, "occupied")]
    assert world.body("home", "big") == b"somebody else's"
    assert not world.places["home"].uploads


def test_a_resumed_copy_looks_at_the_key_before_it_sends_more() -> None:
    """What came to the key between two lives is left alone, and no further part is sent to it (Invariant 2)."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2)
    world.places["home"].seed("big", b"somebody else's")
    sent: list[str] = []
    world.places["home"].fault = lambda operation, key: sent.append(operation)
    results = {result.ordinal: result for result in run.drive(parted(world, planned, run))}
    assert (results[0].reason, results[1].outcome) == ("occupied", Outcome.COPIED)
    assert "put_part" not in sent
    assert world.body("home", "big") == b"somebody else's"
    assert not world.places["home"].uploads


def lose_tags(world: World, name: str = "home") -> None:
    found = world.places[name].find("big")
    assert found is not None
    found.tags, found.info = {}, replace(found.info, tag_count=0)


def tags_at(world: World, name: str = "home") -> dict[str, str]:
    found = world.places[name].find("big")
    assert found is not None
    return found.tags


def test_tags_that_were_lost_after_the_join_are_set_before_the_receipt() -> None:
    """Joined, but tagging failed: the next try finds our object without tags, sets them, and then gives the receipt."""
    world = World()
    planned = seed(world, tags={"kind": "film"})
    lost = iter([True])

    def fail(operation: str, key: str) -> None:
        if operation == "complete_upload" and next(lost, False):
            lose_tags(world)
            raise TransientStoreError("home", "put tags")

    world.places["home"].after = fail
    run = PartedRun()
    assert [result.outcome for result in run.drive(parted(world, planned, run))] == [Outcome.COPIED] * 2
    assert tags_at(world) == {"kind": "film"}


def test_a_crash_between_join_and_tags_is_mended_by_the_next_life() -> None:
    """The object is equal to the parts in the ledger and has no tags: they are set, and it is copied, not occupied."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB), tags={"kind": "film"})
    run = PartedRun()
    run.drive(parted(world, planned, run))
    run.results.clear()
    lose_tags(world)
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert tags_at(world) == {"kind": "film"}


@pytest.mark.parametrize("difference", ["attributes", "tags"])
def test_our_parts_with_what_somebody_else_set_are_not_ours(difference: str) -> None:
    """Equal content with other attributes, or tags that somebody set, is left alone (Invariant 2)."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB), tags={"kind": "film"})
    run = PartedRun()
    run.drive(parted(world, planned, run))
    run.results.clear()
    found = world.places["home"].find("big")
    assert found is not None
    attributes = Attributes(content_type="other/type") if difference == "attributes" else found.info.attributes
    tags = {"theirs": "yes"} if difference == "tags" else found.tags
    world.places["home"].seed("big", BODY, etag=planned.etag, attributes=attributes, tags=tags)
    results = {result.ordinal: result.reason for result in run.drive(parted(world, planned, run))}
    assert results == {0: "occupied", 1: None}
    assert tags_at(world) == tags


NO_MD5 = replace(ALL_CAPABILITIES, etag_is_md5=False)


def test_an_old_object_is_not_taken_for_the_joined_one_where_etags_say_nothing() -> None:
    """The upload is gone and what was to be repaired still there, of the same size: no receipt (Invariant 1)."""
    world = World(target_able=NO_MD5)
    planned = seed(world)._replace(copies=seed(world).copies[:1])
    source = world.places["us"].find("big")
    assert source is not None
    bad = world.places["home"].seed("big", BODY[:-1] + b"!", etag="f" * 40, attributes=source.info.attributes)

    def vanish(operation: str, key: str) -> None:
        if operation == "complete_upload":
            raise NotFoundError("home", "complete_upload", key=key)

    world.places["home"].fault = vanish
    run = PartedRun()
    (result,) = run.drive(parted(world, planned, run, {0: bad.etag}))
    assert (result.outcome, result.receipt) == (Outcome.QUARANTINED, None)


def test_a_lost_answer_is_recognised_by_content_where_etags_say_nothing() -> None:
    """The true twin: the joined object is read again, and its composite SHA-256 is that of the parts."""
    world = World(target_able=NO_MD5)
    planned = seed(world)
    lost = iter([True])

    def lose(operation: str, key: str) -> None:
        if operation == "complete_upload" and next(lost, False):
            raise TransientStoreError("home", "complete_upload")

    world.places["home"].after = lose
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert [result.receipt.sha256 for result in results if result.receipt] == [SHA256] * 2


def test_a_repair_replaces_rotten_bytes_under_an_etag_that_looks_right() -> None:
    """The verification read the bytes and they were wrong: then the ETag proves nothing, and the object is sent again."""
    world = World()
    planned = seed(world)._replace(copies=seed(world).copies[:1])
    run = PartedRun()
    run.drive(parted(world, planned, run))
    run.results.clear()
    found = world.places["home"].find("big")
    assert found is not None
    found.body = BODY[:-1] + b"!"
    (result,) = run.drive(parted(world, planned, run, {0: found.info.etag}))
    assert result.outcome is Outcome.COPIED
    assert world.body("home", "big") == BODY


def test_a_source_that_changes_while_it_is_compared_is_drifted() -> None:
    """The target has an object to compare with, and the source is rewritten meanwhile: drifted, and the run goes on."""
    world = World()
    planned = seed(world)
    source = world.places["us"].find("big")
    assert source is not None
    for name in ("home", "backup"):
        world.places[name].seed("big", BODY, attributes=source.info.attributes)

    def change(operation: str, key: str) -> None:
        if operation == "get":
            world.places["us"].fault = lambda operation, key: None
            world.places["us"].seed("big", b"new")

    world.places["us"].fault = change
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [(result.outcome, result.reason) for result in results] == [(Outcome.DRIFTED, "changed")] * 2


def test_a_large_source_that_is_gone_is_drifted() -> None:
    """A 404 at the first look, and at a second one, is a deletion and nobody's fault."""
    world = World()
    planned = seed(world)
    world.places["us"].remove("big")
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [(result.outcome, result.reason) for result in results] == [(Outcome.DRIFTED, "gone")] * 2


def bend(world: World, what: str, *, lost_answer: bool = False) -> None:
    """Let the home store change `what` of an object when it joins its parts, as Ceph does with `_` in a name."""

    def after(operation: str, key: str) -> None:
        if operation != "complete_upload":
            return
        found = world.places["home"].find(key)
        assert found is not None
        if what == "tags":
            found.tags = {"kind": "movie"}
        else:
            names = tuple((name.replace("a", "-"), value) for name, value in found.info.attributes.metadata)
            changed = replace(found.info.attributes, metadata=names if what == "names" else ())
            found.info = replace(found.info, attributes=changed)
        if lost_answer:
            raise TransientStoreError("home", operation)

    world.places["home"].after = after


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize(
    ("what", "lost_answer"),
    [("names", False), ("names", True), ("all metadata", False), ("all metadata", True), ("tags", False)],
)
def test_what_a_store_bends_when_it_joins_is_no_copy(what: str, lost_answer: bool, versioned: bool) -> None:
    """Renamed or dropped metadata, other tags: cannot_keep, and what the store made of it is not left there (Invariant 1)."""
    world = World()
    world.places["home"].versioned = versioned
    planned = seed(world, tags={"kind": "film"})
    bend(world, what, lost_answer=lost_answer)
    run = PartedRun()
    results = {result.ordinal: result for result in run.drive(parted(world, planned, run))}
    assert (results[0].outcome, results[0].reason) == (Outcome.QUARANTINED, "cannot_keep")
    assert results[1].outcome is Outcome.COPIED
    assert world.body("home", "big") is None
    assert world.places["home"].versions("") == []
    assert not world.places["home"].uploads


def test_a_bent_object_that_cannot_be_deleted_is_told_of() -> None:
    """No right to delete: the copy is cannot_keep all the same, and its detail says what still lies there."""
    world = World()
    planned = seed(world)
    bend(world, "names")

    def deny(operation: str, key: str) -> None:
        if operation == "delete":
            raise DeniedError("home", operation)

    world.places["home"].fault = deny
    run = PartedRun()
    results = {result.ordinal: result for result in run.drive(parted(world, planned, run))}
    assert results[0].reason == "cannot_keep"
    assert "could not be deleted" in (results[0].detail or "")


def test_what_was_not_joined_by_us_is_not_taken_away() -> None:
    """Somebody else's object with our bytes and other metadata comes to the key before the join: it stays (Invariant 2)."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    copy = parted(world, planned, run)
    run.drive(copy, finish=False)
    theirs = Attributes(content_type="video/mp4", metadata=(("theirs", "yes"),))
    world.places["home"].seed("big", BODY, etag=planned.etag, attributes=theirs)
    assert finish(copy)[0] == (Outcome.QUARANTINED, "occupied")
    assert world.body("home", "big") == BODY


def test_a_part_that_was_read_wrong_in_an_earlier_life_is_sent_again() -> None:
    """The MD5 of what is read now proves what lies at the target only where each part sent earlier is equal (Invariant 1)."""
    world = World()
    planned = seed(world)
    assert planned.etag == hashlib.md5(BODY).hexdigest()
    source = world.places["us"].find("big")
    assert source is not None
    source.body = b"?" + BODY[1:]  # what came over the wire in the first life
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2)
    source.body = BODY
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert [result.receipt.evidence for result in results if result.receipt] == [Evidence.MD5] * 2
    assert [world.body(name, "big") == BODY for name in ("home", "backup")] == [True, True]
    assert [result.receipt.sha256 for result in results if result.receipt] == [SHA256] * 2


@pytest.mark.parametrize("is_known", [True, False])
def test_a_source_that_changed_before_a_resume_leaves_no_parts_behind(is_known: bool) -> None:
    """The copy is drifted and the ledger forgets its upload, so that nobody would look for the parts again."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    run = PartedRun()
    run.drive(parted(world, planned, run), stop_after_parts=2, finish=False)
    assert len(world.places["home"].uploads) == 1
    world.places["us"].seed("big", b"another")
    results = PartedRun().drive(parted(world, planned, run if is_known else PartedRun()))
    assert [result.outcome for result in results] == [Outcome.DRIFTED] * 2
    assert not world.places["home"].uploads
    assert not world.places["backup"].uploads


def test_an_upload_is_aborted_where_the_join_fails_for_good() -> None:
    """The copy is quarantined, and what was sent does not stay at the target."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))

    def fault(operation: str, key: str) -> None:
        if operation == "complete_upload":
            raise TransientStoreError("home", operation, "500")

    world.places["home"].fault = fault
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert {result.ordinal: result.outcome for result in results} == {0: Outcome.QUARANTINED, 1: Outcome.COPIED}
    assert not world.places["home"].uploads


def test_a_worker_without_its_lease_takes_away_what_it_began_and_nothing_else() -> None:
    """Whoever has the batch now goes on with an upload of its own (design, invariant 5)."""
    world = World()
    planned = seed(world, etag=composite(BODY, 5 * MIB))
    stale = parted(world, planned, PartedRun())
    begun = stale.begin().run()
    assert isinstance(begun, Begun)
    others = [world.open(name).create_upload("big", attributes=Attributes()) for name in ("home", "backup")]
    ended = stale.give_up(begun.started).run()
    assert isinstance(ended, Finished)
    assert not ended.settled
    assert [list(world.places[name].uploads) for name in ("home", "backup")] == [[other] for other in others]


def seed_there(world: World, body: bytes = BODY) -> PlannedObject:
    """The source's object, and at both targets one with its attributes and this body; its ETag does not say that it is equal."""
    planned = seed(world)
    source = world.places["us"].find("big")
    assert source is not None
    for name in ("home", "backup"):
        world.places[name].seed("big", body, attributes=source.info.attributes)
    return planned


class Unsteady:
    """Breaks each GET off as often as it may break without being final, and counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.gets = 0

    def __call__(self, operation: str, key: str) -> None:
        if operation == "get" and key == "big":
            self.gets += 1
            if self.gets % QUICK.attempts:
                raise TransientStoreError(self.name, operation, "the connection broke", key=key)


def test_a_comparison_goes_on_at_the_part_where_it_broke_off() -> None:
    """Each part of each end has tries and time of its own: what is there is present, and no part is read again in vain."""
    world = World()
    planned = seed_there(world)
    faults = {name: Unsteady(name) for name in world.places}
    for name, fault in faults.items():
        world.places[name].fault = fault
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.PRESENT] * 2
    assert [(result.receipt.sha256, result.receipt.evidence) for result in results if result.receipt] == [
        (SHA256, Evidence.MD5)
    ] * 2
    assert {fault.gets for fault in faults.values()} == {QUICK.attempts * len(PARTS)}


@pytest.mark.parametrize("part", range(len(PARTS)))
def test_an_object_that_differs_in_one_part_is_left_alone(part: int) -> None:
    """The twin: one byte of one part is another, and both copies are occupied (Invariant 2)."""
    world = World()
    at = part * 5 * MIB
    other = BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :]
    planned = seed_there(world, other)
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert {(result.outcome, result.reason) for result in results} == {(Outcome.QUARANTINED, "occupied")}
    assert world.body("home", "big") == other
    assert not world.places["home"].uploads


def test_a_joined_object_is_looked_at_part_by_part_where_etags_say_nothing() -> None:
    """The answer to the join was lost, and each GET breaks off as often as it may: it is recognised all the same."""
    world = World(target_able=NO_MD5)
    planned = seed(world)
    lost = iter([True])

    def lose(operation: str, key: str) -> None:
        if operation == "complete_upload" and next(lost, False):
            found = world.places["home"].find("big")
            assert found is not None
            found.info = replace(found.info, etag="f" * 40)
            raise TransientStoreError("home", "complete_upload")

    world.places["home"].after = lose
    world.places["home"].fault = Unsteady("home")
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.COPIED] * 2
    assert world.places["home"].fault.gets == QUICK.attempts * len(PARTS)


@pytest.mark.parametrize(("guarded", "expected"), [(True, 3), (False, 6)])
@pytest.mark.parametrize("is_there", [False, True])
def test_parts_that_no_etag_can_prove_are_read_twice_where_nothing_guards_the_way(
    guarded: bool, expected: int, is_there: bool
) -> None:
    """An ETag that is neither an MD5 nor of as many parts promises no proof; over TLS one read is enough (Invariant 1)."""
    world = World()
    planned = seed(world, etag="opaque")
    source = world.places["us"].find("big")
    assert source is not None
    for name in ("home", "backup") if is_there else ():
        world.places[name].seed("big", BODY, attributes=source.info.attributes)
    reads: list[str] = []
    world.places["us"].fault = lambda operation, key: reads.append(operation)

    def open_so(name: str) -> MemoryStore:
        store = world.open(name)
        store.guarded = guarded
        return store

    world.caller = Caller(open_so, concurrency=lambda name: 4, retry=QUICK)
    run = PartedRun()
    results = run.drive(parted(world, planned, run))
    assert [result.outcome for result in results] == [Outcome.PRESENT if is_there else Outcome.COPIED] * 2
    assert [result.receipt.evidence for result in results if result.receipt] == [Evidence.LENGTH] * 2
    assert reads.count("get") == expected


def test_only_jobs_that_say_so_hold_bodies() -> None:
    """The first look costs nothing and reads nothing; each part costs its bytes, also where it is compared (Invariant 11)."""
    world = World()
    planned = seed_there(world)
    reads: list[str] = []
    world.places["us"].fault = lambda operation, key: reads.append(operation)
    copy = parted(world, planned, PartedRun())
    first = copy.begin()
    begun = first.run()
    assert isinstance(begun, Begun)
    jobs = list(copy.on_begun(begun))
    assert (first.cost, reads.count("get")) == (0, 0)
    assert [job.cost for job in jobs] == [len(part) for part in PARTS]
