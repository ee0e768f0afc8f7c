"""What there is to do of each wave, and what of it is done: what a progress goes by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from migrate.ledger import WaveProgress
from migrate.model import Outcome
from migrate.states import UserState

_DONE_USERS = (UserState.COPIED, UserState.VERIFIED, UserState.QUARANTINED)


@dataclass(frozen=True, slots=True)
class Goal:
    """What one wave has in all, and what of it was done at some moment."""

    users: int
    copies: int
    size_bytes: int
    users_done: int = 0
    copies_done: int = 0
    bytes_done: int = 0


def goals(progress: Sequence[WaveProgress], waves: Sequence[int]) -> dict[int, Goal]:
    """What a run over `waves` has to do, and what of it is done."""
    return {
        wave.wave: Goal(
            users=sum(wave.users.values()),
            copies=wave.copies,
            size_bytes=wave.size_bytes,
            users_done=sum(wave.users.get(state, 0) for state in _DONE_USERS),
            copies_done=wave.copies - wave.outcomes[Outcome.PENDING],
            bytes_done=wave.done_bytes + wave.part_bytes,
        )
        for wave in progress
        if wave.wave is not None and wave.wave in waves
    }


def check_goals(progress: Sequence[WaveProgress], checked: int) -> dict[int, Goal]:
    """What a verification over these waves has to look at. `checked` copies are done, in the order of the waves."""
    found: dict[int, Goal] = {}
    for wave in progress:
        if wave.wave is None:
            continue
        copies = wave.outcomes[Outcome.COPIED] + wave.outcomes[Outcome.PRESENT]
        done = min(copies, checked)
        checked -= done
        found[wave.wave] = Goal(
            users=sum(wave.users.values()), copies=copies, size_bytes=wave.done_bytes, copies_done=done
        )
    return found
