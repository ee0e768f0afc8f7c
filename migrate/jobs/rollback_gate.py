"""The gate before a user's way back: a list of checks, each of which says what is in its way, or nothing.

One more condition is one more entry of `CHECKS`. They are asked again while the user is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from migrate.jobs.gates import ask, too_long_for_a_freeze, unlistable_by
from migrate.jobs.rollback_look import Found
from migrate.routing import Route
from migrate.spec.sections import Cutover
from migrate.states import UserState
from migrate.units import format_size, number_of

FROM = UserState.OBSERVING
_WHY_NOT = {
    UserState.FROZEN: "is frozen for a cutover that broke off: `migrate cutover` finds out where they live",
    UserState.RETURNING: "is on the way back in a rollback that broke off: the next one, without --dry-run, ends it",
    UserState.PURGING: "a purge has begun, so something may be gone at the sources: nobody goes back from there",
    UserState.PURGED: "is purged: the sources have nothing of theirs any more, so nobody goes back from there",
    UserState.FORGOTTEN: "is forgotten",
}


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the checks ask about one user: the route, and the home that the user moved to; whether the user is on hold; layout
    rules by which nobody's keys can be listed; objects that are known or were listed, and how long that took; what differs, and
    whether what was written is to be sent back."""

    route: Route
    home: str
    is_on_hold: bool
    unlistable: Sequence[str]
    objects: int
    listing_seconds: float
    found: Found
    sends_back: bool
    limits: Cutover
    freeze_seconds: int


def why_not(state: UserState) -> str:
    """Why a user in this state cannot go back."""
    return _WHY_NOT.get(state, f"is {state}, and has not moved")


def _route(seen: Seen) -> str | None:
    if seen.route.frozen_by is not None:
        return "is frozen by somebody else"
    return None if seen.route.home == seen.home else f"lives at {seen.route.home}, and not at {seen.home}"


def _listing(seen: Seen) -> str | None:
    too_long = too_long_for_a_freeze(seen.objects, seen.listing_seconds, seen.limits, seen.freeze_seconds)
    return unlistable_by(seen.unlistable) or too_long


def _receipts(seen: Seen) -> str | None:
    number = seen.found.unproven
    return f"the receipts of {number_of(number, 'object')} cannot be had: sealed files are lost" if number else None


def _keys(seen: Seen) -> str | None:
    number = seen.found.unmapped
    return f"{number_of(number, 'key')} of theirs at the home, which no rule knows" if number else None


def _sources(seen: Seen) -> str | None:
    lost, half_sent = seen.found.lost, 0 if seen.sends_back else seen.found.half_sent
    if lost:
        return f"{number_of(lost, 'object')} would be lost: the sources do not have what was copied"
    sent = number_of(half_sent, "object")
    return f"{sent} may be half sent back, since a rollback broke off: --send-back ends it" if half_sent else None


def _deletions(seen: Seen) -> str | None:
    number = seen.found.ambiguous
    if not number:
        return None
    return (
        f"{number_of(number, 'object')} not at the home, and nothing else shows that they were deleted there: bring them "
        "back, or --trust-home"
    )


def _strange(seen: Seen) -> str | None:
    number = seen.found.strange
    if not number:
        return None
    return (
        f"{number_of(number, 'object')} deleted at the home, where {', '.join(seen.found.strange_at)} has another one than was "
        "copied: delete it there if it is to go, or move it to another key if not, and give the command again"
    )


def _hold(seen: Seen) -> str | None:
    number = seen.found.to_delete
    if not (seen.is_on_hold and number):
        return None
    return f"is on hold, and {number_of(number, 'object')} would be deleted at the sources"


def _send_back(seen: Seen) -> str | None:
    found, limits = seen.found, seen.limits
    if not seen.sends_back:
        return None
    if found.unsendable:
        return f"{number_of(found.unsendable, 'object')} written at the home, whose key at the source cannot be told or is taken"
    size_bytes = sum(each.planned.size for each in found.sendable)
    if size_bytes > limits.late_bytes_max:
        return f"{format_size(size_bytes)} would be sent back, more than in a freeze (cutover.late_bytes_max)"
    if len(found.sendable) > limits.late_objects_max:
        return f"{len(found.sendable)} objects would be sent back, more than in a freeze (cutover.late_objects_max)"
    return None


Check = Callable[[Seen], str | None]
CHECKS: dict[str, Check] = {
    "route": _route,
    "listing": _listing,
    "receipts": _receipts,
    "keys": _keys,
    "sources": _sources,
    "deletions": _deletions,
    "replay": _strange,
    "hold": _hold,
    "send_back": _send_back,
}


def missing(seen: Seen) -> dict[str, str]:
    """What is in the way, by check."""
    return ask(CHECKS, seen)
