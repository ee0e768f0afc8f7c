"""The gate before a cutover: each check by its corrupted twin, and nothing of a user for whom all is well."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from migrate.jobs.cutover_gate import CHECKS, Seen, missing
from migrate.jobs.last_delta import LastDelta
from migrate.ledger import Candidate
from migrate.model import Category, PlannedObject
from migrate.routing import Route
from migrate.spec.routing import Routing
from migrate.spec.sections import Cutover
from migrate.states import UserState

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
LIMITS = Cutover(lag_max=3600, objects_max=50, late_bytes_max=1000, late_objects_max=3)
CANDIDATE = Candidate(
    user_id="anna",
    state=UserState.VERIFIED,
    home="hamar",
    backup="dublin-1",
    copies=4,
    good=4,
    quarantined=0,
    behind=0,
    matched_pass=1,
    is_proven=True,
    extras=0,
    is_on_hold=False,
)
SEEN = Seen(
    candidate=CANDIDATE,
    planned="planned",
    behind=0,
    route=Route("us"),
    source_sites=frozenset({"us"}),
    sources_seen=NOW - timedelta(hours=1),
    now=NOW,
    unlistable=(),
    objects=50,
    listing_seconds=10.0,
    late=LastDelta((), 0),
    lost=0,
    unshared_sites=frozenset({"dublin-2"}),
    limits=LIMITS,
    freeze_seconds=30,
)


def late(number: int, size: int) -> LastDelta:
    one = PlannedObject("anna", "us", "k", None, "e", size, NOW, Category.RESTRICTED, "photos", "k", None, ())
    return LastDelta((one,) * number, 0)


def of_user(**facts: Any) -> Seen:
    return replace(SEEN, candidate=CANDIDATE._replace(**facts))


ONE_BEHIND = replace(of_user(state=UserState.COPYING, good=3, behind=1, is_proven=False), behind=1)


TWINS: dict[str, tuple[str, Seen]] = {
    "not verified": ("state", of_user(state=UserState.COPIED)),
    "moved already": ("state", of_user(state=UserState.OBSERVING)),
    "leaves the scope": ("scope", replace(SEEN, planned="leaving")),
    "held by the directory": ("scope", replace(SEEN, planned="held")),
    "a copy without a receipt": ("copies", of_user(good=3)),
    "a quarantined copy": ("copies", of_user(quarantined=1)),
    "a copy that is open and not behind": ("copies", replace(ONE_BEHIND, behind=0)),
    "a copy without a receipt beside one behind": (
        "copies",
        replace(ONE_BEHIND, candidate=ONE_BEHIND.candidate._replace(good=2)),
    ),
    "no whole verification": ("verdicts", of_user(is_proven=False)),
    "an EXTRA object": ("verdicts", of_user(extras=1)),
    "on hold": ("hold", of_user(is_on_hold=True)),
    "somebody else's freeze": ("route", replace(SEEN, route=Route("us", "token", NOW))),
    "lives elsewhere": ("route", replace(SEEN, route=Route("hamar"))),
    "a second too old": ("lag", replace(SEEN, now=NOW + timedelta(seconds=1))),
    "keys without a prefix": ("listing", replace(SEEN, unlistable=("mail",))),
    "an object too many": ("listing", replace(SEEN, objects=51)),
    "a listing too slow": ("listing", replace(SEEN, listing_seconds=10.1)),
    "a key that no rule knows": ("late", replace(SEEN, late=LastDelta((), 1))),
    "two keys for one target key": ("late", replace(SEEN, late=LastDelta((), 0, 1))),
    "a byte too many": ("late", replace(SEEN, late=late(1, 1001))),
    "a change too many": ("late", replace(SEEN, late=late(4, 1))),
    "a copy lost at a target": ("targets", replace(SEEN, lost=1)),
    "shared objects open at home": ("shared", replace(SEEN, unshared_sites=frozenset({"hamar"}))),
    "shared objects open at the backup": ("shared", replace(SEEN, unshared_sites=frozenset({"dublin-1"}))),
}


def test_who_lacks_nothing_goes() -> None:
    """Each limit is met exactly; who is ready goes as who is verified does, and who has copies open that the last delta takes."""
    for seen in (
        SEEN,
        ONE_BEHIND,
        of_user(state=UserState.READY),
        replace(SEEN, late=late(1, 1000)),
        replace(SEEN, late=late(3, 1)),
    ):
        assert missing(seen) == {}


@pytest.mark.parametrize("twin", TWINS)
def test_what_is_missing_is_told_by_its_check_alone(twin: str) -> None:
    """The corrupted twins: one fact is another, and one check says so, without the user's id (Invariant 10)."""
    check, seen = TWINS[twin]
    found = missing(seen)
    assert found.keys() == {check}
    assert "anna" not in found[check]


def test_every_check_has_a_twin() -> None:
    assert {check for check, _ in TWINS.values()} == set(CHECKS)


def test_the_defaults_are_half_a_minute_of_freeze_and_two_weeks_of_observation() -> None:
    """As operators are told."""
    assert (Routing().freeze_seconds_max, Cutover().observe) == (30, 14 * 86_400)


def test_one_more_condition_is_one_more_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the approval of two people would be."""
    approved: set[str] = set()
    monkeypatch.setitem(
        CHECKS, "approvals", lambda seen: None if seen.candidate.user_id in approved else "two people have to approve"
    )
    assert missing(SEEN) == {"approvals": "two people have to approve"}
    approved.add("anna")
    assert missing(SEEN) == {}
