"""What the end of a verification amounts to: its exit code, and what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from migrate.engines.local import EngineReport
from migrate.errors import ExitCode, worst
from migrate.jobs.common import codes_of
from migrate.jobs.registered import check_sums, unfinished
from migrate.jobs.waves import are_held_up, held_up_words, what_next
from migrate.ledger import FULL_SAMPLE_PPM, CheckCounts, CheckState, Ledger, Pass, PassProgress, WaveProgress
from migrate.model import Level
from migrate.planner.folder import Plan
from migrate.units import number_of


@dataclass(frozen=True, slots=True)
class VerifyEnd:
    """How a verification ended. `repaired` copies are pending again; `verification` is None where there was nothing to check."""

    exit_code: ExitCode
    verification: Pass | None
    found: PassProgress
    report: EngineReport
    progress: tuple[WaveProgress, ...]
    repaired: int
    next_step: str


@dataclass(frozen=True, slots=True)
class _Checked:
    """What the exit code and the words are made of."""

    plan: Plan
    verification: Pass
    found: PassProgress
    report: EngineReport
    progress: tuple[WaveProgress, ...]
    repaired: int
    different: Collection[int]  # waves
    known: Collection[str]  # kinds of differences that some verification found, and that nothing has answered yet

    @property
    def taken(self) -> list[WaveProgress]:
        waves = self.verification.waves
        return [wave for wave in self.progress if wave.wave is not None and (waves is None or wave.wave in waves)]

    @property
    def picked_nothing(self) -> bool:
        """A sample that looked at nothing: no answer, which must not look like a good one (invariant 9)."""
        verification = self.verification
        return verification.ended_at is not None and not verification.is_full and not self.found.counts.checked


def end_of(
    plan: Plan, ledger: Ledger, verification: Pass, found: PassProgress, report: EngineReport, repaired: int
) -> VerifyEnd:
    """The exit code and the words. IntegrityError where the sums of the outcomes are off (invariant 3)."""
    plan_id = verification.plan_id
    progress = tuple(ledger.progress(plan_id, held_up=True))
    check_sums(progress, plan.document["totals"])
    now_found = PassProgress(ledger.pass_progress(verification.id).checks, found.counts, found.moved_on)
    different, known = ledger.different_waves(plan_id), ledger.known_differences(plan_id)
    end = _Checked(plan, verification, now_found, report, progress, repaired, different, known)
    return VerifyEnd(worst(_codes(end)), verification, now_found, report, progress, repaired, _next_step(end))


def nothing_to_check(
    plan: Plan, ledger: Ledger, plan_id: int, progress: Sequence[WaveProgress], level: Level, sample_ppm: int
) -> VerifyEnd:
    """No copied wave waits for a verification. Who asked for a look of another kind than the spec's got none (invariant 9)."""
    name, known = plan.digest[:12], ledger.known_differences(plan_id)
    copied = [wave for wave in progress if not unfinished([wave])]
    codes = [ExitCode.DIFFERENT] if known else []
    if level is not plan.spec.verify.level or sample_ppm < FULL_SAMPLE_PPM:
        codes.append(ExitCode.USAGE)
    elif are_held_up(copied):
        codes.append(ExitCode.INCOMPLETE)
    words = [
        "Nothing was checked: no wave that is copied waits for a verification.",
        _first_upper(held_up_words(name, copied)),
        what_next(name, progress, ledger.different_waves(plan_id)),
        f"`{_command(plan, None, level, sample_ppm)}` looks at everything again.",
    ]
    found = PassProgress({}, CheckCounts(), 0)
    next_step = " ".join(filter(None, words))
    return VerifyEnd(worst(codes), None, found, EngineReport(), tuple(progress), 0, next_step)


def _codes(end: _Checked) -> list[ExitCode]:
    counts, moved_on = end.found.counts, end.found.moved_on
    is_left = end.verification.ended_at is None
    codes = codes_of(end.report, is_left=is_left)
    if counts.mismatch or counts.missing or counts.extra:
        codes.append(ExitCode.DIFFERENT)
    # a source that has moved on stays so: asking again later would not help
    if counts.unknown > moved_on or (is_left and not codes):
        codes.append(ExitCode.LATER)
    if end.picked_nothing:
        return [*codes, ExitCode.USAGE]
    if moved_on or are_held_up(end.taken):
        codes.append(ExitCode.INCOMPLETE)
    return codes


def _next_step(end: _Checked) -> str:
    name, found, verification = end.plan.digest[:12], end.found, end.verification
    again = _command(end.plan, verification.waves, verification.level, verification.sample_ppm)
    stopped = end.report.first_problem
    if end.repaired and stopped is not None and stopped.exit_code is ExitCode.INTERRUPTED:
        return f"{number_of(end.repaired, 'copy', 'copies')} put back; `{again} --repair` goes on with the others."
    if end.repaired:
        waves = _names([wave for wave in end.taken if unfinished([wave])])
        return f"`migrate run {name} --wave {waves}` makes {number_of(end.repaired, 'copy', 'copies')} again, then verify again."
    if stopped is not None:
        return stopped.remedy or f"`{again}` goes on."
    if found.counts.mismatch or found.counts.missing:
        return f"`migrate status {name} --failures` lists them; `{again} --repair` puts them back to pending."
    if found.counts.extra:
        return f"`migrate status {name} --failures` lists the EXTRA objects: find out who wrote them."
    if verification.ended_at is None:
        return _goes_on(name, again, end)
    if found.counts.unknown > found.moved_on:
        return f"`migrate status {name} --failures` says why some could not be checked; `{again}` asks again."
    if end.picked_nothing:
        return "Nothing was checked: the sample picks none of the copies. Take a larger share."
    if found.moved_on:
        by_content = _command(end.plan, verification.waves, Level.CONTENT, FULL_SAMPLE_PPM)
        step = what_next(name, end.progress, end.different)
        return (
            f"{number_of(found.moved_on, 'copy', 'copies')} cannot be confirmed: changed or gone at the source since,"
            f" and equal to the receipt. What changed needs a plan from newer inventories; `{by_content}` asks the targets alone."
            f" {step}"
        ).rstrip()
    if end.known:
        return (
            f"What was checked now is as it should be, but {' and '.join(sorted(end.known))} of an earlier verification stands:"
            f" `migrate status {name} --failures` lists it."
        )
    if not verification.is_full:
        return f"The sample is as it should be, and verifies nobody: that takes `migrate verify {name}`."
    if verification.level.rank < end.plan.spec.verify.level.rank:
        return (
            f"All is as it should be as far as a look by {verification.level.value} tells, which verifies nobody:"
            f" `migrate verify {name}` looks as deep as the spec says."
        )
    return _what_is_left(name, end)


def _goes_on(name: str, again: str, end: _Checked) -> str:
    """Not everything is checked yet."""
    if not_copied := unfinished(end.taken):
        return f"Not copied yet: {number_of(not_copied, 'batch', 'batches')}. `migrate run {name}`, then `{again}` goes on."
    checks = end.found.checks
    if not any(number for state, number in checks.items() if state is not CheckState.DONE):
        return (
            "Users who have no copies are left to look for, since another verification looked for them meanwhile:"
            f" `{again}` goes on."
        )
    waiting = checks.get(CheckState.PENDING, 0)
    return f"Left to check: {number_of(waiting, 'batch', 'batches')}. `{again}` goes on."


def _what_is_left(name: str, end: _Checked) -> str:
    """Everything that could be checked matches: what keeps users from being verified, and which wave comes next."""
    held, step = held_up_words(name, end.taken), what_next(name, end.progress, end.different)
    if not held and not step and not sum(end.found.counts):
        return (
            "Nothing was there to be looked at: a delta has its own copies alone, the plans before it have proved the others, and"
            " who lives at the new home is left out."
        )
    if not held:
        return step or "Everything that was checked is as it should be."
    was_checked = "What was copied is as it should be, but not everything was."
    return f"{was_checked} {step}" if held in step else f"{was_checked} {_first_upper(held)} {step}".rstrip()


def _command(plan: Plan, waves: Sequence[int] | None, level: Level, sample_ppm: int) -> str:
    """The command that looks at just these waves, at this level: that goes on with such a verification, or begins it again."""
    words = [f"migrate verify {plan.digest[:12]} --wave {'all' if waves is None else ','.join(map(str, waves))}"]
    if level is not plan.spec.verify.level:
        words.append(f"--level {level.value}")
    if sample_ppm < FULL_SAMPLE_PPM:
        words.append(f"--sample {sample_ppm / 10_000:g}%")
    return " ".join(words)


def _names(waves: Sequence[WaveProgress]) -> str:
    return ",".join(str(wave.wave) for wave in waves)


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
