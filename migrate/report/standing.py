"""Where a plan stands, as plain data and as rows: the read model behind `status` and the summaries of `run` and `verify`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from migrate.ledger import CheckState, Pass, PassProgress, WaveProgress
from migrate.model import Outcome
from migrate.states import UserState

if TYPE_CHECKING:  # `status` shows what stands, and loads nothing that works
    from migrate.jobs.copying import RunEnd
    from migrate.jobs.verify_end import VerifyEnd

_ALWAYS_SHOWN = (Outcome.COPIED, Outcome.PENDING)


@dataclass(frozen=True, slots=True)
class Standing:
    """The table of waves and outcomes. On each row `planned` is the sum of the outcomes (invariant 3): one that is not among
    `outcomes` is 0 in every row."""

    outcomes: tuple[Outcome, ...]
    rows: tuple[StandingRow, ...]


@dataclass(frozen=True, slots=True)
class StandingRow:
    """A wave, or all of them."""

    name: str
    users: int
    verified: int
    planned: int
    counts: Mapping[Outcome, int]
    done_bytes: int


def standing(progress: Sequence[WaveProgress]) -> Standing:
    """A row a wave, and the sum of all where there are several."""
    waves = [wave for wave in progress if wave.wave is not None]
    rows = [_row(str(wave.wave), [wave]) for wave in waves]
    if len(rows) > 1:
        rows.append(_row("all", waves))
    shown = tuple(
        outcome
        for outcome in (*list(Outcome)[1:], Outcome.PENDING)
        if outcome in _ALWAYS_SHOWN or any(row.counts[outcome] for row in rows)
    )
    return Standing(shown, tuple(rows))


def _row(name: str, waves: Sequence[WaveProgress]) -> StandingRow:
    return StandingRow(
        name=name,
        users=sum(sum(wave.users.values()) for wave in waves),
        verified=sum(wave.users.get(UserState.VERIFIED, 0) for wave in waves),
        planned=sum(wave.copies for wave in waves),
        counts={outcome: sum(wave.outcomes[outcome] for wave in waves) for outcome in Outcome},
        done_bytes=sum(wave.done_bytes for wave in waves),
    )


def wave_words(waves: Sequence[int]) -> str:
    """`wave 2`, `waves 0, 1, 2`."""
    return f"wave{'s' if len(waves) != 1 else ''} {', '.join(str(wave) for wave in waves)}"


def wave_document(progress: Sequence[WaveProgress]) -> list[dict[str, Any]]:
    """The waves as plain data; users without a wave are under `null`."""
    return [
        {
            "wave": wave.wave,
            "users": {state.value: count for state, count in wave.users.items()},
            "batches": {state.value: count for state, count in wave.batches.items()},
            "copies": wave.copies,
            "size_bytes": wave.size_bytes,
            "done_bytes": wave.done_bytes,
            "outcomes": {outcome.value: count for outcome, count in wave.outcomes.items()},
        }
        for wave in progress
    ]


def run_document(plan: str, run_id: int, end: RunEnd) -> dict[str, Any]:
    """What `migrate run --json` prints."""
    return {
        "plan": plan,
        "run": run_id,
        "exit_code": int(end.exit_code),
        "waves": list(end.waves),
        "done": _done(end.report.waves),
        "stopped": [reason.value for reason in end.report.reasons],
        "problems": [asdict(problem) for problem in end.report.problems],
        "standing": wave_document(end.progress),
        "next": end.next_step,
    }


def verify_document(plan: str, run_id: int, end: VerifyEnd) -> dict[str, Any]:
    """What `migrate verify --json` prints."""
    return {
        "plan": plan,
        "run": run_id,
        "exit_code": int(end.exit_code),
        "pass": None if end.verification is None else pass_document(end.verification, end.found),
        "repaired": end.repaired,
        "stopped": [reason.value for reason in end.report.reasons],
        "problems": [asdict(problem) for problem in end.report.problems],
        "standing": wave_document(end.progress),
        "next": end.next_step,
    }


def pass_document(verification: Pass, found: PassProgress) -> dict[str, Any]:
    """A verification and what it found so far."""
    return {
        "id": verification.id,
        "level": verification.level.value,
        "sample_ppm": verification.sample_ppm,
        "waves": verification.waves,
        "started_at": verification.started_at.isoformat(),
        "ended_at": None if verification.ended_at is None else verification.ended_at.isoformat(),
        "superseded": verification.superseded,
        "batches": {state.value: found.checks.get(state, 0) for state in CheckState},
        "verdicts": found.counts._asdict(),
    }


def _done(waves: Mapping[int, Any]) -> dict[str, int]:
    return {
        "copies": sum(tally.copies for tally in waves.values()),
        "bytes": sum(tally.size_bytes for tally in waves.values()),
        "users": sum(tally.users for tally in waves.values()),
        "failures": sum(tally.failures for tally in waves.values()),
    }
