"""The state machine of the model test: what can happen to a small world, and what must hold after each of it."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fibers import WRITES, Fate, Process, Request, Scheduler
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from modelworld import (
    COHORTS,
    TARGETS,
    CohortPlan,
    Oracle,
    Wanted,
    body_of,
    delta_of,
    lay_directory,
    lay_sources,
    plan_of,
)
from sqlalchemy import Table, select
from stepped import exchange, never_forced

from migrate.errors import (
    ExitCode,
    InterruptedRun,
    LaterError,
    MigrateError,
    RefusedError,
    UnreachableError,
    WaveWaitsError,
)
from migrate.jobs import copying, wave_users
from migrate.jobs.checking import VerifyEnd, VerifyRequest, VerifyWatch, verify_plan
from migrate.jobs.common import Actor, Limits, users_with_a_row
from migrate.jobs.copying import RunEnd, RunRequest, run_plan
from migrate.jobs.cutover import CutoverRequest, cut_over
from migrate.jobs.forget import Result, forget
from migrate.jobs.registered import check_sums, plan_entry
from migrate.jobs.wave_users import Setting
from migrate.ledger import LEASE_SECONDS, LeaseWatch, Ledger, ProcessIdentity, SealKind, schema
from migrate.ledger.columns import OUTCOMES
from migrate.model import Attributes, Level, Outcome
from migrate.planner.folder import Plan
from migrate.routing import open_router
from migrate.states import HELD_UP, BatchState, UserState
from migrate.stores.memory import forget_places, place
from migrate.worker.loop import Stop, WorkerReport
from migrate.workspace import Workspace

ACTOR = Actor("op", "host", "IE")
STEPS_MAX = 5000  # of one process: far more than any needs
JOBS_MAX = 3
FORGET_FROM = 10  # steps
DELTAS_MAX = 2  # in a world, before the last ones: each takes as long to plan as many steps
ROUNDS_MAX = 6
CALM = (LaterError, UnreachableError, InterruptedRun, WaveWaitsError)  # ways to end that are nobody's fault
CHOICE = st.integers(0, 63)
TURNS = st.tuples(st.integers(0, 2**20), st.sampled_from([15, 40, 5, 100]), st.sampled_from([5, 30, 0]))
FAULTS = (Fate.FAILED, Fate.STALLED, Fate.UNHEARD)


class Tallies(Counter[str]):
    """What was injected over all examples, for whoever asks for figures."""


figures = Tallies()


def now() -> datetime:
    return datetime.now(UTC)


class Model(RuleBasedStateMachine):
    """A world, the jobs that run in it, and the oracle. The test that drives it sets the class attributes.

    `has_deltas`: deltas are planned, and users are forgotten and cut over; else there is one plan for each cohort.
    """

    plans_root: Path
    open_ledger: Callable[[Path], Ledger]
    sabotage: Callable[[pytest.MonkeyPatch], None] | None = None
    has_deltas = True

    @initialize(conditional=st.booleans())
    def begin(self, conditional: bool) -> None:
        forget_places()
        for cohort in range(len(COHORTS)):
            lay_sources(cohort)
        self.conditional = conditional
        self.to_add = [plan_of(cohort, conditional, self.plans_root) for cohort in range(len(COHORTS))]
        self.cohorts: list[CohortPlan] = []  # of each the newest plan that has begun
        self.lines: list[list[CohortPlan]] = []  # all that have
        self.deltas: dict[int, CohortPlan] = {}  # by cohort, those that were built, and have not begun yet
        self.job_plans: dict[Process, CohortPlan] = {}
        self.oracle, self.scheduler = Oracle(), Scheduler()
        self.root = Path(tempfile.mkdtemp(prefix="model-"))
        self.workspace = Workspace(self.root)
        self.workspace.private.mkdir()
        self.workspace.plans.symlink_to(Workspace(self.plans_root).plans)
        for cohort in range(len(COHORTS)):
            lay_directory(cohort, self.root)
        self.ledger = never_forced(type(self).open_ledger(self.root))
        self.jobs: list[Process] = []
        self.built: list[CohortPlan] = []  # all deltas
        self.pass_seen: dict[int, int] = {}
        self.proved: dict[tuple[str, str], int] = {}  # by plan and user: what the last pass that verified them has seen
        self.landed_uploads = 0
        self.woken: set[Process] = set()  # they had lost their leases when they went on
        self.woken_ended = 0
        self.patch = pytest.MonkeyPatch()
        exchange(self.patch, self.scheduler, self.ledger)
        for module in (copying, wave_users):
            self.patch.setattr(module, "wait_for_requests", self._a_minute_goes_by)
        self._hook_places()
        if self.sabotage is not None:
            type(self).sabotage(self.patch)  # type: ignore[misc]
        figures["worlds"] += 1
        self.add_users()

    def _hook_places(self) -> None:
        sources = [f"{name}-{cohort}" for name in ("us", "singapore") for cohort in range(len(COHORTS))]
        for name in (*TARGETS, *sources):
            found = place(name)
            found.fault = partial(self.scheduler.on_request, name)
            found.deliver = partial(self.scheduler.on_delivery, name)
            found.after = partial(self.scheduler.on_answer, name)
        for name in TARGETS:
            place(name).able = self.to_add[0].plan.capabilities[name]

    def teardown(self) -> None:
        if not hasattr(self, "patch"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.settle()
        finally:
            for process in self.scheduler.alive():
                self.scheduler.kill(process, in_flight=False)
            figures["requests"] += self.scheduler.requests
            figures["stalled"] += self.scheduler.stalled
            self.patch.undo()
            self.ledger.close()
            for delta in self.built:
                shutil.rmtree(delta.plan.folder, ignore_errors=True)
            shutil.rmtree(self.root, ignore_errors=True)
            forget_places()

    # people and timers

    @rule()
    @precondition(lambda self: bool(self.to_add))
    def add_users(self) -> None:
        found = self.to_add.pop(0)
        self.cohorts.append(found)
        self.lines.append([found])
        self.oracle.begin(found)

    @rule(
        choice=CHOICE,
        workers=st.integers(1, 2),
        share=st.booleans(),
        waves=st.sampled_from(["all", None]),
        retry=st.booleans(),
        turns=TURNS,
    )
    @precondition(lambda self: len(self.jobs) < JOBS_MAX)
    def start_run(
        self, choice: int, workers: int, share: bool, waves: str | None, retry: bool, turns: tuple[int, int, int]
    ) -> None:
        known = [*self.deltas.values(), *self.cohorts]  # the first run of a delta is what begins it
        self._start(
            known[choice % len(known)],
            RunRequest(waves=waves, limits=Limits(workers=workers), share=share, retry_quarantined=retry),
        )
        self.go_on(turns)

    @rule(
        choice=CHOICE,
        workers=st.integers(1, 2),
        share=st.booleans(),
        level=st.sampled_from(Level),
        waves=st.sampled_from(["all", None]),
        repair=st.booleans(),
        turns=TURNS,
    )
    @precondition(lambda self: len(self.jobs) < JOBS_MAX)
    def start_verification(
        self,
        choice: int,
        workers: int,
        share: bool,
        level: Level,
        waves: str | None,
        repair: bool,
        turns: tuple[int, int, int],
    ) -> None:
        self._start(
            self.cohorts[choice % len(self.cohorts)],
            VerifyRequest(waves=waves, level=level, repair=repair, share=share, limits=Limits(workers=workers)),
        )
        self.go_on(turns)

    def _start(self, found: CohortPlan, request: RunRequest | VerifyRequest) -> Process:
        is_run = isinstance(request, RunRequest)
        run_id = self._record("run" if is_run else "verify", found.plan.digest)

        def job(process: Process) -> RunEnd | VerifyEnd:
            if isinstance(request, RunRequest):
                return run_plan(
                    found.plan,
                    self.workspace,
                    self.ledger,
                    ACTOR,
                    RunRequest(request.waves, request.limits, found.accept, request.share, request.retry_quarantined),
                    run_id=run_id,
                    now=now,
                    stop=process.stop,
                    on_start=lambda *_: None,
                    on_registering=lambda _: None,
                    on_progress=lambda _: None,
                    on_standing=lambda *_: None,
                )
            return verify_plan(
                found.plan,
                self.workspace,
                self.ledger,
                ACTOR,
                request,
                run_id=run_id,
                now=now,
                stop=process.stop,
                watch=VerifyWatch(*[lambda *_: None] * 4),
            )

        process = self.scheduler.start("run" if is_run else "verify", job)
        self.jobs.append(process)
        self.job_plans[process] = found
        figures["jobs"] += 1
        return process

    def _record(self, verb: str, digest: str | None) -> int:
        return self.ledger.start_run(
            verb=verb,
            operator="op",
            host="host",
            country="IE",
            tool_version="0",
            arguments={},
            plan=digest,
            now=now(),
        )

    @rule(turns=TURNS)
    @precondition(lambda self: bool(self.scheduler.processes))
    def go_on(self, turns: tuple[int, int, int]) -> None:
        """Requests of all processes, in an order that a seed decides; some of them fail, stall, or are answered to nobody."""
        seed, steps, faults_percent = turns
        random = Random(seed)
        for _ in range(steps):
            ready = self.scheduler.ready()
            if not ready:
                self.scheduler.now += 1.0
                continue
            fiber, fate = random.choice(ready), Fate.ANSWERED
            if isinstance(fiber.at, Request) and random.randrange(100) < faults_percent:
                # a write that stalls is what may land later
                fate = random.choice([*FAULTS, *[Fate.STALLED] * 3] if fiber.at.operation in WRITES else FAULTS)
                figures[f"requests {fate}"] += 1
            self.scheduler.step(fiber, fate)
        self._bury()

    @rule(choice=CHOICE)
    @precondition(lambda self: bool(self.jobs))
    def go_on_to_the_end(self, choice: int) -> None:
        self._finish(self.jobs[choice % len(self.jobs)])

    def _finish(self, job: Process) -> None:
        for _ in range(STEPS_MAX):
            if job.is_dead:
                break
            family = (job, *job.children)
            ready = [fiber for fiber in self.scheduler.ready() if fiber.process in family]
            if not ready:
                self.scheduler.now += 1.0
            for fiber in ready:
                if not fiber.has_ended and not fiber.process.is_dead:
                    self.scheduler.step(fiber)
        assert job.is_dead, f"{job.what} does not end"
        self._bury()

    @rule(choice=CHOICE, patiently=st.booleans())
    @precondition(lambda self: self.has_deltas and len(self.built) < DELTAS_MAX)
    def plan_a_delta(self, choice: int, patiently: bool) -> None:
        """Of what changed at the sources since; who does not wait until the plan is copied and verified may be refused."""
        cohort = choice % len(self.cohorts)
        if patiently:
            for job in [*self.jobs]:
                self._finish(job)
            self._see_who_began()
            self._finish(self._start(self.cohorts[cohort], RunRequest(waves="all")))
            self._finish(self._start(self.cohorts[cohort], VerifyRequest(waves="all", level=None)))
        self._plan_delta(self.cohorts[cohort])

    def _plan_delta(self, found: CohortPlan) -> CohortPlan | None:
        """None where it is refused, since a batch was begun and is not done."""
        try:
            delta = delta_of(found, self.workspace, self.ledger, self.oracle)
        except LaterError:
            figures["deltas refused"] += 1
            return None
        self.deltas[found.cohort] = delta
        self.built.append(delta)
        figures["deltas built"] += 1
        figures["copies of deltas"] += len(delta.copies)
        return delta

    def _a_minute_goes_by(self, plan: Plan, *_: object, **__: object) -> None:
        """What a delta waits for before it begins (invariant 2): who was killed a minute ago has no worker left, and what was on
        its way has landed, or never will."""
        if plan.document["parent"] is None:
            return
        figures["minutes waited"] += 1
        children = {child for process in self.scheduler.alive() for child in process.children}
        for process in self.scheduler.alive():
            if process.what == "worker" and process not in children:
                self.woken_ended += process in self.woken
                self.scheduler.kill(process, in_flight=True)
        while self.scheduler.late:
            self._land(0)

    def _see_who_began(self) -> None:
        """A delta that the ledger has registered takes its parent's place."""
        for delta in self.built:
            is_known = delta.plan.digest in [found.plan.digest for found in self.lines[delta.cohort]]
            if not is_known and self.ledger.plan_id(delta.plan.digest) is not None:
                self.deltas.pop(delta.cohort, None)  # another one of the same parent comes too late
                self.cohorts[delta.cohort] = delta
                self.lines[delta.cohort].append(delta)
                self.oracle.begin(delta)
                figures["deltas begun"] += 1

    @rule(choice=CHOICE)
    @precondition(
        lambda self: (
            self.has_deltas
            and not self.oracle.forgotten
            and self.oracle.moment > FORGET_FROM
            and bool(self._registered())
        )
    )
    def forget_a_user(self, choice: int) -> None:
        """Whatever is under way: nothing of theirs is begun any more. What was made is erased once all is at rest."""
        rows = self._rows(schema.users)
        user: str = rows[choice % len(rows)].user_id
        assert self.ledger.forgotten(user, self._any_run(), now())
        self.oracle.forgotten.add(user)
        figures["users forgotten"] += 1

    # what goes wrong

    @rule(choice=CHOICE, how=st.sampled_from(["now", "in flight", "at a point", "asked to"]), points=st.integers(0, 12))
    @precondition(lambda self: bool(self.scheduler.processes))
    def end_a_process(self, choice: int, how: str, points: int) -> None:
        """By kill -9, at once or at a pause point that is to come, with what it sent on the way or not; or by SIGINT."""
        alive = self.scheduler.alive()
        process = alive[choice % len(alive)]
        self.woken_ended += process in self.woken
        if how == "asked to":
            process.stop.set()
        elif how == "at a point":
            process.points_left = points
        else:
            self.scheduler.kill(process, in_flight=how == "in flight")
            self._bury()
        figures[f"ended {how}"] += 1

    @rule(seconds=st.sampled_from([1.5, 6.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.scheduler.now += seconds

    @rule(choice=CHOICE)
    @precondition(lambda self: bool(self.jobs))
    def another_takes_over(self, choice: int) -> None:
        """All stand still for the lease time, as somebody elsewhere sees, who does their work; then they wake (invariant 5)."""
        watch = LeaseWatch(ProcessIdentity("elsewhere", "", 1, 1), LEASE_SECONDS, clock=lambda: self.scheduler.now)
        self.ledger.reclaim(watch)
        self.scheduler.now += LEASE_SECONDS
        figures["leases expired"] += self.ledger.reclaim(watch)
        self.woken |= set(self.scheduler.alive())
        found = self.cohorts[choice % len(self.cohorts)]
        self._finish(self._start(found, RunRequest(waves="all", share=True)))

    @rule(choice=CHOICE)
    @precondition(lambda self: bool(self.scheduler.late))
    def a_late_request_lands(self, choice: int) -> None:
        self._land(choice)

    def _land(self, choice: int) -> None:
        late = self.scheduler.late.pop(choice % len(self.scheduler.late))
        try:
            late.effect()
        except MigrateError:
            return  # refused by what the store holds by now
        self.landed_uploads += late.request.operation == "create_upload"
        figures["late requests landed"] += 1

    @rule(store=st.sampled_from([*TARGETS, "us-0"]))
    def a_store_goes_down_or_up(self, store: str) -> None:
        self.scheduler.down ^= {store}

    @rule(choice=CHOICE, how=st.sampled_from(["write", "delete", "touch", "add"]))
    def change_a_source(self, choice: int, how: str) -> None:
        wanted = self.oracle.copies[choice % len(self.oracle.copies)]
        origin, source = wanted.origin, place(wanted.source)
        held = source.find(wanted.key)
        if how == "add":
            origin, held = (wanted.source, f"users/{wanted.user}/new-{self.oracle.moment}"), None
        elif held is None and how != "write":  # only who writes brings back what was deleted
            return
        figures["sources changed"] += 1
        old = Attributes(content_type="image/png"), {"kind": "new"}
        attributes, tags = old if held is None else (held.info.attributes, held.tags)
        if how == "delete":
            source.remove(wanted.key)
        elif how == "touch":  # the bytes and so the ETag stay
            assert held is not None
            attributes = Attributes(content_type="image/png", cache_control=f"max-age={self.oracle.moment}")
            source.seed(wanted.key, held.body, attributes=attributes, tags={"kind": f"touched {self.oracle.moment}"})
        else:
            size = len(held.body) if held is not None else (6, 45)[choice % 2]
            source.seed(origin[1], body_of(f"written at {self.oracle.moment}", size), attributes=attributes, tags=tags)
        if how in ("write", "delete"):
            self.oracle.writings[origin] += 1
        self.oracle.lay(origin)

    @rule(choice=CHOICE, how=st.sampled_from(["delete", "write", "rot", "strip"]))
    def harm_a_copy(self, choice: int, how: str) -> None:
        """One that the newest plan has made: what a delta keeps is looked at by nobody again."""
        there = [
            wanted
            for wanted in self.oracle.copies
            if wanted.body is not None and self.oracle.is_newest(wanted) and self.oracle.is_there(wanted)
        ]
        if not there:
            return
        wanted = there[choice % len(there)]
        target, held = place(wanted.store), place(wanted.store).find(wanted.key)
        assert held is not None
        self.oracle.written.add(wanted.at)
        self.oracle.harmed.setdefault(wanted.at, self.oracle.moment)
        figures["copies harmed"] += 1
        if how == "delete":
            target.remove(wanted.key)
        elif how == "strip":
            target.seed(wanted.key, held.body, etag=held.info.etag)
            self.oracle.foreign[wanted.at] = held.body
        else:  # rotten bytes have the length and the ETag of the good ones
            body = bytes(255 - byte for byte in held.body) if how == "rot" else b"harmed at %d" % self.oracle.moment
            etag = held.info.etag if how == "rot" else None
            target.seed(wanted.key, body, etag=etag, attributes=held.info.attributes, tags=held.tags)
            self.oracle.foreign[wanted.at] = body

    @rule(choice=CHOICE)
    def write_beside_the_copies(self, choice: int) -> None:
        """Somebody writes where the tool has not written yet, or an object of a user that no plan knows of."""
        wanted = self.oracle.copies[choice % len(self.oracle.copies)]
        at, body = wanted.at, b"somebody else's at %d" % self.oracle.moment
        # a store that cannot be asked to create only cannot be kept from overwriting what comes between look and write
        if self.conditional and at not in self.oracle.written and place(wanted.store).find(wanted.key) is None:
            self.oracle.occupants.add(at)
        else:
            at = (wanted.store, f"{wanted.key}.extra")
            self.oracle.extra_since.setdefault(at, self.oracle.moment)
        place(at[0]).seed(at[1], body)
        self.oracle.foreign[at] = body
        figures["foreign objects"] += 1

    @rule(choice=CHOICE)
    @precondition(lambda self: bool(self._registered()))
    def register_users_of_another_plan(self, choice: int) -> None:
        """A plan of the same users is refused, and nothing of it stays (design, section 5)."""
        registered = self._registered()
        found = registered[choice % len(registered)]
        other = plan_entry(found.plan)._replace(digest="f" * 64)
        before = self._rows(schema.users)
        with pytest.raises(RefusedError):
            self.ledger.register(other, found.plan.batches(), users_with_a_row(found.plan), self._any_run(), now())
        assert self._rows(schema.users) == before
        assert self.ledger.plan_id("f" * 64) is None

    def _any_run(self) -> int:
        return int(self._rows(schema.runs)[0].id)

    # what must hold

    @invariant()
    def everything_holds(self) -> None:
        if not hasattr(self, "patch"):
            return
        self.oracle.moment += 1
        self._see_who_began()
        self.oracle.look()
        self._check_ledger()

    def _rows(self, table: Table) -> list[Any]:
        with self.ledger._read() as connection:
            return list(connection.execute(select(table).order_by(*table.primary_key.columns)).all())

    def _registered(self) -> list[CohortPlan]:
        return [found for found in self.cohorts if self.ledger.plan_id(found.plan.digest) is not None]

    def _ids(self) -> dict[int, CohortPlan]:
        """All plans that the ledger has, by their ids there."""
        found = [(self.ledger.plan_id(each.plan.digest), each) for line in self.lines for each in line]
        return {plan_id: each for plan_id, each in found if plan_id is not None}

    def _bury(self) -> None:
        """See how jobs ended."""
        for job in [job for job in self.jobs if job.is_dead]:
            self.jobs.remove(job)
            # whose plan a delta has taken over meanwhile, or is another one's sister, is told so, and nobody else is refused
            plan = self.job_plans.pop(job).plan
            parent = plan.document["parent"]
            sister = None if parent is None else self.ledger.child_of(parent)
            is_over = self.ledger.child_of(plan.digest) is not None or sister not in (None, plan.digest)
            calm = (*CALM, RefusedError) if is_over else CALM
            for process in (job, *job.children):
                main = process.main
                if main.error is not None and not isinstance(main.error, calm):
                    raise main.error
                if isinstance(main.result, WorkerReport) and not isinstance(main.result.error, (*calm, type(None))):
                    raise main.result.error
                if isinstance(main.result, RunEnd | VerifyEnd):
                    assert main.result.exit_code is not ExitCode.INTEGRITY, main.result
                    assert main.result.exit_code is not ExitCode.REFUSED or is_over, main.result

    def _check_ledger(self) -> None:
        for found in self._registered():
            plan_id = self.ledger.plan_id(found.plan.digest)
            assert plan_id is not None
            check_sums(self.ledger.progress(plan_id), found.plan.document["totals"])
        ids = self._ids()
        for row in self._rows(schema.passes):
            self.pass_seen.setdefault(row.id, self.oracle.moment)
        outcomes = self._outcomes(ids)
        for wanted, outcome in outcomes.items():
            if outcome is not None and outcome.has_receipt:
                assert self.oracle.is_right(wanted) or wanted.at in self.oracle.harmed, (
                    f"{wanted.at} has a receipt, and is not at the target"
                )
        for user in self._rows(schema.users):
            if user.state == UserState.VERIFIED:
                self._check_verified(user, ids[user.plan_id].plan.digest, outcomes)

    def _check_verified(self, user: Any, digest: str, outcomes: dict[Wanted, Outcome | None]) -> None:
        """Whoever is verified has all of their copies, as the pass saw them that last proved each, and nothing beside
        (invariant 9). For whom a delta has nothing, no pass of it has counted any."""
        if user.matched_pass is not None:
            self.proved[digest, user.user_id] = self.pass_seen[user.matched_pass]
        for wanted in self.oracle.copies:
            if wanted.user == user.user_id:
                outcome = outcomes.get(wanted)
                assert outcome is not None, f"{user.user_id} is verified, and {wanted.at} is not copied"
                assert outcome.has_receipt, f"{user.user_id} is verified, and {wanted.at} is {outcome}"
                seen = self.proved.get((wanted.plan, user.user_id), 0)
                assert self.oracle.harmed.get(wanted.at, seen) >= seen, f"{user.user_id} is verified with {wanted.at}"
        seen = max(
            (when for (_, verified), when in self.proved.items() if verified == user.user_id),
            default=0,
        )
        for at in self.oracle.extras(user.user_id):
            assert self.oracle.extra_since[at] >= seen, f"{user.user_id} is verified beside {at}"

    def _outcomes(self, plan_ids: dict[int, CohortPlan]) -> dict[Wanted, Outcome | None]:
        """What the ledger's rows say of each copy; None where it has none yet. The counters must say the same (invariant 3)."""
        rows: dict[tuple[int, int], dict[int, Outcome]] = {}
        for row in self._rows(schema.copies):
            rows.setdefault((row.plan_id, row.number), {})[row.ordinal] = OUTCOMES[row.outcome]
        sealed: Counter[tuple[int, int]] = Counter()
        for row in self._rows(schema.seals):
            if row.kind == SealKind.RECEIPTS:
                sealed[row.plan_id, row.number] += row.rows
        found: dict[Wanted, Outcome | None] = {}
        for batch in self._rows(schema.batches):
            at = (batch.plan_id, batch.number)
            copies = [wanted for wanted in plan_ids[batch.plan_id].copies if wanted.number == batch.number]
            of_batch = {
                wanted: rows.get(at, {}).get(wanted.ordinal, Outcome.COPIED if sealed[at] else None)
                for wanted in copies
            }
            counts = Counter(outcome for outcome in of_batch.values() if outcome is not Outcome.PENDING)
            good = counts[Outcome.COPIED] + counts[Outcome.PRESENT]
            assert (good, counts[Outcome.DRIFTED], counts[Outcome.QUARANTINED]) == (
                batch.copied + batch.present,
                batch.drifted,
                batch.quarantined,
            ), f"batch {at}: {counts}"
            open_good = sum(outcome.has_receipt for outcome in rows.get(at, {}).values())
            assert sealed[at] - batch.voided + open_good == good, f"batch {at}: seals and rows are not its receipts"
            if batch.state == BatchState.DONE:
                assert all(outcome not in (None, Outcome.PENDING) for outcome in of_batch.values()), f"batch {at}"
            found |= of_batch
        return found

    # the end

    def settle(self) -> None:
        """Peace: all ends that is under way, all that is late lands, and after a few rounds nothing is left to do. What changed
        at the sources is the business of a last delta, after which they and the targets are the same."""
        self.scheduler.down.clear()
        for process in self.scheduler.alive():
            process.points_left = None
        self._start(self.cohorts[0], RunRequest(waves="all", limits=Limits(workers=2), share=True))
        self.go_on((self.oracle.moment, 30, 0))
        self.another_takes_over(0)
        self.everything_holds()
        for job in [*self.jobs]:
            self._finish(job)
        for process in self.scheduler.alive():  # workers whose parent has died
            self._finish(process)
        while self.scheduler.late:
            self.a_late_request_lands(0)
            self.everything_holds()
        # first with what others wrote still in place, and by a look that moves nobody on
        for found in [*self.cohorts]:
            self._finish(self._start(found, RunRequest(waves="all")))
        self.everything_holds()
        self.harm_a_copy(self.oracle.moment, "rot")
        self.write_beside_the_copies(self.oracle.moment)
        for found in self.cohorts:
            self._run_and_verify(found, Level.LISTING)
        self._go_round()
        self._check_end()
        changed = [found for found in self.cohorts if self.built and self.oracle.has_changed(found.cohort)]
        for found in changed:
            delta = self._plan_delta(found)
            assert delta is not None, "everything is at rest"
            self._finish(self._start(delta, RunRequest(waves="all")))
            self.everything_holds()
            assert self.oracle.current[found.cohort] == delta.plan.digest, "the delta has not begun"
        if changed:
            self._go_round()
            self._check_end()
        for found in self.cohorts:
            if not self.oracle.has_changed(found.cohort):
                self.oracle.check_mirror(found.cohort)
        if self.has_deltas:
            self._cut_over(self.cohorts[self.oracle.moment % len(self.cohorts)])
            self._erase()

    def _cut_over(self, found: CohortPlan) -> None:
        """Sources change once more, and who is verified moves: what changed came along.

        Of the others those alone may move of whom nothing is quarantined: all that is open of them has drifted, and came along.
        """
        plan, oracle = found.plan, self.oracle
        for how in ("write", "delete", "touch", "add"):
            self.change_a_source(oracle.moment, how)
            oracle.moment += 1
        users = {user.user_id: user for user in self._rows(schema.users) if user.user_id in COHORTS[found.cohort]}
        verified = {name for name, user in users.items() if user.state == UserState.VERIFIED}
        drifted = {name for name, user in users.items() if user.state in HELD_UP and not user.quarantined}
        with open_router(plan.spec, self.ledger, {}, self.root) as router:
            run_id = self._record("cutover", plan.digest)
            setting = Setting(plan, self.workspace, self.ledger, router, ACTOR, run_id, None, now, Stop())
            end = cut_over(setting, CutoverRequest("all"), on_progress=lambda _: None)
            moved = {name for name, user in users.items() if router.read(name).home == user.home}
        assert (end.failed, end.open, end.left) == (0, 0, 0), end
        assert verified <= moved <= verified | drifted, end
        oracle.check_mirror(found.cohort, moved)
        figures["users moved"] += len(moved)
        figures["late objects"] += end.late

    def _erase(self) -> None:
        if not self.oracle.forgotten:
            return
        end = forget(
            sorted(self.oracle.forgotten),
            self.workspace,
            self.ledger,
            actor_of=lambda _: ACTOR,
            open_router=lambda spec: open_router(spec, self.ledger, {}, self.root),
            run_id=self._record("forget", None),
            reason=None,
            dry_run=False,
            now=now,
            stop=Stop(),
            on_progress=lambda _: None,
        )
        occupied = {
            wanted.at for wanted, outcome in self._outcomes(self._ids()).items() if outcome is Outcome.QUARANTINED
        }
        for user in end.users:
            assert user.result in (Result.ERASED, Result.LEFT), user
            self.oracle.check_gone(user.user_id, occupied)

    def _go_round(self) -> None:
        for _ in range(ROUNDS_MAX):
            are_over = [self._run_and_verify(found, None) for found in self.cohorts]
            cleared = self._clear_foreign() + self._clear_occupied()
            if cleared == 0 and all(are_over) and not self._open_copies():
                break

    def _run_and_verify(self, found: CohortPlan, level: Level | None) -> bool:
        """Whether a pass of this round has seen everything, and nothing to repair: one that was left says what it saw then."""
        self._finish(self._start(found, RunRequest(waves="all", retry_quarantined=True)))
        self.everything_holds()
        checking = self._start(found, VerifyRequest(waves="all", repair=True, level=level))
        self._finish(checking)
        self.everything_holds()
        end = checking.main.result
        assert isinstance(end, VerifyEnd), checking.main.error
        return end.verification.run_id == self._rows(schema.runs)[-1].id and end.repaired == 0

    def _clear(self, at: tuple[str, str]) -> None:
        place(at[0]).remove(at[1])
        self.oracle.foreign.pop(at, None)
        self.oracle.occupants.discard(at)
        self.oracle.extra_since.pop(at, None)

    def _clear_foreign(self) -> int:
        """An operator finds out who wrote what is no copy, and has it removed; how many."""
        gone = [at for at in self.oracle.foreign if at in self.oracle.occupants or at not in self.oracle.versions]
        for at in gone:
            self._clear(at)
        return len(gone)

    def _final_outcomes(self) -> dict[Wanted, Outcome | None]:
        """Of the newest plans' copies: what is left of the others is in these."""
        outcomes = self._outcomes(self._ids())
        return {wanted: outcome for wanted, outcome in outcomes.items() if self.oracle.is_newest(wanted)}

    def _clear_occupied(self) -> int:
        """An operator removes what keeps quarantined copies from their place; how many."""
        wrong = [
            wanted.at
            for wanted, outcome in self._final_outcomes().items()
            if outcome is Outcome.QUARANTINED
            and wanted.user not in self.oracle.forgotten
            and place(wanted.store).find(wanted.key) is not None
        ]
        for at in wrong:
            self._clear(at)
        return len(wrong)

    def _open_copies(self) -> bool:
        unsettled = (None, Outcome.PENDING, Outcome.QUARANTINED)
        return any(
            outcome in unsettled
            for wanted, outcome in self._final_outcomes().items()
            if wanted.user not in self.oracle.forgotten
        )

    def _unverified(self) -> list[str]:
        """The users whose copies are all good, and who are not verified."""
        outcomes = self._final_outcomes()
        bad = {wanted.user for wanted, outcome in outcomes.items() if outcome is None or not outcome.has_receipt}
        bad |= self.oracle.forgotten
        return [
            user.user_id
            for user in self._rows(schema.users)
            if user.user_id not in bad and user.state != UserState.VERIFIED
        ]

    def _check_end(self) -> None:
        outcomes = self._final_outcomes()
        assert set(outcomes) == {wanted for found in self.cohorts for wanted in found.copies}
        for wanted, outcome in outcomes.items():
            if wanted.user in self.oracle.forgotten:
                assert outcome not in (None, Outcome.PENDING), f"{wanted.at} is not withdrawn"
                continue
            if not self.oracle.is_lost(wanted):
                assert outcome is not None, f"{wanted.at} was forgotten"
                assert outcome.has_receipt, f"{wanted.at} is {outcome}, and its source is there"
            if outcome is not None and outcome.has_receipt:
                assert self.oracle.is_there(wanted), f"{wanted.at} is not as its source"
        for wanted in self.oracle.copies:  # and what a delta keeps
            is_followed = wanted.user not in self.oracle.forgotten and wanted.at not in self.oracle.harmed
            if is_followed and not self.oracle.is_newest(wanted):
                assert self.oracle.is_there(wanted), f"{wanted.at} is not kept"
        assert not self._unverified()
        for plan_id in self._ids():
            self.ledger.check_chain(plan_id)
            assert self.ledger.leases(plan_id).total() == 0
        left = [upload for name in TARGETS for upload in place(name).uploads.values()]
        # begun by a request that was late, or by one who had lost the lease and died before it could be taken away
        assert len(left) <= self.landed_uploads + self.woken_ended, "parts were left behind"
