"""The gate before a user's cutover: a list of checks, each of which says what is missing, or nothing.

One more condition, such as the approval of two people, is one more entry of `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from migrate.jobs.gates import ask, too_long_for_a_freeze, unlistable_by, without_receipt, without_verdict
from migrate.jobs.last_delta import LastDelta
from migrate.ledger import Candidate
from migrate.routing import Route
from migrate.spec.sections import Cutover
from migrate.states import UserState
from migrate.units import format_duration, format_size, number_of

FROM = (UserState.VERIFIED, UserState.READY)
PLANNED = UserState.PLANNED.value


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the checks ask about one user.

    `planned` is the user's state in the newest plan, which knows the sources as of `sources_seen`; `behind` counts its copies of
    which the ledger says by name that they are behind their sources. `unlistable`: layout rules by which nobody's source keys can
    be listed. `objects` are the user's at the sources, `listing_seconds` how long it took to list them now, and `late` what has
    changed since the plan. `lost` counts copies that home or backup does not show as they were copied, by their listings.
    `unshared_sites`: where something that is copied to every site is still to be copied, or to be verified.
    """

    candidate: Candidate
    planned: str
    behind: int
    route: Route
    source_sites: frozenset[str]
    sources_seen: datetime
    now: datetime
    unlistable: Sequence[str]
    objects: int
    listing_seconds: float
    late: LastDelta
    lost: int
    unshared_sites: frozenset[str]
    limits: Cutover
    freeze_seconds: int


def may_begin(candidate: Candidate) -> bool:
    """Whether a user is where a freeze can begin: verified, or held up by nothing but copies that are behind their sources, which
    the last delta takes. Who writes without pause has some in every plan."""
    return candidate.state in FROM or candidate.is_only_behind


def _state(seen: Seen) -> str | None:
    return None if may_begin(seen.candidate) else f"is {seen.candidate.state}, and not verified"


def _scope(seen: Seen) -> str | None:
    return None if seen.planned == PLANNED else f"is {seen.planned} by the newest plan, and not to be moved"


def _copies(seen: Seen) -> str | None:
    if seen.candidate.is_only_behind and seen.candidate.behind != seen.behind:
        return "copies are open, and not all of them behind their sources"
    return without_receipt(seen.candidate)


def _verdicts(seen: Seen) -> str | None:
    return without_verdict(seen.candidate)


def _hold(seen: Seen) -> str | None:
    return "is on hold" if seen.candidate.is_on_hold else None


def _route(seen: Seen) -> str | None:
    if seen.route.frozen_by is not None:
        return "is frozen by somebody else"
    return (
        None if seen.route.home in seen.source_sites else f"lives at {seen.route.home}, which is no site of the sources"
    )


def _lag(seen: Seen) -> str | None:
    lag = int((seen.now - seen.sources_seen).total_seconds())
    if lag <= seen.limits.lag_max:
        return None
    return f"the sources were seen {format_duration(lag)} ago: `migrate delta` first"


def _listing(seen: Seen) -> str | None:
    too_long = too_long_for_a_freeze(seen.objects, seen.listing_seconds, seen.limits, seen.freeze_seconds)
    return unlistable_by(seen.unlistable) or too_long


def _late(seen: Seen) -> str | None:
    return too_much(seen.late, seen.limits)


def too_much(late: LastDelta, limits: Cutover) -> str | None:
    """Why a last delta is not for a freeze; None where it is. Asked again while the user is frozen."""
    if late.unclassified:
        return f"{late.unclassified} keys are new, and no rule knows them"
    if late.collisions:
        return f"{late.collisions} target keys would be taken by two objects: `migrate delta` says which"
    if late.size_bytes > limits.late_bytes_max:
        return f"{format_size(late.size_bytes)} have changed since the plan (cutover.late_bytes_max): `migrate delta` first"
    if len(late.objects) > limits.late_objects_max:
        return (
            f"{len(late.objects)} objects have changed since the plan (cutover.late_objects_max): `migrate delta` first"
        )
    return None


def _targets(seen: Seen) -> str | None:
    if not seen.lost:
        return None
    return f"{number_of(seen.lost, 'copy', 'copies')} not at home or backup as copied: `migrate verify --wave all` says which"


def _shared(seen: Seen) -> str | None:
    sites = sorted(seen.unshared_sites & {seen.candidate.home, seen.candidate.backup})
    return f"what is copied to every site is not verified at {' and '.join(sites)}" if sites else None


Check = Callable[[Seen], str | None]
CHECKS: dict[str, Check] = {
    "state": _state,
    "scope": _scope,
    "copies": _copies,
    "verdicts": _verdicts,
    "hold": _hold,
    "route": _route,
    "lag": _lag,
    "listing": _listing,
    "late": _late,
    "targets": _targets,
    "shared": _shared,
}


def missing(seen: Seen) -> dict[str, str]:
    """What is missing, by check."""
    return ask(CHECKS, seen)
