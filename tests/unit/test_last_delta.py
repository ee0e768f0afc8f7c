"""The last delta of one user: what the sources show beside what is known, by the rules of any delta."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from planning import MODIFIED, NOW, THEN, spec_with

from migrate.jobs.last_delta import Known, LastDelta, last_delta
from migrate.layout import compile_rules
from migrate.model import DELETED, LEFT, Category, ObjectInfo, PlannedCopy, PlannedObject, TargetRole

RULES = [
    {"name": "lent", "pattern": "users/{other}/photos/lent/{user}/{rest}", "category": "restricted"},
    {"name": "photos", "pattern": "users/{user}/photos/{rest}", "category": "restricted"},
    {"name": "logos", "pattern": "users/{any}/logos/{rest}", "shared": True},
    {"name": "old", "pattern": "old/{user}/{rest}", "target": "users/{user}/photos/{rest}", "category": "restricted"},
]
SPEC = spec_with(layout={"rules": RULES}, reconcile={"backup_only": {"restricted": "copy"}})
COMPILED = compile_rules(SPEC.layout.rules)
KEY = "users/anna/photos/0"
COPIES = (PlannedCopy(0, TargetRole.HOME, "hamar"), PlannedCopy(1, TargetRole.BACKUP, "dublin-1"))
INFO = ObjectInfo(KEY, 10, "e", MODIFIED, version_id="v")
PLANNED = PlannedObject(
    "anna", "us", KEY, "v", "e", 10, MODIFIED, Category.RESTRICTED, "photos", KEY, None, COPIES
)  # fmt: skip


def found(known: dict[str, Known], *now: ObjectInfo, store: str = "us") -> LastDelta:
    return last_delta(
        "anna",
        "hamar",
        "dublin-1",
        {("us", key): each for key, each in known.items()},
        {("us", info.key): (store, info) for info in now},
        SPEC,
        COMPILED,
        seen=THEN,
    )


def shape(delta: LastDelta) -> list[tuple[str, str, str | None, int]]:
    assert all(planned.copies == COPIES for planned in delta.objects)
    return [(planned.store, planned.key, planned.flag, planned.size) for planned in delta.objects]


@pytest.mark.parametrize(
    "info", [INFO, replace(INFO, version_id=None), replace(INFO, last_modified=MODIFIED.replace(microsecond=0))]
)
def test_what_is_as_it_was_planned_is_let_be(info: ObjectInfo) -> None:
    """A version that a listing does not show, and times with fewer digits, are no change."""
    assert found({KEY: Known(PLANNED, True)}, info) == LastDelta((), 0, 0)


@pytest.mark.parametrize(
    "info",
    [
        replace(INFO, size=11),
        replace(INFO, etag="other"),
        replace(INFO, version_id="w"),
        replace(INFO, last_modified=MODIFIED + timedelta(seconds=1)),
    ],
)
def test_what_differs_is_copied(info: ObjectInfo) -> None:
    """As the source shows it now; so is what has no receipt, and what is new."""
    assert shape(found({KEY: Known(PLANNED, True)}, info)) == [("us", KEY, None, info.size)]
    assert shape(found({KEY: Known(PLANNED, False)}, INFO)) == [("us", KEY, None, 10)]
    assert shape(found({}, info)) == [("us", KEY, None, info.size)]
    assert [planned.etag for planned in found({}, info).objects] == [info.etag]


def test_what_is_gone_is_removed_once() -> None:
    """Until its tombstone has its receipts; one who left the scope is not called deleted. What comes to be there again is new."""
    assert shape(found({KEY: Known(PLANNED, True)})) == [("us", KEY, DELETED, 10)]
    for flag in (DELETED, LEFT):
        gone = PLANNED._replace(flag=flag)
        assert shape(found({KEY: Known(gone, False)})) == [("us", KEY, flag, 10)]
        assert shape(found({KEY: Known(gone, True)})) == []
        assert shape(found({KEY: Known(gone, True)}, INFO)) == [("us", KEY, None, 10)]


def test_what_a_backup_alone_has_is_read_from_there() -> None:
    """The same object at another store is another one."""
    of_backup = PLANNED._replace(store="singapore")
    assert shape(found({KEY: Known(of_backup, True)}, INFO, store="singapore")) == []
    assert shape(found({KEY: Known(of_backup, True)}, INFO)) == [("us", KEY, None, 10)]


def test_keys_that_no_rule_knows_count_where_they_are_new() -> None:
    """Of those that were there when the plan was made somebody has decided. What is shared, or another user's, is let be."""
    there = ObjectInfo("users/anna/mail/1", 1, "e", THEN)
    new = replace(there, last_modified=NOW)
    others = [replace(new, key=key) for key in ("users/anna/logos/1", "users/anna/photos/lent/bjorn/1")]
    assert found({}, there) == LastDelta((), 0, 0)
    assert found({}, new) == LastDelta((), 1, 0)
    assert found({}, *others) == LastDelta((), 0, 0)


def test_two_keys_that_would_take_one_are_told() -> None:
    """At each of the two sites; also where one of them is about to go, for nobody knows in which order."""
    other = replace(INFO, key="old/anna/0")
    assert found({KEY: Known(PLANNED, True)}, INFO, other).collisions == 2
    assert found({KEY: Known(PLANNED, True)}, other).collisions == 2
    assert found({}, other).collisions == 0
