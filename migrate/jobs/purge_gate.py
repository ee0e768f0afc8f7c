"""The gate before a user's purge: a list of checks, each of which says what is missing, or nothing.

It is asked twice over: by what the ledger knows, before any store is asked, and again with what the stores have shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from migrate.jobs.gates import ask, unlistable_by, without_receipt, without_verdict
from migrate.jobs.purge_look import AtSources, AtTargets
from migrate.ledger import Candidate, Move
from migrate.model import Role
from migrate.routing import Route
from migrate.spec import Spec, spec_time
from migrate.states import UserState
from migrate.units import number_of

FROM = (UserState.OBSERVING, UserState.PURGING)


@dataclass(frozen=True, slots=True)
class Seen:
    """All that the checks ask about one user. What has not been asked yet is None.

    `unlistable`: layout rules by which nobody's source keys can be listed. The objects of this digest, `trusted`, are taken for
    deleted at home and backup where nothing else shows it (`AtTargets.doubted_digest`).
    """

    candidate: Candidate
    move: Move | None
    now: datetime
    spec: Spec
    unlistable: Sequence[str]
    route: Route | None = None
    sources: AtSources | None = None
    targets: AtTargets | None = None
    trusted: str = ""

    @property
    def is_forgotten(self) -> bool:
        """Erased at the targets: of the user's data nothing is to be anywhere."""
        return self.candidate.state is UserState.FORGOTTEN


def _state(seen: Seen) -> str | None:
    state, move = seen.candidate.state, seen.move
    if seen.is_forgotten:
        if move is not None and move.flipped_at is None and move.unfrozen_at is None:
            return "is forgotten amid a cutover: `migrate forget` asks the platform whether they moved"
        was_flipped = move is not None and move.flipped_at is not None and move.rolled_back_at is None
        return None if was_flipped else "is forgotten, and had not been moved before"
    if state not in FROM:
        return f"is {state}, and not observed"
    return (
        None
        if move is not None and move.flipped_at is not None
        else "has no move that tells when the home became another"
    )


def _window(seen: Seen) -> str | None:
    if seen.is_forgotten or seen.candidate.state not in FROM or seen.move is None:
        return None
    until = seen.move.observe_until
    if until is not None and until <= seen.now:
        return None
    return "is observed" + ("" if until is None else f" until {spec_time(until, seen.spec)}")


def _hold(seen: Seen) -> str | None:
    return "is on hold" if seen.candidate.is_on_hold else None


def _listing(seen: Seen) -> str | None:
    return unlistable_by(seen.unlistable)


def _copies(seen: Seen) -> str | None:
    if seen.is_forgotten:
        return None
    unproven = 0 if seen.targets is None else seen.targets.unproven
    return without_receipt(seen.candidate) or (f"{unproven} copies have no receipt" if unproven else None)


def _verdicts(seen: Seen) -> str | None:
    if seen.is_forgotten or seen.candidate.state not in FROM:
        return None
    return without_verdict(seen.candidate)


def _route(seen: Seen) -> str | None:
    if seen.is_forgotten or seen.route is None:
        return None
    if seen.route.frozen_by is not None:
        return "is frozen by somebody else"
    home = seen.candidate.home
    return None if seen.route.home == home else f"lives at {seen.route.home}, and not at {home}"


def _home(seen: Seen) -> str | None:
    if seen.is_forgotten:
        return _home_of_forgotten(seen)
    return None if seen.targets is None else _wrong(seen.targets.wrong_at_home, "the new home")


def _home_of_forgotten(seen: Seen) -> str | None:
    """Where a way back has flipped them, and broke off before the ledger knew, what the sources have is what they live with."""
    if seen.route is None:
        return None
    if seen.route.frozen_by is not None:
        return "is forgotten, and frozen at the platform"
    sources = {store.site for store in seen.spec.by_role(Role.SOURCE).values()}
    homes = {seen.candidate.home, *([] if seen.move is None else [seen.move.to_site])}
    if seen.route.home not in sources - homes:
        return None
    return f"is forgotten, and lives at {seen.route.home}, a site of the sources"


def _deletions(seen: Seen) -> str | None:
    if seen.targets is None or not seen.targets.doubted or seen.targets.doubted_digest == seen.trusted:
        return None
    number = seen.targets.doubted
    return (
        f"{number_of(number, 'object')} {_is(number)} gone at home and backup, and nothing shows that the user deleted them: "
        "bring back what was lost, or --trust-home"
    )


def _backup(seen: Seen) -> str | None:
    return None if seen.targets is None else _wrong(seen.targets.wrong_at_backup, "the backup site")


def _wrong(number: int, place: str) -> str | None:
    return f"{number_of(number, 'object')} of the user {_is(number)} not as copied at {place}" if number else None


def _late(seen: Seen) -> str | None:
    if seen.is_forgotten or seen.sources is None or not seen.sources.never_seen:
        return None
    number = seen.sources.never_seen
    return f"{number_of(number, 'object')} at the sources {_is(number)} new or other than what was copied, and would be lost"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


Check = Callable[[Seen], str | None]
CHECKS: dict[str, Check] = {
    "state": _state,
    "window": _window,
    "hold": _hold,
    "listing": _listing,
    "copies": _copies,
    "verdicts": _verdicts,
    "route": _route,
    "home": _home,
    "backup": _backup,
    "deletions": _deletions,
    "late": _late,
}
CHANGED = "changed"
"""Beside the checks: the sources show what the purge plan does not name."""


def missing(seen: Seen) -> dict[str, str]:
    """What is missing, by check."""
    return ask(CHECKS, seen)
