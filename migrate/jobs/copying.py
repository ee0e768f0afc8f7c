"""`migrate run`: what must hold before it starts, the waves it may take, and what its end amounts to."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from migrate.engines.assignment import Snapshot
from migrate.engines.local import EngineReport, run_assignments
from migrate.errors import ExitCode, LaterError, RefusedError, UnreachableError, UsageError, worst
from migrate.jobs.common import (
    Actor,
    Limits,
    assignments,
    check_sums,
    codes_of,
    count,
    following_wave,
    free_dead_leases,
    heeding,
    is_verified,
    parse_waves,
    plan_entry,
    refuse_early,
    registered,
    unfinished,
    users_with_a_row,
)
from migrate.ledger import Ledger, WaveProgress
from migrate.model import Outcome, Purpose
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan
from migrate.planner.summary import BYTES_PER_SECOND, OBJECTS_PER_SECOND, Blocker, summarise
from migrate.states import BatchState
from migrate.units import number_of
from migrate.worker.loop import Stop, StopReason
from migrate.workspace import Workspace

_STANDING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What the command line asks of a run. `accept` holds `KIND:COUNT:DIGEST` words."""

    waves: str | None = None
    limits: Limits = field(default_factory=Limits)
    accept: tuple[str, ...] = ()
    share: bool = False
    retry_quarantined: bool = False


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: what this run did, and where the whole plan stands."""

    exit_code: ExitCode
    waves: tuple[int, ...]
    report: EngineReport
    progress: tuple[WaveProgress, ...]
    next_step: str


@dataclass(frozen=True, slots=True)
class RunForecast:
    """What a run would do now: the waves it would take, and what keeps it from starting."""

    waves: tuple[int, ...]
    users: int
    copies: int
    size_bytes: int
    requests: int
    seconds: int
    blockers: tuple[Blocker, ...]
    waits_for: str | None


def matching(words: Sequence[str], blockers: Sequence[Blocker]) -> list[Blocker]:
    """The blockers that the operator's words accept. UsageError for a word that names none, with what it should have been."""
    accepted = []
    for word in words:
        parts = word.split(":")
        blocker = next((found for found in blockers if parts and found.kind == parts[0]), None)
        if blocker is None:
            kinds = ", ".join(found.kind for found in blockers) or "none"
            raise UsageError(f"--accept {word!r}: the plan has no such blocker", remedy=f"Its blockers: {kinds}.")
        if (
            len(parts) != 3
            or parts[1] != str(blocker.count)
            or len(parts[2]) < 12
            or not blocker.digest.startswith(parts[2])
        ):
            raise UsageError(
                f"--accept {word!r} does not name what the plan has",
                remedy=f"It has {blocker.kind}:{blocker.count}:{blocker.digest[:12]}; `migrate show` lists it.",
            )
        accepted.append(blocker)
    return accepted


def open_blockers(plan: Plan, accepted: dict[str, tuple[int, str]], words: Sequence[str]) -> list[Blocker]:
    """The blockers of a plan that neither the ledger nor the command line's words accept."""
    blockers = list(summarise(plan.document).blockers)
    newly = {blocker.kind for blocker in matching(words, blockers)}
    return [
        blocker
        for blocker in blockers
        if blocker.kind not in newly and accepted.get(blocker.kind) != (blocker.count, blocker.digest)
    ]


def choose_waves(named: str | None, progress: Sequence[WaveProgress], *, retry: bool = False) -> tuple[int, ...]:
    """The waves that a run takes: those named, else the first that is not complete, if all before it are verified.

    With `retry`, one that has quarantined copies is not complete. LaterError where an earlier wave waits for its verification;
    an empty tuple where every wave is copied.
    """
    waves = [wave for wave in progress if wave.wave is not None]
    known = [wave.wave for wave in waves if wave.wave is not None]
    chosen = parse_waves(named, known)
    if chosen is not None:
        return chosen
    for place, wave in enumerate(waves):
        if not unfinished([wave]) and not (retry and wave.outcomes[Outcome.QUARANTINED]):
            continue
        waiting = next((before for before in waves[:place] if not is_verified(before)), None)
        if waiting is not None:
            raise LaterError(
                f"wave {wave.wave} waits: wave {waiting.wave} is not verified{_held_up(waiting)}",
                remedy=_how_to_go_on(waiting, f"`migrate run --wave {wave.wave}`"),
            )
        return (known[place],)
    return ()


def _held_up(wave: WaveProgress) -> str:
    """What no verification can mend."""
    bad = [
        f"{number_of(wave.outcomes[outcome], 'copy', 'copies')} {outcome}"
        for outcome in (Outcome.QUARANTINED, Outcome.DRIFTED)
        if wave.outcomes[outcome]
    ]
    return f" ({', '.join(bad)})" if bad else ""


def _how_to_go_on(waiting: WaveProgress, by_name: str) -> str:
    if waiting.outcomes[Outcome.DRIFTED]:
        return (
            f"No verification mends that: the source has changed, and a delta must copy it. {by_name} goes on without."
        )
    if waiting.outcomes[Outcome.QUARANTINED]:
        return f"`migrate run --retry-quarantined` tries these again; or name the wave: {by_name}."
    return f"`migrate verify --wave {waiting.wave}`; or name the wave: {by_name}."


def forecast_run(plan: Plan, ledger: Ledger | None, request: RunRequest) -> RunForecast:
    """What `migrate run` would do now; changes nothing. `ledger` is None where there is none yet."""
    plan_id = None if ledger is None else ledger.plan_id(plan.digest)
    if ledger is None or plan_id is None:
        shares = {int(share.name): share for share in summarise(plan.document).by_wave}
        first = parse_waves(request.waves, sorted(shares)) or tuple(sorted(shares)[:1])
        taken = [shares[wave] for wave in first]
        users, copies = sum(share.users for share in taken), sum(share.copies for share in taken)
        size_bytes = sum(share.size_bytes for share in taken)
        return _forecast(plan, first, users, copies, size_bytes, open_blockers(plan, {}, request.accept), None)
    progress = ledger.progress(plan_id)
    if request.retry_quarantined:
        named = parse_waves(request.waves, [wave.wave for wave in progress if wave.wave is not None])
        progress = [_tried_again(wave) if named is None or wave.wave in named else wave for wave in progress]
    blockers = open_blockers(plan, ledger.acceptances(plan_id), request.accept)
    waves: tuple[int, ...] = ()
    waits: str | None = None
    try:
        waves = choose_waves(request.waves, progress, retry=request.retry_quarantined)
    except LaterError as error:
        waits = error.what
    left = [wave for wave in progress if wave.wave in waves]
    users, copies = sum(sum(wave.users.values()) for wave in left), count(left, Outcome.PENDING)
    if request.retry_quarantined:
        copies += count(left, Outcome.QUARANTINED)
    size_bytes = sum(wave.size_bytes - wave.done_bytes for wave in left)
    return _forecast(plan, waves, users, copies, size_bytes, blockers, waits)


def _tried_again(wave: WaveProgress) -> WaveProgress:
    """The wave as it would stand with its quarantined copies back to pending."""
    again = wave.outcomes[Outcome.QUARANTINED]
    if not again:
        return wave
    outcomes = {**wave.outcomes, Outcome.QUARANTINED: 0, Outcome.PENDING: wave.outcomes[Outcome.PENDING] + again}
    batches = {**wave.batches, BatchState.PENDING: wave.batches.get(BatchState.PENDING, 0) + 1}  # one at least
    return replace(wave, outcomes=outcomes, batches=batches)


def _forecast(
    plan: Plan,
    waves: tuple[int, ...],
    users: int,
    copies: int,
    size_bytes: int,
    blockers: Sequence[Blocker],
    waits: str | None,
) -> RunForecast:
    """Requests and time in proportion to what the plan as a whole comes to."""
    summary = summarise(plan.document)
    whole, every = summary.forecast, max(1, summary.copies)
    requests = whole.get_requests + whole.put_requests + whole.part_requests + whole.upload_requests
    seconds = max(-(-copies // OBJECTS_PER_SECOND), -(-size_bytes // BYTES_PER_SECOND))
    return RunForecast(waves, users, copies, size_bytes, requests * copies // every, seconds, tuple(blockers), waits)


def run_plan(
    plan: Plan,
    workspace: Workspace,
    ledger: Ledger,
    actor: Actor,
    request: RunRequest,
    *,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    on_start: Callable[[tuple[int, ...], Sequence[WaveProgress]], None],
    on_registering: Callable[[int], None],
    on_progress: Callable[[Snapshot], None],
    on_standing: Callable[[tuple[int, ...], Sequence[WaveProgress]], None],
) -> RunEnd:
    """Copy what is to be copied. RefusedError while blockers are open, LaterError where another run holds the plan.

    `on_registering` is told how many users are registered, `on_standing` now and then where the waves stand by the ledger.
    """
    ledger.heed(stop.ledger_ends_at)
    refuse_early(plan, workspace, actor, request.limits, Purpose.COPY)
    named = parse_waves(request.waves, sorted(int(share.name) for share in summarise(plan.document).by_wave))
    with ledger.hold_plan(plan.digest, share=request.share):
        plan_id = _register(plan, ledger, request, run_id, now, stop, on_registering)
        free_dead_leases(ledger)
        progress = ledger.progress(plan_id)
        check_sums(progress, plan.document["totals"])
        waves = choose_waves(request.waves, progress, retry=request.retry_quarantined)
        if request.retry_quarantined:
            ledger.retry_quarantined(plan_id, named, run_id, now())
            progress = ledger.progress(plan_id)
        on_start(waves, progress)
        report = EngineReport()
        if unfinished([wave for wave in progress if wave.wave in waves]):
            tasks = assignments(
                plan, workspace, ledger, actor, request.limits, Purpose.COPY, run_id=run_id, waves=waves
            )
            report = run_assignments(tasks, _standing_too(on_progress, on_standing, ledger, plan_id, waves), stop)
        return _end(plan, plan_id, ledger, waves, report)


def _standing_too(
    on_progress: Callable[[Snapshot], None],
    on_standing: Callable[[tuple[int, ...], Sequence[WaveProgress]], None],
    ledger: Ledger,
    plan_id: int,
    waves: tuple[int, ...],
) -> Callable[[Snapshot], None]:
    """`on_progress`, and now and then where the waves stand: other runs may share the work."""
    told_at = time.monotonic()

    def told(snapshot: Snapshot) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= _STANDING_SECONDS:
            with suppress(UnreachableError):  # it is only shown; what must be written finds out by itself
                on_standing(waves, ledger.progress(plan_id))
            told_at = time.monotonic()
        on_progress(snapshot)

    return told


def _register(
    plan: Plan,
    ledger: Ledger,
    request: RunRequest,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    on_registering: Callable[[int], None],
) -> int:
    plan_id = registered(plan, ledger)
    accepted = {} if plan_id is None else ledger.acceptances(plan_id)
    blockers = open_blockers(plan, accepted, request.accept)
    if blockers:
        named = ", ".join(f"{blocker.count} {blocker.kind}" for blocker in blockers)
        missing = [f"{blocker.kind}:{blocker.count}:{blocker.digest[:12]}" for blocker in blockers]
        # a run that is refused writes nothing down, so the words of this one are said again
        words = " ".join(f"--accept {word}" for word in (*request.accept, *missing))
        raise RefusedError(
            f"the plan is blocked: {named}",
            remedy=f"Decide them in the spec and plan again, or accept just these: `migrate run {plan.digest[:12]} {words}`",
        )
    if plan_id is None:
        doing, deadline = "the plan was registered", request.limits.deadline
        batches = heeding(plan.batches(), stop, deadline, doing)
        users = heeding(users_with_a_row(plan), stop, deadline, doing, on_registering)
        plan_id = ledger.register(plan_entry(plan), batches, users, run_id, now())
        pause_at(PausePoint.PLAN_REGISTERED)
    for blocker in matching(request.accept, summarise(plan.document).blockers):
        ledger.accept(plan_id, blocker.kind, blocker.count, blocker.digest, run_id, now())
    return plan_id


def _end(plan: Plan, plan_id: int, ledger: Ledger, waves: tuple[int, ...], report: EngineReport) -> RunEnd:
    progress = tuple(ledger.progress(plan_id))
    check_sums(progress, plan.document["totals"])
    codes = codes_of(report)
    taken = [wave for wave in progress if wave.wave in waves]
    left = unfinished(taken)
    if unfinished(progress) and not codes:
        codes.append(ExitCode.LATER)
    if any(count(progress, outcome) for outcome in (Outcome.QUARANTINED, Outcome.DRIFTED)):
        codes.append(ExitCode.INCOMPLETE)
    known = ledger.known_differences(plan_id)
    if known:
        codes.append(ExitCode.DIFFERENT)
    return RunEnd(worst(codes), waves, report, progress, _next_step(plan, report, progress, waves, left, known))


def _next_step(
    plan: Plan,
    report: EngineReport,
    progress: Sequence[WaveProgress],
    waves: tuple[int, ...],
    left: int,
    known: Collection[str],
) -> str:
    name = plan.digest[:12]
    if (stopped := report.first_problem) is not None:
        return stopped.remedy or f"migrate run {name}"
    if StopReason.FAILURES in report.reasons:
        return f"Too many failures. See them with `migrate status {name} --failures`, mend the cause, then `migrate run {name}`."
    if known:
        to_pending = "" if known == {"EXTRA"} else f"; `migrate verify {name} --repair` puts copies back to pending"
        return f"A verification found {' and '.join(sorted(known))}: `migrate status {name} --failures` lists it{to_pending}."
    if left:
        return f"Work is left: `migrate run {name}` goes on."
    if count(progress, Outcome.QUARANTINED):
        return (
            f"`migrate status {name} --failures` says why; `migrate run {name} --retry-quarantined` tries them again."
        )
    if count(progress, Outcome.DRIFTED):
        return f"`migrate status {name} --failures` lists what changed at the source since the plan; those users wait."
    unverified = [wave.wave for wave in progress if wave.wave is not None and not is_verified(wave)]
    to_check = [wave for wave in unverified if wave in waves]
    if to_check:
        return f"`migrate verify {name} --wave {to_check[0]}` checks what was copied."
    if unfinished(progress):
        return following_wave(name, progress)
    return f"`migrate verify {name}` checks what was copied." if unverified else "Nothing is left to copy."
