"""What a user's last delta takes: what changed, and whatever the ledger says is behind; and what it knows of earlier attempts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning import MODIFIED, NOW, spec_with

from migrate.errors import LaterError
from migrate.jobs.last_delta import Behind, Known, LastDelta, Now, known_of, last_delta, ours_at_targets
from migrate.layout import compile_rules
from migrate.ledger import LateCopy, LateRef
from migrate.model import DELETED, Category, Evidence, ObjectInfo, PlannedCopy, PlannedObject, Receipt, TargetRole
from migrate.planner.of_users import PlannedAt, SourceKey

SPEC = spec_with()
KEY = "users/anna/photos/1"
HOME, BACKUP = TargetRole.HOME, TargetRole.BACKUP
AT = {HOME: "hamar", BACKUP: "dublin-1"}
PLANNED = PlannedObject(
    "anna", "us", KEY, None, "etag", 1, MODIFIED, Category.RESTRICTED, "photos", KEY, None,
    (PlannedCopy(6, HOME, "hamar"), PlannedCopy(7, BACKUP, "dublin-1", replaces="older")),
)  # fmt: skip
LINE = {("us", KEY): PlannedAt(PLANNED, 1, 3)}
RECEIPT = Receipt(bytes(32), 0, bytes(32), "there", None, Evidence.MD5, NOW)
UNCHANGED: Now = {("us", KEY): ("us", ObjectInfo(KEY, 1, "etag", MODIFIED))}


def late(store: str, role: TargetRole, run_id: int, etag: str, receipt: Receipt | None = RECEIPT) -> LateCopy:
    return LateCopy(
        user_id="anna",
        plan_id=1,
        run_id=run_id,
        store=store,
        key=KEY,
        role=role,
        version_id=None,
        etag=etag,
        size=1,
        last_modified=MODIFIED,
        category=Category.RESTRICTED,
        rule="photos",
        flag=None,
        target_store=AT[role],
        target_key=KEY,
        receipt=receipt,
    )


def taken(behind: Behind, now: Now, copies: tuple[LateCopy, ...] = ()) -> LastDelta:
    known = known_of(LINE, copies, SPEC, behind)
    return last_delta(
        "anna", "hamar", "dublin-1", known, now, SPEC, compile_rules(SPEC.layout.rules), seen=MODIFIED
    )  # fmt: skip


@pytest.mark.parametrize("newest", ["us", "singapore"])
def test_of_a_source_and_its_backup_the_newest_attempt_is_known(newest: str) -> None:
    """Whatever the stores are called, and whichever of them the ledger tells of last."""
    other = {"us": "singapore", "singapore": "us"}[newest]
    copies = [late(store, role, run, store) for store, run in ((newest, 2), (other, 1)) for role in AT]
    for order in (copies, copies[::-1]):
        (known,) = known_of({}, order, SPEC).values()
        assert (known.planned.store, known.planned.etag, known.is_settled) == (newest, newest, True)
        assert [copy.role for copy in known.planned.copies] == [HOME, BACKUP]


def test_of_one_place_the_newest_attempt_says_what_the_object_is() -> None:
    """What a rollback has sent back stands for the home alone: an earlier cutover's copy at the backup is older."""
    copies = [late("us", BACKUP, 1, "older"), late("us", HOME, 2, "sent back")]
    (known,) = known_of(LINE, copies, SPEC).values()
    assert (known.planned.etag, len(known.planned.copies)) == ("sent back", 2)


@pytest.mark.parametrize("kind", ["drifted", "moved_on"])
def test_what_is_behind_is_taken_whatever_the_sources_show(kind: str) -> None:
    """Unchanged by its listing, changed, or gone: copied, copied, removed (Invariant 9). Its twin is left alone."""
    behind = replace(Behind(), **{kind: frozenset({(1, 3, 6)})})
    for other in (Behind(), replace(Behind(), **{kind: frozenset({(0, 3, 6), (1, 2, 6), (1, 3, 5)})})):
        assert taken(other, UNCHANGED).objects == ()
    (found,) = taken(behind, UNCHANGED).objects
    assert (found.flag, found.etag, [copy.role for copy in found.copies]) == (None, "etag", [HOME, BACKUP])
    changed: Now = {("us", KEY): ("us", ObjectInfo(KEY, 2, "another", NOW))}
    (found,) = taken(behind, changed).objects
    assert (found.flag, found.etag) == (None, "another")
    (found,) = taken(behind, {}).objects
    assert (found.flag, len(found.copies)) == (DELETED, 2)


def test_what_is_behind_is_taken_again_whatever_an_earlier_attempt_has_brought() -> None:
    """No verification looks at it in between. Of what is not behind one receipt a copy is enough."""
    home, backup = late("us", HOME, 1, "etag"), late("us", BACKUP, 1, "etag")
    assert taken(Behind(), UNCHANGED, (home, backup)).objects == ()
    assert len(taken(Behind(), UNCHANGED, (home, backup._replace(receipt=None))).objects) == 1
    assert len(taken(Behind(drifted=frozenset({(1, 3, 6)})), UNCHANGED, (home, backup)).objects) == 1


def test_where_a_copy_has_drifted_only_what_a_plan_has_left_is_ours() -> None:
    """An earlier one, or this one before its source changed. Anything else that is found there is somebody's, such as what the
    user wrote there before going back (Invariant 2)."""
    both = frozenset({(1, 3, 6), (1, 3, 7)})
    for behind, bounds in (
        (Behind(), {}),
        (Behind(drifted=both), {HOME: {"etag"}, BACKUP: {"etag", "older"}}),
        (Behind(drifted=frozenset({(1, 3, 7)})), {BACKUP: {"etag", "older"}}),
        (Behind(moved_on=both), {}),
    ):
        (known,) = known_of(LINE, [], SPEC, behind).values()
        assert known.bounds == bounds


CHANGED = PLANNED._replace(etag="new", copies=(PlannedCopy(0, HOME, "hamar"), PlannedCopy(1, BACKUP, "dublin-1")))
AT_HOME, AT_BACKUP = ("us", KEY, HOME), ("us", KEY, BACKUP)


@pytest.mark.parametrize(
    ("known", "there", "expected"),
    [
        ({}, {}, {}),
        ({}, {("hamar", KEY): "new"}, {AT_HOME: "new"}),
        ({}, {("hamar", KEY): "somebody's"}, None),
        ({("us", KEY): Known(PLANNED, False)}, {("hamar", KEY): "whatever"}, {AT_HOME: "whatever"}),
        ({("us", KEY): Known(PLANNED, False, {HOME: frozenset({"older"})})}, {("hamar", KEY): "whatever"}, None),
        (
            {("us", KEY): Known(PLANNED, False, {HOME: frozenset({"older"})})},
            {("hamar", KEY): "older", ("dublin-1", KEY): "whatever"},
            {AT_HOME: "older", AT_BACKUP: "whatever"},
        ),
        ({("us", KEY): Known(PLANNED._replace(target_key="other"), True)}, {("hamar", KEY): "whatever"}, None),
    ],
)
def test_only_what_is_ours_is_replaced(
    known: dict[SourceKey, Known], there: dict[tuple[str, str], str], expected: dict[LateRef, str] | None
) -> None:
    """Where nothing is known what has the source's ETag is a copy of it. None: the key is occupied, and nothing is sent."""
    if expected is None:
        with pytest.raises(LaterError, match="occupied"):
            ours_at_targets([CHANGED], known, there, SPEC)
    else:
        assert ours_at_targets([CHANGED], known, there, SPEC) == expected


def test_a_removal_that_broke_off_behind_a_marker_is_ended_by_its_etag() -> None:
    """Nothing shows under the key any more. What is to be copied there again removes nothing."""
    seen = late("us", HOME, 1, "etag", None)._replace(flag=DELETED, seen="ours")
    known = known_of({}, [seen, late("us", BACKUP, 1, "etag", None)._replace(flag=DELETED)], SPEC)
    gone = CHANGED._replace(flag=DELETED)
    assert ours_at_targets([gone], known, {}, SPEC) == {AT_HOME: "ours"}
    assert ours_at_targets([gone], known, {("hamar", KEY): "current"}, SPEC) == {AT_HOME: "current"}
    assert ours_at_targets([CHANGED], known, {}, SPEC) == {}
