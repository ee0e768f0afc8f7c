"""What the gates before a cutover, a way back and a purge share: how their checks are asked, and the checks that are the same.

A check says what is missing, or nothing. One more condition is one more entry of a gate's `CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from migrate.ledger import Candidate
from migrate.spec.sections import Cutover

S = TypeVar("S")


def ask(checks: Mapping[str, Callable[[S], str | None]], seen: S) -> dict[str, str]:
    """What is missing, by check."""
    return {name: why for name, check in checks.items() if (why := check(seen)) is not None}


def without_receipt(candidate: Candidate) -> str | None:
    """Whether copies of the user are quarantined, or have no receipt yet, beside those that are a last delta's to bring."""
    missing = max(0, candidate.copies - candidate.good - candidate.behind)
    if candidate.quarantined:
        return f"{candidate.quarantined} copies are quarantined"
    return f"{missing} copies have no receipt" if missing else None


def without_verdict(candidate: Candidate) -> str | None:
    """Whether a full verification has still to match every copy."""
    if candidate.extras:
        return f"{candidate.extras} EXTRA objects stand at the targets"
    if candidate.is_proven or candidate.is_only_behind:
        return None
    return "no full verification has matched every copy"


def unlistable_by(rules: Sequence[str]) -> str | None:
    """Whether layout rules keep anybody's keys from being listed."""
    return f"keys of the rules {', '.join(rules)} cannot be listed by user" if rules else None


def too_long_for_a_freeze(objects: int, listing_seconds: float, limits: Cutover, freeze_seconds: int) -> str | None:
    """Whether listing the user's objects takes more of a freeze than it may."""
    if objects > limits.objects_max:
        return f"{objects} objects are more than may be listed in a freeze (cutover.objects_max)"
    if listing_seconds > freeze_seconds / 3:
        return f"listing took {listing_seconds:.1f} s, over a third of a freeze (routing.freeze_seconds_max)"
    return None
