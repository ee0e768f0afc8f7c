"""How far each wave's copies at the targets are behind the sources, as far as the ledger can say (design, section 2).

From counters alone, and the `plan.json` of at most a few plans of the line: those that are the newest whole ones of a wave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from migrate.errors import MigrateError
from migrate.ledger import Ledger, WaveProgress
from migrate.model import Outcome, Role
from migrate.planner.folder import PREFIX_DIGITS, Plan
from migrate.planner.summary import sources_seen
from migrate.states import AWAY

_OPEN = (Outcome.PENDING, Outcome.DRIFTED, Outcome.QUARANTINED)


@dataclass(frozen=True, slots=True)
class WaveLag:
    """`seen`: when the sources were seen by the newest plan of the line of which no copy for the wave is open. None where there
    is none yet, where its folder cannot be read, or where nobody of the wave lives at the sources any more.

    Open is what is pending, drifted or quarantined. `open_copies` are those of the newest plan, which has whatever the others
    have left open; `open_bytes` counts withdrawn copies beside open ones.
    """

    wave: int
    seen: datetime | None
    open_copies: int
    open_bytes: int


def wave_lags(plan: Plan, ledger: Ledger, progress: Sequence[WaveProgress]) -> list[WaveLag]:
    """The lag of each wave of a plan that no delta continues, by wave; `progress` is where the plan stands."""
    older = _older(plan, ledger)
    open_of = ledger.open_copies(list(older)) if older else {}
    sources = plan.spec.by_role(Role.SOURCE, Role.BACKUP)  # as the gate of a cutover asks

    @cache
    def seen_by(digest: str) -> datetime | None:
        try:
            return sources_seen(_opened(plan, digest).document, sources)
        except MigrateError:  # what cannot be read says nothing; runs and verifications refuse it
            return None

    def lag_of(wave: WaveProgress, number: int) -> WaveLag:
        left = sum(wave.outcomes[outcome] for outcome in _OPEN)
        whole = [digest for plan_id, digest in older.items() if not open_of.get((plan_id, number))]
        newest = next(iter(whole), None) if left else plan.digest
        is_followed = any(state not in AWAY for state in wave.users)
        seen = seen_by(newest) if newest is not None and is_followed else None
        return WaveLag(number, seen, left, wave.size_bytes - wave.done_bytes if left else 0)

    return [lag_of(wave, wave.wave) for wave in progress if wave.wave is not None]


def _older(plan: Plan, ledger: Ledger) -> dict[int, str]:
    """The plans that this one continues, the newest first: their digests, by their ids in the ledger."""
    parent: str | None = plan.document["parent"]
    rows = {} if parent is None else {row.entry.digest: row for row in ledger.plans()}
    found: dict[int, str] = {}
    while parent is not None and parent in rows:
        found[rows[parent].id] = parent
        parent = rows[parent].entry.parent
    return found


def _opened(plan: Plan, digest: str) -> Plan:
    return plan if digest == plan.digest else Plan.open(plan.folder.parent / digest[:PREFIX_DIGITS])


def lag_document(lag: WaveLag, now: datetime) -> Mapping[str, Any]:
    """A wave's lag as plain data."""
    return {
        "wave": lag.wave,
        "sources_seen": None if lag.seen is None else lag.seen.isoformat(),
        "lag_seconds": None if lag.seen is None else round((now - lag.seen).total_seconds()),
        "open_copies": lag.open_copies,
        "open_bytes": lag.open_bytes,
    }
