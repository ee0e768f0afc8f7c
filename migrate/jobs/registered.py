"""A plan's row in the ledger, what it counts, and who holds its batches: what is asked without loading anything that works."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from migrate.errors import IntegrityError, LaterError
from migrate.ledger import LEASE_SECONDS, LeaseWatch, Ledger, PlanEntry, ProcessIdentity, WaveProgress
from migrate.model import Outcome
from migrate.planner.folder import Plan
from migrate.states import BatchState
from migrate.worker.seals import Seals
from migrate.workspace import Workspace

ASK_A_PERSON = "Do not go on. Compare the ledger with its last backup and the plan with its copy."


def plan_entry(plan: Plan) -> PlanEntry:
    """The plan as the ledger registers it."""
    totals = plan.document["totals"]
    return PlanEntry(
        digest=plan.digest,
        name=plan.name,
        built_at=plan.built_at,
        verify_level=plan.spec.verify.level,
        users=sum(number for state, number in totals["users"].items() if state != "out"),
        objects=totals["objects"],
        copies=totals["copies"],
        size_bytes=totals["size_bytes"],
        batches=totals["batches"],
        parent=plan.document.get("parent"),
    )


def registered(plan: Plan, ledger: Ledger) -> int | None:
    """The plan's id in the ledger; None where no run has registered it. IntegrityError where its row is not the plan's."""
    row = next((row for row in ledger.plans() if row.entry.digest == plan.digest), None)
    if row is None:
        return None
    if row.entry._replace(built_at=plan.built_at) != plan_entry(
        plan
    ):  # built again from the same inputs, it is the same
        raise IntegrityError("the ledger's row of the plan is not what the plan says", remedy=ASK_A_PERSON)
    return row.id


def demand_not_begun(plan: Plan, workspace: Workspace) -> None:
    """IntegrityError where a plan that the ledger does not know was begun with another one, whose proofs lie here."""
    seals = Seals.folder_of(workspace.seals, plan.digest)
    if seals.is_dir():
        raise IntegrityError(
            f"plan {plan.digest[:12]} was begun with another ledger, whose sealed receipts are in {seals}",
            remedy="Name that ledger (--ledger or MIGRATE_LEDGER). If it is lost, put its last backup back; if there is none, "
            "move the folder aside and run: what is at the targets already counts as present.",
        )


def no_copy_yet(plan: Plan) -> LaterError:
    return LaterError(
        "the ledger knows of no copy of this plan yet",
        remedy=f"`migrate run {plan.digest[:12]}` comes first; if it ran, name its ledger by --ledger.",
    )


def unfinished(waves: Sequence[WaveProgress]) -> int:
    """Batches that are not done: copies without an outcome, or a batch that was not yet closed over its outcomes."""
    return sum(number for wave in waves for state, number in wave.batches.items() if state is not BatchState.DONE)


def check_sums(waves: Sequence[WaveProgress], totals: Mapping[str, int]) -> None:
    """Planned = the sum of the outcomes, over the whole plan (invariant 3). IntegrityError where it is off."""
    for wave in waves:
        if sum(wave.outcomes.values()) != wave.copies or any(count < 0 for count in wave.outcomes.values()):
            raise IntegrityError(f"the outcomes of wave {wave.wave} do not add up to its copies", remedy=ASK_A_PERSON)
        if _settled(wave)[0] == wave.copies and wave.done_bytes != wave.size_bytes:
            raise IntegrityError(f"the bytes of wave {wave.wave} do not add up to its copies'", remedy=ASK_A_PERSON)
        if not unfinished([wave]) and wave.tallied != _settled(wave):
            raise IntegrityError(
                f"the users of wave {wave.wave} do not count the copies that its batches count", remedy=ASK_A_PERSON
            )
    if sum(wave.copies for wave in waves) != totals["copies"]:
        raise IntegrityError("the ledger does not count as many copies as the plan has", remedy=ASK_A_PERSON)


def _settled(wave: WaveProgress) -> tuple[int, int, int]:
    outcomes = wave.outcomes
    return (
        outcomes[Outcome.COPIED] + outcomes[Outcome.PRESENT],
        outcomes[Outcome.QUARANTINED],
        outcomes[Outcome.DRIFTED] + outcomes[Outcome.WITHDRAWN],
    )


def lease_watch() -> LeaseWatch:
    """Of this process, which has seen no beat yet: at first it holds for dead whose process is known to be gone."""
    return LeaseWatch(ProcessIdentity.current(), LEASE_SECONDS, clock=time.monotonic)
