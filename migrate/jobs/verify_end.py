"""What the end of a verification amounts to: its exit code, and what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from migrate.engines.local import EngineReport
from migrate.errors import ExitCode, LaterError, worst
from migrate.jobs.common import check_sums, codes_of, count, unfinished
from migrate.jobs.copying import choose_waves
from migrate.ledger import CheckState, Ledger, Pass, PassProgress, WaveProgress
from migrate.model import Outcome
from migrate.planner.folder import Plan
from migrate.units import number_of
from migrate.worker.loop import StopReason


@dataclass(frozen=True, slots=True)
class VerifyEnd:
    """How a verification ended. `repaired` copies are pending again."""

    exit_code: ExitCode
    verification: Pass
    found: PassProgress
    report: EngineReport
    progress: tuple[WaveProgress, ...]
    repaired: int
    next_step: str


def end_of(
    plan: Plan, ledger: Ledger, verification: Pass, found: PassProgress, report: EngineReport, repaired: int
) -> VerifyEnd:
    """The exit code and the words. IntegrityError where the sums of the outcomes are off (invariant 3)."""
    progress = tuple(ledger.progress(verification.plan_id))
    check_sums(progress, plan.document["totals"])
    now_found = PassProgress(ledger.pass_progress(verification.id).checks, found.counts, found.moved_on)
    end = VerifyEnd(ExitCode.DONE, verification, now_found, report, progress, repaired, "")
    known = ledger.known_differences(verification.plan_id)
    return replace(end, exit_code=worst(_codes(end)), next_step=_next_step(plan, end, known))


def _taken(end: VerifyEnd) -> list[WaveProgress]:
    waves = end.verification.waves
    return [wave for wave in end.progress if wave.wave is not None and (waves is None or wave.wave in waves)]


def _picked_nothing(end: VerifyEnd) -> bool:
    """A sample that looked at nothing: no answer, which must not look like a good one (invariant 9)."""
    verification = end.verification
    return verification.ended_at is not None and not verification.is_full and not end.found.counts.checked


def _codes(end: VerifyEnd) -> list[ExitCode]:
    counts, moved_on = end.found.counts, end.found.moved_on
    codes = codes_of(end.report)
    if counts.mismatch or counts.missing or counts.extra:
        codes.append(ExitCode.DIFFERENT)
    # a source that has moved on stays so: asking again later would not help
    if counts.unknown > moved_on or (end.verification.ended_at is None and not codes):
        codes.append(ExitCode.LATER)
    if _picked_nothing(end):
        return [*codes, ExitCode.USAGE]
    taken = _taken(end)
    if moved_on or count(taken, Outcome.QUARANTINED) or count(taken, Outcome.DRIFTED):
        codes.append(ExitCode.INCOMPLETE)
    return codes


def _next_step(plan: Plan, end: VerifyEnd, known: Collection[str]) -> str:
    """`known`: kinds of differences that some verification found, and that nothing has answered yet."""
    name, found, verification = plan.digest[:12], end.found, end.verification
    again = _command(plan, end)
    if end.repaired and StopReason.INTERRUPTED in end.report.reasons:
        return f"{number_of(end.repaired, 'copy', 'copies')} put back; `{again} --repair` goes on with the others."
    if end.repaired:
        waves = _names([wave for wave in _taken(end) if unfinished([wave])])
        return f"`migrate run {name} --wave {waves}` makes {number_of(end.repaired, 'copy', 'copies')} again, then verify again."
    if (stopped := end.report.first_problem) is not None:
        return stopped.remedy or f"`{again}` goes on."
    if found.counts.mismatch or found.counts.missing:
        return f"`migrate status {name} --failures` lists them; `{again} --repair` puts them back to pending."
    if found.counts.extra:
        return f"`migrate status {name} --failures` lists the EXTRA objects: find out who wrote them."
    if verification.ended_at is None:
        return _goes_on(name, again, end)
    if found.counts.unknown > found.moved_on:
        return f"`migrate status {name} --failures` says why some could not be checked; `{again}` asks again."
    if _picked_nothing(end):
        return "Nothing was checked: the sample picks none of the copies. Take a larger share."
    if found.moved_on:
        return (
            f"{number_of(found.moved_on, 'copy', 'copies')} cannot be confirmed: changed or gone at the source since,"
            " and equal to the receipt. What changed waits for a delta; `migrate verify --level content` asks the targets alone."
        )
    if known:
        return (
            f"What was checked now is as it should be, but {' and '.join(sorted(known))} of an earlier verification stands:"
            f" `migrate status {name} --failures` lists it."
        )
    if not verification.is_full:
        return f"The sample is as it should be, and verifies nobody: `migrate verify {name}` checks everything."
    if verification.level.rank < plan.spec.verify.level.rank:
        return (
            f"All is as it should be as far as a look by {verification.level.value} tells, which verifies nobody:"
            f" `migrate verify {name}` looks as deep as the spec says."
        )
    return _what_is_left(name, end)


def _goes_on(name: str, again: str, end: VerifyEnd) -> str:
    """Not everything is checked yet."""
    if not_copied := unfinished(_taken(end)):
        return f"Not copied yet: {number_of(not_copied, 'batch', 'batches')}. `migrate run {name}`, then `{again}` goes on."
    waiting = end.found.checks.get(CheckState.PENDING, 0)
    return f"Left to check: {number_of(waiting, 'batch', 'batches')}. `{again}` goes on."


def _what_is_left(name: str, end: VerifyEnd) -> str:
    """Everything that could be checked matches: what keeps users from being verified, and which wave comes next."""
    taken = _taken(end)
    bad = {
        outcome: count(taken, outcome) for outcome in (Outcome.QUARANTINED, Outcome.DRIFTED) if count(taken, outcome)
    }
    later = [wave for wave in end.progress if wave.wave is not None and unfinished([wave])]
    if bad:
        held = " and ".join(f"{number_of(number, 'copy', 'copies')} {outcome}" for outcome, number in bad.items())
        after = f" Other waves go on by name: `migrate run {name} --wave {later[0].wave}`." if later else ""
        retry = f"; `migrate run {name} --retry-quarantined` tries again" if Outcome.QUARANTINED in bad else ""
        return (
            f"What was copied is as it should be, but not everything was: {held}. Their users wait:"
            f" `migrate status {name} --failures` lists them{retry}.{after}"
        )
    if not later:
        return "Everything that was checked is as it should be."
    try:
        choose_waves(None, end.progress)
    except LaterError as error:
        return f"{error.what[0].upper()}{error.what[1:]}. {error.remedy}"
    return f"`migrate run {name}` takes the next wave."


def _command(plan: Plan, end: VerifyEnd) -> str:
    """The command that goes on with this verification: the same waves, level and sample."""
    verification, words = end.verification, [f"migrate verify {plan.digest[:12]}"]
    if verification.waves is None and unfinished(end.progress):
        words.append("--wave all")  # without it, only those that are copied
    if verification.waves is not None:
        words.append(f"--wave {','.join(str(wave) for wave in verification.waves)}")
    if verification.level is not plan.spec.verify.level:
        words.append(f"--level {verification.level.value}")
    if not verification.is_full:
        words.append(f"--sample {verification.sample_ppm / 10_000:g}%")
    return " ".join(words)


def _names(waves: Sequence[WaveProgress]) -> str:
    return ",".join(str(wave.wave) for wave in waves)
