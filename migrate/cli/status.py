"""`migrate status`: where everything stands. Reads counters only, so it answers at once on a plan of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from migrate.cli.context import Context, JsonOption, PlanArgument, context_of, user_given
from migrate.cli.output import Column
from migrate.cli.records import existing_ledger
from migrate.cli.standing import show_lags, show_standing
from migrate.errors import UsageError
from migrate.jobs.registered import check_sums, demand_not_begun, lease_watch, registered
from migrate.ledger import EXTRA, FULL_SAMPLE_PPM, SEAL_LOST, EventKind, Ledger, RunRow, UserRow
from migrate.model import Role
from migrate.planner.folder import Plan, PlanReader, find_plan
from migrate.planner.summary import sources_seen
from migrate.privacy import pseudonyms_of
from migrate.report.lag import lag_document, wave_lags
from migrate.report.standing import pass_document, wave_document, wave_words
from migrate.spec import spec_time
from migrate.states import UserState
from migrate.units import format_duration, format_size, number_of

_SHOWN = 50
_RUNS = 5
_TOLD = {EventKind.HOLD: "put on hold", EventKind.RELEASE: "released", EventKind.ERASED: "erased at the targets"}
_FINDINGS = {EXTRA: "no copy stands for it", SEAL_LOST: "the sealed file is missing or was changed"}


def status(
    typer_context: typer.Context,
    plan: PlanArgument = None,
    user: Annotated[
        str | None, typer.Option(metavar="U", help="Where one user stands; - reads the id from stdin.")
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="List what is quarantined, drifted, different, missing or EXTRA.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many failures of each kind to list.")] = _SHOWN,
    as_json: JsonOption = False,
) -> None:
    """Show where a plan, or one user, stands: users, copies by outcome, bytes, the last verification, the last runs."""
    context = context_of(typer_context, as_json=as_json)
    if failures and user is not None:
        raise UsageError(
            "--failures lists what is wrong in the whole plan, --user tells of one user", remedy="Give one of them."
        )
    found = find_plan(context.workspace, plan)
    with existing_ledger(context) as ledger:
        plan_id = None if ledger is None else registered(found, ledger)
        if ledger is None or plan_id is None:
            _not_begun(context, found, user)
        elif user is not None:
            _show_user(context, found, ledger, plan_id, user_given(user))
        elif failures:
            _show_failures(context, found, ledger, plan_id, limit)
        else:
            _show_plan(context, found, ledger, plan_id)


def _not_begun(context: Context, plan: Plan, user: str | None) -> None:
    """Of a plan that the ledger does not know. IntegrityError where it was run all the same, UsageError for a user it has not."""
    from migrate.planner.explain import explain  # rarely asked, and it loads the rules

    demand_not_begun(plan, context.workspace)
    state = "built" if user is None else explain(plan, user_given(user)).user.state
    step = f"migrate run {plan.digest[:12]}"
    if context.as_json:
        context.output.document({"plan": plan.digest, "name": plan.name, "state": state, "next": step})
        return
    if user is None:
        context.output.line(f"plan {plan.digest[:12]} ({plan.name}) is built, and nothing of it was run yet")
    else:
        context.output.line(f"the user is {state} in plan {plan.digest[:12]}, and nothing of it was run yet")
    context.output.line(f"next: `{step}`")


def _show_plan(context: Context, plan: Plan, ledger: Ledger, plan_id: int) -> None:
    progress = ledger.progress(plan_id)
    child = ledger.child_of(plan.digest)
    if child is None:  # a delta takes the users over, and their sums
        check_sums(progress, plan.document["totals"])
    seen = sources_seen(plan.document, plan.spec.by_role(Role.SOURCE, Role.BACKUP))  # as a cutover's gate asks
    lags = wave_lags(plan, ledger, progress) if child is None else []
    passes = ledger.passes(plan_id, 1)
    on_hold = ledger.holds_in(plan_id)
    runs = [run for run in ledger.runs(10 * _RUNS) if run.plan == plan.digest][:_RUNS]
    verification = pass_document(passes[0], ledger.pass_progress(passes[0].id)) if passes else None
    leases = ledger.leases(plan_id)
    leased = leases.total()
    left = sum(leases[worker] for worker in lease_watch().dead(list(leases)))
    if context.as_json:
        context.output.document(
            {
                "plan": plan.digest,
                "name": plan.name,
                "continued_by": child,
                "sources_seen": seen.isoformat(),
                "lag_seconds": round((context.now() - seen).total_seconds()),
                "lags": [lag_document(lag, context.now()) for lag in lags],
                "standing": wave_document(progress),
                "leased_batches": leased,
                "left_batches": left,  # of these, by runs that were killed
                "on_hold": on_hold,
                "verification": verification,
                "runs": [run._asdict() for run in runs],
            }
        )
        return
    output = context.output
    output.line(f"plan {plan.digest[:12]} ({plan.name}), built {spec_time(plan.built_at, plan.spec)}", style="bold")
    if child is not None:
        output.line(f"continued by the delta {child[:12]}, where its users are now", style="bold yellow")
    lag = format_duration(round((context.now() - seen).total_seconds()))
    output.line(f"sources seen at {spec_time(seen, plan.spec)}, {lag} ago: `migrate delta` plans what changed since")
    show_standing(output, progress)
    if lags:
        output.line()
        show_lags(output, lags, context.now(), lambda moment: spec_time(moment, plan.spec))
    states: dict[UserState, int] = {}
    for wave in progress:
        for state, number in wave.users.items():
            states[state] = states.get(state, 0) + number
    output.line("users: " + ", ".join(f"{number:,} {state.value}" for state, number in sorted(states.items())))
    if on_hold:
        output.line(f"on hold: {number_of(on_hold, 'user')}; `migrate hold` lists all holds")
    if leased > left:
        output.line(f"at work: {number_of(leased - left, 'batch is', 'batches are')} leased")
    if left:
        batches = number_of(left, "batch is", "batches are")
        output.line(f"left by a run that was killed: {batches} leased; the next run takes over")
    if verification is not None:
        output.line(_verification_line(verification))
    if runs:
        output.line()
        _show_runs(context, plan, runs)


def _show_runs(context: Context, plan: Plan, runs: Sequence[RunRow]) -> None:
    context.output.table(
        [
            Column("run", number=True),
            Column("verb"),
            Column("began"),
            Column("ended"),
            Column("code", number=True),
            Column("by"),
        ],
        [
            (
                run.id,
                run.verb,
                spec_time(run.started_at, plan.spec),
                "–" if run.ended_at is None else spec_time(run.ended_at, plan.spec),
                "–" if run.exit_code is None else run.exit_code,
                f"{run.operator}@{run.host}",
            )
            for run in runs
        ],
    )


def _verification_line(document: dict[str, Any]) -> str:
    verdicts, batches = document["verdicts"], document["batches"]
    waves = "all waves" if document["waves"] is None else wave_words(document["waves"])
    state = "done" if document["ended_at"] else f"not ended, {batches['done']} of {sum(batches.values())} batches"
    if document["superseded"]:
        state = f"given up after {batches['done']} of {sum(batches.values())} batches"
    elif document["sample_ppm"] < FULL_SAMPLE_PPM:
        state = f"a sample of {document['sample_ppm'] / 10_000:g} %, {state}"
    counts = ", ".join(f"{number:,} {name.upper()}" for name, number in verdicts.items() if number or name == "match")
    return f"last verification: {waves}, level {document['level']}, {state}: {counts}"


def _show_user(context: Context, plan: Plan, ledger: Ledger, plan_id: int, user_id: str) -> None:
    row: UserRow | None = ledger.user(user_id)
    if row is None or row.plan_id != plan_id:
        raise UsageError(
            "the ledger knows no such user in this plan", remedy="`migrate explain USER` says what the plan decided."
        )
    names = pseudonyms_of(plan.spec.privacy.pseudonym_key, context.environment, context.workspace.root)
    pseudonym = None if names is None else names.user(row.user_id)
    found, history = ledger.hold_of(user_id), ledger.history(user_id)
    if context.as_json:
        hold = None if found is None else found._asdict()
        told = [event._asdict() for event in history]
        context.output.document(row._asdict() | {"pseudonym": pseudonym, "hold": hold, "history": told})
        return
    output = context.output
    output.line(f"user {row.user_id} ({row.country}): {row.state.value}", style="bold")
    output.line(f"  home {row.home or '–'}, backup {row.backup or '–'}, wave {'–' if row.wave is None else row.wave}")
    if pseudonym is not None:
        output.line(f"  {pseudonym} in logs")
    left = row.copies - row.settled
    output.line(
        f"  {row.copies:,} copies = {row.good:,} copied or present + {row.quarantined:,} quarantined"
        f" + {row.other:,} drifted or withdrawn + {left:,} in batches not done; {format_size(row.size_bytes)}"
    )
    output.line(f"  {row.matched:,} MATCH in the last full verification")
    if found is not None:
        output.line(f"  on hold since {spec_time(found.since, plan.spec)} by {found.operator}: {found.reason}")
    for event in history:
        run = "" if event.run_id is None else f" in run {event.run_id}"
        note = f": {event.note}" if event.note else ""
        output.line(f"  {spec_time(event.at, plan.spec)}: {event.to_state or _TOLD[event.kind]}{run}{note}")


def _show_failures(context: Context, plan: Plan, ledger: Ledger, plan_id: int, limit: int) -> None:
    failures, differences = ledger.failures(plan_id, limit + 1), ledger.differences(plan_id, limit + 1)
    extras = ledger.findings(plan_id, limit + 1, answered=False)
    are_more = max(len(failures), len(differences), len(extras)) > limit
    rows = [
        (failure.outcome.value, failure.number, failure.ordinal, failure.reason, failure.detail or "")
        for failure in failures[:limit]
    ]
    seen: set[tuple[int, int]] = set()
    for row in differences[:limit]:
        if (row.number, row.ordinal) not in seen:
            seen.add((row.number, row.ordinal))
            note = "put back" if row.reopened else ""
            rows.append((row.verdict.value, row.number, row.ordinal, row.reason or "", note))
    names = _names(plan, ledger, plan_id, {(number, ordinal) for _, number, ordinal, _, _ in rows})
    found: list[dict[str, str | None]] = [
        {"kind": kind, "user": user, "store": store, "key": key, "reason": reason, "detail": detail}
        for kind, number, ordinal, reason, detail in rows
        for user, store, key in [names[number, ordinal]]
    ]
    found += [
        {
            "kind": row.finding.kind.upper(),
            "user": row.finding.user_id,
            "store": row.finding.store,
            "key": row.finding.key,
            "reason": _FINDINGS[row.finding.kind],
            "detail": "" if row.finding.size_bytes is None else format_size(row.finding.size_bytes),
        }
        for row in extras[:limit]
    ]
    if context.as_json:
        context.output.document({"plan": plan.digest, "failures": found, "are_more": are_more})
        return
    if not found:
        context.output.line("nothing is quarantined, drifted, different, missing or EXTRA")
        return
    columns = [Column(name, folds=name in ("user", "key", "detail")) for name in found[0]]
    context.output.table(columns, [tuple(value or "" for value in entry.values()) for entry in found])
    if are_more:
        context.output.line(f"there are more than the first {limit} of a kind: --limit N lists N")


def _names(
    plan: Plan, ledger: Ledger, plan_id: int, wanted: set[tuple[int, int]]
) -> dict[tuple[int, int], tuple[str, str, str]]:
    """User, target store and target key of copies, from the plan: the ledger does not repeat them."""
    reader = PlanReader(plan)
    found: dict[tuple[int, int], tuple[str, str, str]] = {}
    try:
        for number in sorted({number for number, _ in wanted}):
            for planned in reader.objects(ledger.batch(plan_id, number).info):
                for copy in planned.copies:
                    if (number, copy.ordinal) in wanted:
                        found[number, copy.ordinal] = (planned.user_id, copy.store, planned.target_key)
    finally:
        reader.close()
    return found
