"""Where a user goes: by country first, then by weighted rendezvous hashing over the sites that are still open. Pure.

A site of weight w holds w tickets; the SHA-256 over user, kind, site and ticket is a ticket's score, and a user goes to the
site with the highest one. So adding a site moves only the users that it wins, and nothing depends on who else there is, but
for capacity: users take their turn by the SHA-256 of their ids, and a site closes for good at the first one that does not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from migrate.spec import PlacementRule


class Lost(StrEnum):
    """Why a site was not taken."""

    LOWER_SCORE = "lower score"
    CLOSED = "closed: its capacity was used up at an earlier turn"
    IS_HOME = "is the home"


@dataclass(frozen=True, slots=True)
class Alternative:
    kind: str  # home or backup
    site: str
    lost: Lost


@dataclass(frozen=True, slots=True)
class PlacementDecision:
    """`rule` is None where none names the country; `home` or `backup` is None where no site is open for it."""

    rule: str | None
    home: str | None
    backup: str | None
    alternatives: tuple[Alternative, ...] = ()
    wants_backup: bool = False

    @property
    def complete(self) -> bool:
        return self.home is not None and (self.backup is not None or not self.wants_backup)


@dataclass(frozen=True, slots=True)
class Closing:
    """A site that closed: for the user at `turn` (from 1, in order of the SHA-256 of the ids) and all later ones."""

    turn: int
    bytes_placed: int


def netstrings(*fields: str) -> bytes:
    """The fields one after the other, each with its length in bytes before it."""
    return b"".join(b"%d:%s" % (len(raw), raw) for raw in (field.encode("utf-8") for field in fields))


def score(user_id: str, kind: str, site: str, weight: int) -> bytes:
    """The best ticket's SHA-256."""
    return max(hashlib.sha256(netstrings(user_id, kind, site, str(ticket))).digest() for ticket in range(1, weight + 1))


def rule_for(country: str, rules: Sequence[PlacementRule]) -> PlacementRule | None:
    """The first rule that names the country, or `*`."""
    return next((rule for rule in rules if country in rule.countries or "*" in rule.countries), None)


def place(
    user_id: str,
    country: str,
    rules: Sequence[PlacementRule],
    weights: Mapping[str, int],
    closed: Collection[str] = (),
) -> PlacementDecision:
    """Where the user goes; `weights` by site, `closed` the sites that have closed by the user's turn."""
    rule = rule_for(country, rules)
    if rule is None:
        return PlacementDecision(None, None, None)
    home, lost_homes = _choose(user_id, "home", rule.home, weights, closed, None)
    backup, lost_backups = _choose(user_id, "backup", rule.backup, weights, closed, home)
    return PlacementDecision(rule.name, home, backup, (*lost_homes, *lost_backups), bool(rule.backup))


def _choose(
    user_id: str,
    kind: str,
    sites: Iterable[str],
    weights: Mapping[str, int],
    closed: Collection[str],
    home: str | None,
) -> tuple[str | None, list[Alternative]]:
    ranked = sorted(set(sites), key=lambda site: (score(user_id, kind, site, weights[site]), site), reverse=True)
    chosen = next((site for site in ranked if site not in closed and site != home), None)
    lost = [
        Alternative(kind, site, Lost.IS_HOME if site == home else Lost.CLOSED if site in closed else Lost.LOWER_SCORE)
        for site in ranked
        if site != chosen
    ]
    return chosen, lost
