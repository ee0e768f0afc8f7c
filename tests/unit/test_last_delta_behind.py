"""What a user's last delta takes: what changed, and whatever the ledger says is behind; and what it knows of earlier attempts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planning import MODIFIED, NOW, spec_with

from migrate.jobs.last_delta import Behind, LastDelta, Now, known_of, last_delta
from migrate.layout import compile_rules
from migrate.ledger import LateCopy
from migrate.model import DELETED, Category, Evidence, ObjectInfo, PlannedCopy, PlannedObject, Receipt, TargetRole
from migrate.planner.of_users import PlannedAt

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


def test_where_a_copy_has_drifted_only_what_an_earlier_plan_has_left_is_ours() -> None:
    """Anything else that is found there is somebody's, such as what the user wrote there before going back (Invariant 2)."""
    both = frozenset({(1, 3, 6), (1, 3, 7)})
    for behind, bounds in (
        (Behind(), {}),
        (Behind(drifted=both), {HOME: None, BACKUP: "older"}),
        (Behind(drifted=frozenset({(1, 3, 7)})), {BACKUP: "older"}),
        (Behind(moved_on=both), {}),
    ):
        (known,) = known_of(LINE, [], SPEC, behind).values()
        assert known.bounds == bounds


def test_what_an_attempt_found_at_a_target_is_not_ours_at_the_next_one() -> None:
    """Nor is anything else that comes to stand there. Its twin: what nobody saw there before the attempt is ours."""
    seen = late("us", HOME, 1, "etag", None)._replace(seen="somebody's")
    for home, bounds in ((seen, {HOME: None}), (seen._replace(seen=None), {})):
        (known,) = known_of({}, [home, late("us", BACKUP, 1, "etag", None)], SPEC).values()
        assert known.bounds == bounds
