"""`migrate run`: what must hold before it starts, the waves it may take, and what its end amounts to."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import structlog

from migrate.engines.assignment import Snapshot
from migrate.engines.local import EngineReport, Problem, run_assignments
from migrate.errors import ExitCode, RefusedError, UnreachableError, UsageError, WaveWaitsError, worst
from migrate.inventory.forgotten import remembered
from migrate.jobs.common import (
    Actor,
    Limits,
    assignments,
    codes_of,
    count,
    free_dead_leases,
    heeding,
    is_over,
    parse_waves,
    refuse_early,
    users_with_a_row,
)
from migrate.jobs.elsewhere import beginning, demand_newest, demand_only_child, hold_line, is_begun, wait_for_requests
from migrate.jobs.late import forget_replanned
from migrate.jobs.registered import check_sums, demand_not_begun, plan_entry, registered, unfinished
from migrate.jobs.waves import are_held_up, choose_waves, held_up_words, is_to_verify, what_next
from migrate.ledger import Ledger, WaveProgress
from migrate.model import Outcome, Purpose
from migrate.pauses import PausePoint, pause_at
from migrate.planner.folder import Plan
from migrate.planner.kept import parents_of
from migrate.planner.summary import BYTES_PER_SECOND, OBJECTS_PER_SECOND, Blocker, accept_words, how, summarise, ways_on
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
    """What a run would do now: the waves it would take, what keeps it from starting, and how it would end if all went well."""

    exit_code: ExitCode
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


def open_blockers(plan: Plan, ledger: Ledger | None, words: Sequence[str]) -> list[Blocker]:
    """The blockers of a plan that neither the ledger nor the command line's words accept. What was accepted of a plan of the line
    is accepted of its deltas, as long as it is the same to the last item."""
    accepted: set[tuple[str, int, str]] = set()
    if ledger is not None:
        accepted = ledger.acceptances([plan.digest, *(each.digest for each in parents_of(plan))])
    blockers = list(summarise(plan.document).blockers)
    newly = {blocker.kind for blocker in matching(words, blockers)}
    return [
        blocker
        for blocker in blockers
        if blocker.kind not in newly and (blocker.kind, blocker.count, blocker.digest) not in accepted
    ]


def forecast_run(plan: Plan, ledger: Ledger | None, request: RunRequest) -> RunForecast:
    """What `migrate run` would do now; changes nothing. `ledger` is None where there is none yet."""
    plan_id = None if ledger is None else ledger.plan_id(plan.digest)
    if ledger is None or plan_id is None:
        shares = {int(share.name): share for share in summarise(plan.document).by_wave}
        first = parse_waves(request.waves, sorted(shares)) or tuple(sorted(shares)[:1])
        taken = [shares[wave] for wave in first]
        users, copies = sum(share.users for share in taken), sum(share.copies for share in taken)
        size_bytes = sum(share.size_bytes for share in taken)
        blockers = open_blockers(plan, ledger, request.accept)
        codes = [ExitCode.LATER] if any(share.copies for wave, share in shares.items() if wave not in first) else []
        return _forecast(plan, first, users, copies, size_bytes, blockers, None, codes)
    progress = ledger.progress(plan_id, held_up=True)
    if request.retry_quarantined:
        named = parse_waves(request.waves, [wave.wave for wave in progress if wave.wave is not None])
        progress = [_tried_again(wave) if named is None or wave.wave in named else wave for wave in progress]
    blockers = open_blockers(plan, ledger, request.accept)
    waves: tuple[int, ...] = ()
    waits: WaveWaitsError | None = None
    try:
        waves = _choose(plan, ledger, plan_id, request, progress)
    except WaveWaitsError as error:
        waits = error
    left = [wave for wave in progress if wave.wave in waves]
    users, copies = sum(sum(wave.users.values()) for wave in left), count(left, Outcome.PENDING)
    size_bytes = sum(wave.size_bytes - wave.done_bytes for wave in left)
    codes = [waits.exit_code] if waits else _codes(ledger, plan_id, progress, waves, [])
    return _forecast(plan, waves, users, copies, size_bytes, blockers, None if waits is None else waits.what, codes)


def _tried_again(wave: WaveProgress) -> WaveProgress:
    """The wave as it would stand with its quarantined copies back to pending."""
    again = wave.outcomes[Outcome.QUARANTINED]
    if not again:
        return wave
    outcomes = {**wave.outcomes, Outcome.QUARANTINED: 0, Outcome.PENDING: wave.outcomes[Outcome.PENDING] + again}
    batches = {**wave.batches, BatchState.PENDING: wave.batches.get(BatchState.PENDING, 0) + 1}  # one at least
    return wave._replace(outcomes=outcomes, batches=batches, cannot_keep=0)


def _forecast(
    plan: Plan,
    waves: tuple[int, ...],
    users: int,
    copies: int,
    size_bytes: int,
    blockers: Sequence[Blocker],
    waits: str | None,
    codes: Sequence[ExitCode],
) -> RunForecast:
    """Requests and time in proportion to what the plan as a whole comes to."""
    summary = summarise(plan.document)
    whole, every = summary.forecast, max(1, summary.copies)
    requests = whole.get_requests + whole.put_requests + whole.part_requests + whole.upload_requests
    seconds = max(-(-copies // OBJECTS_PER_SECOND), -(-size_bytes // BYTES_PER_SECOND))
    requests = requests * copies // every
    code = worst([*codes, ExitCode.REFUSED] if blockers else codes)
    return RunForecast(code, waves, users, copies, size_bytes, requests, seconds, tuple(blockers), waits)


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
    """Copy what is to be copied. RefusedError while blockers are open, LaterError where another run holds the plan,
    WaveWaitsError where the next wave may not start.

    `on_registering` is told how many users are registered, `on_standing` now and then where the waves stand by the ledger.
    """
    ledger.heed(stop.ledger_ends_at)
    demand_newest(plan, ledger)
    refuse_early(plan, workspace, actor, request.limits, Purpose.COPY)
    named = parse_waves(request.waves, sorted(int(share.name) for share in summarise(plan.document).by_wave))
    with ledger.hold_plan(plan.digest, share=request.share):
        demand_newest(plan, ledger)  # again, now that nobody can begin a delta
        plan_id = _register(plan, workspace, ledger, request, run_id, now, stop, on_registering)
        if plan.document["parent"] is not None:
            forget_replanned(plan, plan_id, ledger)
        free_dead_leases(ledger)
        ledger.check_counters(plan_id)
        progress = ledger.progress(plan_id, held_up=True)
        check_sums(progress, plan.document["totals"])
        waves = _choose(plan, ledger, plan_id, request, progress)
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
    workspace: Workspace,
    ledger: Ledger,
    request: RunRequest,
    run_id: int,
    now: Callable[[], datetime],
    stop: Stop,
    on_registering: Callable[[int], None],
) -> int:
    plan_id = registered(plan, ledger)
    if plan_id is None:
        demand_not_begun(plan, workspace)
    demand_only_child(plan, ledger)
    blockers = open_blockers(plan, ledger, request.accept)
    if blockers:
        named = ", ".join(f"{blocker.count} {blocker.kind}" for blocker in blockers)
        # a run that is refused writes nothing down, so the words of this one are said again
        ways = " and ".join(f"`{command}`" for command in ways_on(plan.digest, blockers, given=request.accept))
        raise RefusedError(f"the plan is blocked: {named}", remedy=f"{how(blockers).capitalize()}: {ways}.")
    if plan_id is None or not is_begun(plan, workspace):
        doing, deadline = "the plan was registered", request.limits.deadline
        wait_for_requests(plan, ledger, stop, deadline, now)
        with hold_line(plan, ledger), beginning(plan, workspace, stop, deadline):
            if registered(plan, ledger) is None:  # of two first runs on two ledgers the later one has waited
                demand_not_begun(plan, workspace)
            batches = heeding(plan.batches(), stop, deadline, doing)
            rows = users_with_a_row(plan, is_stopping=partial(is_over, stop, deadline))
            users = heeding(rows, stop, deadline, doing, on_registering)
            accept = accept_words(summarise(plan.document).blockers)
            mark = plan.document["line_mark"]
            # whoever has a row here is forgotten in this ledger, or is not
            forgotten = {user_id for user_id in remembered(workspace) if ledger.user(user_id) is None}
            plan_id = ledger.register(
                plan_entry(plan), batches, users, run_id, now(), accept=accept, mark=mark, forgotten=forgotten
            )
            if (number := ledger.forgotten_in(plan_id)) > 0:
                structlog.get_logger().info("left_out", users=number, reason="they are forgotten")
            pause_at(PausePoint.PLAN_REGISTERED)
    for blocker in matching(request.accept, summarise(plan.document).blockers):
        ledger.accept(plan_id, blocker.kind, blocker.count, blocker.digest, run_id, now())
    return plan_id


def _choose(
    plan: Plan, ledger: Ledger, plan_id: int, request: RunRequest, progress: Sequence[WaveProgress]
) -> tuple[int, ...]:
    different = ledger.different_waves(plan_id)
    return choose_waves(plan.digest[:12], request.waves, progress, different, retry=request.retry_quarantined)


def _codes(
    ledger: Ledger, plan_id: int, progress: Sequence[WaveProgress], done: Collection[int], ended: Sequence[ExitCode]
) -> list[ExitCode]:
    """What applies to a run that ended with these codes, and did all of the waves `done`."""
    codes = [*ended]
    if unfinished([wave for wave in progress if wave.wave not in done]) and not codes:
        codes.append(ExitCode.LATER)
    if are_held_up(progress):
        codes.append(ExitCode.INCOMPLETE)
    if ledger.known_differences(plan_id):
        codes.append(ExitCode.DIFFERENT)
    return codes


def _end(plan: Plan, plan_id: int, ledger: Ledger, waves: tuple[int, ...], report: EngineReport) -> RunEnd:
    progress = tuple(ledger.progress(plan_id, held_up=True))
    check_sums(progress, plan.document["totals"])
    left = unfinished([wave for wave in progress if wave.wave in waves])
    if (number := _left_out(plan, progress)) > 0:
        who = f"{number_of(number, 'user')} of the plan {'is' if number == 1 else 'are'} forgotten in another plan"
        report.problems.append(Problem(f"{who} of this ledger: nothing of theirs is copied", "", ExitCode.DONE))
    codes = _codes(ledger, plan_id, progress, (), codes_of(report, is_left=left > 0))
    next_step = _next_step(plan, ledger, plan_id, report, progress, left)
    return RunEnd(worst(codes), waves, report, progress, next_step)


def _left_out(plan: Plan, progress: Sequence[WaveProgress]) -> int:
    """How many users of the plan have their row elsewhere. A delta has rows of others as well, and plans nothing of those."""
    if plan.document["parent"] is not None:
        return 0
    return plan_entry(plan).users - sum(sum(wave.users.values()) for wave in progress)


def _next_step(
    plan: Plan,
    ledger: Ledger,
    plan_id: int,
    report: EngineReport,
    progress: Sequence[WaveProgress],
    left: int,
) -> str:
    name = plan.digest[:12]
    if (stopped := report.first_problem) is not None:
        return stopped.remedy or f"migrate run {name}"
    if left and StopReason.FAILURES in report.reasons:
        return f"Too many failures. See them with `migrate status {name} --failures`, mend the cause, then `migrate run {name}`."
    if known := ledger.known_differences(plan_id):
        to_pending = "" if known == {"EXTRA"} else f"; `migrate verify {name} --repair` puts copies back to pending"
        return f"A verification found {' and '.join(sorted(known))}: `migrate status {name} --failures` lists it{to_pending}."
    if left:
        return f"Work is left: `migrate run {name}` goes on."
    if any(is_to_verify(wave) and not unfinished([wave]) for wave in progress):
        step = f"`migrate verify {name}` checks what was copied."
    else:
        step = what_next(name, progress, ()) or "Nothing is left to copy."
    held = held_up_words(name, progress)
    return step if held in step else f"{step} {held[0].upper()}{held[1:]}"
