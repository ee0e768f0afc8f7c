"""A plan on the terminal: the tables that `plan` and `show` share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from migrate.cli.output import Column, Output, safe
from migrate.errors import RefusedError
from migrate.model import CensusClass
from migrate.planner.summary import Listed, PlanSummary, how, ways_on
from migrate.report import plan_view
from migrate.spec import Spec, spec_time
from migrate.units import number_of

_SHARE = (Column("users", number=True), Column("copies", number=True), Column("bytes", number=True))

USERS_ASKED = 100_000  # about how many of a plan's users are looked for elsewhere, by who only looks


def show_summary(
    output: Output, summary: PlanSummary, spec: Spec, *, unprobed: Sequence[str] = (), built: bool = True
) -> None:
    """Everything that a plan's `plan.json` says, for a person."""
    _head(output, summary, spec, built=built)
    output.line()
    output.table([Column("country"), *_SHARE], plan_view.share_rows(summary.by_country))
    output.line()
    output.table([Column("site"), Column("in"), Column("role"), *_SHARE], plan_view.site_rows(summary.by_site, spec))
    for line in plan_view.closed_lines(summary):
        output.line(f"  {line}", style="yellow")
    output.line()
    output.table([Column("wave"), *_SHARE], plan_view.share_rows(summary.by_wave))
    output.line()
    output.table(
        [Column("store"), Column("listed", number=True), *(Column(kind.value, number=True) for kind in CensusClass)],
        [_warned(row) for row in plan_view.census_rows(summary.census)],
    )
    for line in plan_view.left_out_lines(summary):
        output.line(f"  {line}")
    if summary.policies:
        output.line()
        output.table(
            [
                Column("of nobody"),
                Column("policy"),
                Column("keys", number=True),
                Column("bytes", number=True),
                Column("what it means", folds=True),
            ],
            plan_view.policy_rows(summary.policies),
        )
    rows = plan_view.reconciliation_rows(summary.reconciliation)
    if rows:
        output.line()
        output.table(
            [Column("beside the source"), *(Column(name, number=True) for name in summary.reconciliation)], rows
        )
    for line in plan_view.skew_lines(summary):
        output.line(f"  {line}")
    for line in plan_view.cutover_lines(summary):
        output.line(f"  {line}", style="yellow")
    _findings(output, summary, unprobed)
    if summary.listed is not None:
        output.line()
        show_listed(output, summary.listed)
    _blockers(output, summary, built=built)


def show_listed(output: Output, rows: Sequence[Listed]) -> None:
    """Findings of one kind. What none of them has, such as a key where a user's are counted, is no column."""
    texts = {
        "user": [row.user_id for row in rows],
        "key": [row.key for row in rows],
        "detail": [row.detail for row in rows],
    }
    named = {name: [text or "–" for text in column] for name, column in texts.items() if any(column)}
    stores, counts = [row.store for row in rows], [f"{row.count:,}" for row in rows]
    output.table(
        [Column("store"), *(Column(name, folds=True) for name in named), Column("count", number=True)],
        list(zip(stores, *named.values(), counts, strict=True)),
    )


def show_taken(output: Output, taken: RefusedError) -> None:
    """That a run would be refused, since users of the plan stand elsewhere."""
    output.line()
    output.line(taken.what, style="bold yellow")
    output.line(f"next: {taken.remedy}")


def _head(output: Output, summary: PlanSummary, spec: Spec, *, built: bool) -> None:
    at = spec_time(datetime.fromisoformat(summary.built_at), spec)
    shown = summary.digest[: plan_view.DIGEST_SHOWN]
    what = f"plan {shown} ({summary.name}), built {at}" if built else f"{summary.name}: this would be plan {shown}"
    users = ", ".join(f"{count:,} {state}" for state, count in summary.users.items() if count)
    output.line(what, style="bold")
    output.line(f"  inputs    {plan_view.inputs_line(summary, spec)}")
    output.line(f"  users     {users or 'none'}")
    objects, copies = number_of(summary.objects, "object"), number_of(summary.copies, "copy", "copies")
    output.line(f"  moves     {objects} as {copies}, in {number_of(summary.batches, 'batch', 'batches')}")
    requests, duration = plan_view.forecast_lines(summary)
    output.line(f"  requests  {requests}")
    output.line(f"  time      {duration}")


def _warned(row: Sequence[str]) -> list[object]:
    *cells, last = row
    return [*cells, Text(safe(last), style="" if last == "0" else "bold yellow")]


def _findings(output: Output, summary: PlanSummary, unprobed: Sequence[str]) -> None:
    rows: list[Sequence[object]] = [*plan_view.finding_rows(summary.findings)]
    if unprobed:
        rows.append(
            ("not probed", len(unprobed), f"{', '.join(unprobed)}: the least is assumed; run `migrate doctor SPEC`")
        )
    if rows:
        output.line()
        output.table([Column("finding"), Column("count", number=True), Column("what it means", folds=True)], rows)


def _blockers(output: Output, summary: PlanSummary, *, built: bool) -> None:
    output.line()
    if not summary.blockers:
        output.line("nothing blocks it", style="green")
        return
    what = ", ".join(f"{blocker.count:,} {blocker.kind}" for blocker in summary.blockers)
    output.line(f"blocked by {what}", style="bold yellow")
    if built:
        shown = summary.digest[: plan_view.DIGEST_SHOWN]
        output.line(f"look at them, and {how(summary.blockers)}:")
        for blocker in summary.blockers:
            output.command(f"migrate show {shown} --list {blocker.kind}")
        for command in ways_on(summary.digest, summary.blockers):
            output.command(command)
    else:
        output.line("look at them, and decide them in the spec; or build the plan and accept them by count and digest:")
        for blocker in summary.blockers:
            output.command(f"migrate plan SPEC --dry-run --list {blocker.kind}")
