"""A user's later life in the ledger: each step from its own state alone, one winner, and nothing uncounted."""

from __future__ import annotations

import hashlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
import test_ledger_behind
from ledgers import NOW, PLAN, SIZE, World, batch_infos, plan_entry, user_info
from sqlalchemy import text

from migrate.errors import ExitCode, LedgerError, MoveRefusedError, OnHoldError
from migrate.ledger import EXTRA, EventKind, FrozenTimes, Ledger, Move, NewFinding
from migrate.ledger.moving import freeze_token
from migrate.model import DELETED, BatchInfo, Category, PlannedCopy, PlannedObject, TargetRole, Verdict
from migrate.states import USER_MOVES, UserState

LATER = NOW + timedelta(hours=1)
OTHER = "cd" * 32
U = UserState


@pytest.fixture
def verified(world: World) -> World:
    """Everybody who moves is verified."""
    world.verify_all()
    return world


def moved(world: World, user_id: str) -> list[tuple[UserState | None, UserState | None]]:
    return [(event.from_state, event.to_state) for event in world.ledger.history(user_id)]


def test_a_user_goes_all_the_way_and_each_step_is_told(verified: World) -> None:
    """Frozen, flipped, observed, purged: one row of the move, one line of history each, and counters that follow."""
    ledger, run_id = verified.ledger, verified.run_id
    token = verified.freeze("anna")
    begun = Move(
        "anna",
        U.FROZEN,
        verified.plan_id,
        run_id,
        "us",
        "hamar",
        token,
        1,
        NOW,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    )
    assert ledger.move_of("anna") == begun
    verified.demand_sums()
    ledger.flipped("anna", token, run_id, at=LATER, frozen_ms=1234)
    flipped = begun._replace(state=U.CUT_OVER, flipped_at=LATER, frozen_ms=1234)
    assert ledger.move_of("anna") == flipped
    ledger.observe("anna", run_id, until=LATER, now=NOW)
    assert ledger.move_of("anna") == flipped._replace(state=U.OBSERVING, observe_until=LATER)
    ledger.begin_purge("anna", run_id, LATER)
    ledger.purged("anna", run_id, LATER)
    assert ledger.move_of("anna") == flipped._replace(state=U.PURGED, observe_until=LATER, purged_at=LATER)
    told = ledger.history("anna")
    assert {(event.kind, event.run_id, event.plan_id) for event in told} == {(EventKind.MOVE, run_id, verified.plan_id)}
    assert [event.at for event in told] == [NOW, LATER, NOW, LATER, LATER]
    way = [U.VERIFIED, U.FROZEN, U.CUT_OVER, U.OBSERVING, U.PURGING, U.PURGED]
    assert moved(verified, "anna") == list(pairwise(way))
    verified.demand_sums()


def test_each_attempt_has_its_token_and_the_history_keeps_them_apart(verified: World) -> None:
    """Thawed, tried again, flipped and rolled back: the row is the last attempt's, and the token was never used before."""
    ledger, run_id = verified.ledger, verified.run_id
    first = verified.freeze("anna")
    assert ledger.thaw("anna", first, run_id, LATER, note="no room") is U.VERIFIED
    thawed = ledger.move_of("anna")
    assert thawed is not None
    assert (thawed.state, thawed.attempt, thawed.unfrozen_at) == (U.VERIFIED, 1, LATER)
    verified.cut_over("anna")
    second = ledger.move_of("anna")
    assert second is not None
    assert (second.attempt, second.unfrozen_at) == (2, None)
    assert second.token != first
    ledger.observe("anna", run_id, until=LATER, now=NOW)
    third = ledger.begin_return("anna", run_id, NOW)
    ledger.stayed("anna", third, run_id, NOW, note="busy")
    fourth = ledger.begin_return("anna", run_id, NOW)
    assert len({first, second.token, third, fourth}) == 4
    with pytest.raises(MoveRefusedError, match="another attempt"):
        ledger.rolled_back("anna", third, run_id, LATER)
    ledger.rolled_back("anna", fourth, run_id, LATER, note="slow")
    back = ledger.move_of("anna")
    assert back == second._replace(
        state=U.ROLLED_BACK, observe_until=LATER, attempt=4, back_token=fourth, rolled_back_at=LATER
    )
    assert [event.note for event in ledger.history("anna")] == [
        *(None, "no room", None, None, None),
        *(None, "busy", None, "slow"),
    ]
    verified.demand_sums()


def test_who_is_forgotten_on_the_way_back_and_stays_is_written_down(verified: World) -> None:
    """The platform has answered, so nobody is to be asked again; they stay forgotten, and nothing says that they went back."""
    ledger, run_id = verified.ledger, verified.run_id
    verified.cut_over("anna")
    ledger.observe("anna", run_id, until=LATER, now=NOW)
    back = ledger.begin_return("anna", run_id, NOW)
    ledger.forgotten("anna", run_id, NOW)
    ledger.stayed("anna", back, run_id, LATER)
    move = ledger.move_of("anna")
    assert move is not None
    assert (move.state, move.rolled_back_at) == (U.FORGOTTEN, None)
    assert ledger.history("anna")[-1].note == "had not been flipped back"
    with pytest.raises(MoveRefusedError, match="another attempt"):
        ledger.stayed("anna", "another", run_id, LATER)


def test_late_copies_are_written_under_the_token_of_the_way_that_is_under_way(verified: World) -> None:
    """That of the freeze on the way there, that of the return on the way back, and none before, between or after."""
    ledger, run_id, plan_id = verified.ledger, verified.run_id, verified.plan_id
    copy = PlannedCopy(0, TargetRole.HOME, "hamar")
    late = PlannedObject(
        "anna", "us", "k", None, "e", 1, NOW, Category.RESTRICTED, "photos", "k", DELETED, (copy,)
    )  # fmt: skip

    def refused(token: str) -> None:
        with pytest.raises(MoveRefusedError):
            ledger.plan_late("anna", token, plan_id, run_id, [late], {})

    verified.cut_over("anna")
    move = ledger.move_of("anna")
    assert move is not None
    refused(move.token)
    ledger.observe("anna", run_id, until=LATER, now=NOW)
    back = ledger.begin_return("anna", run_id, NOW, note="approved")
    refused(move.token)
    ledger.plan_late("anna", back, plan_id, run_id, [late], {}, {("us", "k", TargetRole.HOME): "older"})
    ledger.stayed("anna", back, run_id, NOW)
    refused(back)
    [copied] = ledger.late_of(["anna"])["anna"]
    assert (copied.flag, copied.receipt, copied.seen) == (DELETED, None, "older")
    assert list(ledger.users_back([plan_id])) == []
    ledger.rolled_back("anna", ledger.begin_return("anna", run_id, NOW), run_id, NOW)
    assert list(ledger.users_back([plan_id])) == ["anna"]
    assert ledger.away_among(["anna", "bjorn"]) == {"anna"}
    assert "anna" in set(ledger.unproven_users([plan_id]))
    found = ledger.candidate(plan_id, "anna")
    assert found is not None
    assert (found.state, found.is_proven, ledger.candidate(plan_id, "nobody")) == (U.ROLLED_BACK, False, None)


def test_of_one_object_the_newest_late_copy_alone_is_known(verified: World) -> None:
    """Read from the backup by one attempt and from the source by the next: what the first one has written down gives way, and
    what another source has under the same key does not."""
    ledger, run_id, plan_id = verified.ledger, verified.run_id, verified.plan_id
    copies = (PlannedCopy(0, TargetRole.HOME, "hamar"), PlannedCopy(1, TargetRole.BACKUP, "dublin"))
    beside = {"us": ["singapore"], "singapore": ["us"], "archive": []}
    stores = ("singapore", "archive", "us")
    for etag, store in enumerate(stores):
        late = PlannedObject(
            "anna", store, "k", None, str(etag), 1, NOW, Category.RESTRICTED, "photos", store, None, copies
        )  # fmt: skip
        token = verified.freeze("anna")
        ledger.plan_late("anna", token, plan_id, run_id, [late], beside)
        assert ledger.thaw("anna", token, run_id, NOW) is U.VERIFIED
    found = [(copy.store, copy.role, copy.etag, copy.run_id) for copy in ledger.late_of(["anna"])["anna"]]
    roles = (TargetRole.BACKUP, TargetRole.HOME)
    assert found == [
        *(("archive", role, "1", run_id) for role in roles),
        *(("us", role, "2", run_id) for role in roles),
    ]


def test_a_token_is_the_digest_of_plan_user_and_attempt(verified: World) -> None:
    """In canonical form, so that no two of them are written alike; of the digest, which is no other plan's in any ledger."""
    expected = hashlib.sha256(f"64:{PLAN}4:anna1:1".encode()).hexdigest()
    assert verified.freeze("anna") == expected == freeze_token(PLAN, "anna", 1)
    assert freeze_token(PLAN, "anna1", 1) != freeze_token(PLAN, "anna", 11)


STEPS: dict[str, tuple[UserState, Callable[[World, str, str], object]]] = {
    "freeze": (U.FROZEN, lambda world, user, _: world.freeze(user)),
    "flip": (
        U.CUT_OVER,
        lambda world, user, token: world.ledger.flipped(user, token, world.run_id, at=NOW, frozen_ms=1),
    ),
    "observe": (U.OBSERVING, lambda world, user, _: world.ledger.observe(user, world.run_id, until=LATER, now=NOW)),
    "begin the way back": (U.RETURNING, lambda world, user, _: world.ledger.begin_return(user, world.run_id, NOW)),
    "stay": (U.OBSERVING, lambda world, user, token: world.ledger.stayed(user, token, world.run_id, NOW)),
    "roll back": (U.ROLLED_BACK, lambda world, user, token: world.ledger.rolled_back(user, token, world.run_id, NOW)),
    "begin a purge": (U.PURGING, lambda world, user, _: world.ledger.begin_purge(user, world.run_id, NOW)),
    "purge": (U.PURGED, lambda world, user, _: world.ledger.purged(user, world.run_id, NOW)),
    "forget": (U.FORGOTTEN, lambda world, user, _: world.ledger.forgotten(user, world.run_id, NOW)),
    "thaw": (U.VERIFIED, lambda world, user, token: world.ledger.thaw(user, token, world.run_id, NOW)),
}


# What a step leaves in the move of who was forgotten on the way.
OF_FORGOTTEN: dict[str, dict[str, Any]] = {
    "flip": {"flipped_at": NOW, "frozen_ms": 1},
    "thaw": {"unfrozen_at": NOW},
    "roll back": {"rolled_back_at": NOW},
    "stay": {},
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_made_from_its_own_states_alone(verified: World, step: str) -> None:
    """Design, section 5: from any other state it is refused with 75, and state, move and history stay as they were."""
    goal, make = STEPS[step]
    only = {"thaw": {U.FROZEN}, "observe": {U.CUT_OVER}, "stay": {U.RETURNING}}
    only["freeze"] = {U.VERIFIED, U.READY}  # who is not verified needs more: test_ledger_behind
    allowed = only.get(step) or {old for old in U if goal in USER_MOVES[old]}
    flipped = "UPDATE moves SET flipped_at = 1, frozen_ms = 1, observe_until = 1, attempt = 1 WHERE user_id = 'anna'"
    started = (
        "UPDATE moves SET flipped_at = NULL, frozen_ms = NULL, observe_until = NULL, back_token = NULL"
        " WHERE user_id = 'anna'"
    )
    token = verified.freeze("anna")
    for state in U:
        if state is U.QUARANTINED:  # a constraint allows it with quarantined copies alone
            continue
        verified.execute(
            "UPDATE moves SET unfrozen_at = NULL, rolled_back_at = NULL, purged_at = NULL, token = :t", t=token
        )
        verified.execute(started if step in ("flip", "thaw") else flipped)
        if step in ("stay", "roll back"):
            verified.execute("UPDATE moves SET back_token = :t", t=token)
        verified.execute("UPDATE users SET state = :state WHERE user_id = 'anna'", state=state.value)
        before = verified.ledger.move_of("anna"), moved(verified, "anna")
        if state in allowed:
            make(verified, "anna", token)
            assert verified.state("anna") == goal
            assert moved(verified, "anna") == [*before[1], (state, goal)]
        elif step == "forget" and state is U.FORGOTTEN:
            assert make(verified, "anna", token) is False
        elif (
            step in OF_FORGOTTEN and state is U.FORGOTTEN
        ):  # the platform has made it: the move has it, the state stays
            make(verified, "anna", token)
            assert verified.state("anna") == U.FORGOTTEN
            assert moved(verified, "anna") == [*before[1], (U.FORGOTTEN, U.FORGOTTEN)]
            assert before[0] is not None
            known = before[0]._replace(**OF_FORGOTTEN[step])
            assert verified.ledger.move_of("anna") == known
            for again in {"flip", "thaw", step} - {"stay"}:  # once, whoever comes with the same token
                with pytest.raises(MoveRefusedError):
                    STEPS[again][1](verified, "anna", token)
            assert verified.ledger.move_of("anna") == known
        else:
            with pytest.raises(MoveRefusedError) as refused:
                make(verified, "anna", token)
            assert refused.value.exit_code == ExitCode.LATER
            assert (verified.ledger.move_of("anna"), moved(verified, "anna")) == before
        verified.demand_sums()


@pytest.mark.parametrize("step", STEPS)
def test_nobody_is_moved_whom_the_ledger_does_not_have(verified: World, step: str) -> None:
    """Nor is the user named (invariant 10)."""
    with pytest.raises(LedgerError) as refused:
        STEPS[step][1](verified, "stranger", "0" * 64)
    assert refused.value.exit_code == ExitCode.INTEGRITY
    assert "stranger" not in str(refused.value)
    assert verified.ledger.history("stranger") == []


def test_no_purge_begins_before_the_windows_end(verified: World) -> None:
    """Nor is it told: until then the way back is open."""
    verified.cut_over("anna")
    verified.ledger.observe("anna", verified.run_id, until=LATER, now=NOW)
    with pytest.raises(MoveRefusedError, match="window"):
        verified.ledger.begin_purge("anna", verified.run_id, LATER - timedelta(microseconds=1))
    assert verified.state("anna") == U.OBSERVING
    verified.ledger.begin_purge("anna", verified.run_id, LATER)
    assert verified.state("anna") == U.PURGING


def test_the_sources_of_who_was_forgotten_are_purged_and_the_state_stays(verified: World) -> None:
    """Only of who was flipped and not taken back, and not on hold; whoever is not forgotten goes the whole way."""
    ledger, run_id = verified.ledger, verified.run_id
    verified.cut_over("anna")
    verified.cut_over("dag")
    ledger.forgotten("anna", run_id, NOW)
    ledger.forgotten("bjorn", run_id, NOW)
    for user in ("bjorn", "dag"):  # never moved; not forgotten
        with pytest.raises(MoveRefusedError):
            ledger.purged_of_forgotten(user, run_id, LATER)
    verified.hold("anna")
    with pytest.raises(OnHoldError):
        ledger.purged_of_forgotten("anna", run_id, LATER)
    before = moved(verified, "anna")
    ledger.release("anna", "settled", run_id=run_id, now=NOW)
    verified.execute("UPDATE moves SET back_token = :t, rolled_back_at = 1 WHERE user_id = 'anna'", t="0" * 64)
    with pytest.raises(MoveRefusedError):
        ledger.purged_of_forgotten("anna", run_id, LATER)
    verified.execute("UPDATE moves SET back_token = NULL, rolled_back_at = NULL WHERE user_id = 'anna'")
    ledger.purged_of_forgotten("anna", run_id, LATER, note="purge plan 7")
    found = ledger.move_of("anna")
    assert found is not None
    assert (found.state, found.purged_at, found.observe_until) == (U.FORGOTTEN, LATER, found.flipped_at)
    assert moved(verified, "anna") == [*before, (None, None), (U.FORGOTTEN, U.FORGOTTEN)]
    assert ledger.history("anna")[-1].note == "purge plan 7"
    verified.demand_sums()


def test_who_was_forgotten_on_the_way_back_is_not_purged_at_the_old_home(verified: World) -> None:
    """Once, under the way's own token, and never of who was not on a way back."""
    ledger, run_id = verified.ledger, verified.run_id
    for user in ("anna", "dag"):
        verified.cut_over(user)
        ledger.observe(user, run_id, until=LATER, now=NOW)
    back = ledger.begin_return("anna", run_id, NOW)
    for user in ("anna", "dag"):
        ledger.forgotten(user, run_id, NOW)
    before = moved(verified, "anna"), moved(verified, "dag")
    for user, token in (("anna", "0" * 64), ("dag", back)):
        with pytest.raises(MoveRefusedError):
            ledger.rolled_back(user, token, run_id, NOW)
    assert (moved(verified, "anna"), moved(verified, "dag")) == before
    ledger.rolled_back("anna", back, run_id, LATER)
    for again in (
        lambda: ledger.rolled_back("anna", back, run_id, LATER),
        lambda: ledger.purged_of_forgotten("anna", run_id, LATER),
    ):
        with pytest.raises(MoveRefusedError):
            again()
    found = ledger.move_of("anna")
    assert found is not None
    assert (found.state, found.rolled_back_at, found.purged_at) == (U.FORGOTTEN, LATER, None)
    verified.demand_sums()


def test_a_candidate_is_asked_for_alone_as_among_its_wave(verified: World) -> None:
    """The same row either way; None for another plan's."""
    verified.hold("anna")
    page = {
        each.user_id: each for wave in range(4) for each in verified.ledger.candidates(verified.plan_id, wave, "", 100)
    }
    assert page["anna"].is_on_hold
    for user, candidate in page.items():
        assert verified.ledger.candidate(verified.plan_id, user) == candidate
    assert verified.ledger.candidate(verified.plan_id + 1, "anna") is None
    assert verified.ledger.candidate(verified.plan_id, "stranger") is None


@pytest.mark.parametrize("step", ["flip", "thaw"])
def test_a_token_of_an_earlier_attempt_ends_no_freeze(verified: World, step: str) -> None:
    """Whoever was slow cannot write down what became of somebody else's freeze."""
    old = verified.freeze("anna")
    verified.ledger.thaw("anna", old, verified.run_id, NOW)
    verified.freeze("anna")
    before = verified.ledger.move_of("anna")
    with pytest.raises(MoveRefusedError, match="another attempt"):
        STEPS[step][1](verified, "anna", old)
    assert verified.ledger.move_of("anna") == before


def test_a_user_of_another_plan_is_not_frozen(verified: World) -> None:
    """A plan moves its own users alone."""
    batches = [BatchInfo(0, 0, 1, 1, 1, SIZE, bytes(32))]
    users = [user_info("zoe", batches=[0], copies=1)]
    other = verified.ledger.register(plan_entry(OTHER, batches, 1), batches, users, verified.run_id, NOW)
    with pytest.raises(LedgerError, match="another plan"):
        verified.ledger.begin_freeze("anna", other, verified.run_id, from_site="us", to_site="hamar", now=NOW)
    assert verified.state("anna") == U.VERIFIED
    verified.freeze("anna")


ROUNDS = 10


def begin_again_and_again(url: str, plan_id: int, run_id: int, gate: Any, answers: Any) -> None:
    """In a process of its own: begin the same user's freeze as another one does; who wins thaws the user for the next round."""
    ledger = Ledger.open(url)
    for _ in range(ROUNDS):
        gate.wait(timeout=60)
        try:
            token = ledger.begin_freeze("anna", plan_id, run_id, from_site="us", to_site="hamar", now=NOW)
        except MoveRefusedError:
            token = None
        answers.put(token)
        gate.wait(timeout=60)
        if token is not None:
            ledger.thaw("anna", token, run_id, NOW)
    ledger.close()


def test_of_two_processes_that_begin_a_freeze_one_wins(verified: World, ledger_url: str) -> None:
    """Round by round, both at the same moment: one token, one attempt, one line of history."""
    spawn = multiprocessing.get_context("spawn")
    gate, answers = spawn.Barrier(2), spawn.Queue()
    of_both = (ledger_url, verified.plan_id, verified.run_id, gate, answers)
    processes = [spawn.Process(target=begin_again_and_again, args=of_both) for _ in range(2)]
    for process in processes:
        process.start()
    tokens = [answers.get(timeout=120) for _ in range(2 * ROUNDS)]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert sorted(filter(None, tokens)) == sorted(freeze_token(PLAN, "anna", place + 1) for place in range(ROUNDS))
    assert moved(verified, "anna") == [(U.VERIFIED, U.FROZEN), (U.FROZEN, U.VERIFIED)] * ROUNDS


@pytest.fixture
def behind(world: World) -> Iterator[Callable[..., Future[object]]]:
    """Runs a call that waits at once for a transaction which has changed anna's row, and commits when both are there."""

    def run(call: Callable[[], object], change: str = "state = 'frozen'") -> Future[object]:
        database = world.ledger._database
        with database.write() as connection:
            connection.execute(text(f"UPDATE users SET {change} WHERE user_id = 'anna'"))
            pool = ThreadPoolExecutor(1)
            future = pool.submit(call)
            pool.shutdown(wait=False)
            if not database.is_sqlite:  # which has one writer: the call has read nothing yet
                blocked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                while not future.done():
                    with database.read() as other:
                        if other.execute(text(blocked)).scalar():
                            break
                    threading.Event().wait(0.01)
        return future

    return run


def test_who_comes_second_is_refused_at_the_update_itself(
    verified: World, ledger_url: str, behind: Callable[..., Future[object]]
) -> None:
    """The state that was read is not the state any more: the guarded update finds no row."""
    other = Ledger.open(ledger_url)
    with pytest.raises(MoveRefusedError):
        behind(lambda: verified.freeze("anna", other)).result(timeout=60)
    assert verified.ledger.move_of("anna") is None
    assert moved(verified, "anna") == []
    other.close()


def test_what_is_found_while_a_freeze_of_who_is_only_behind_begins_is_seen(
    world: World, ledger_url: str, behind: Callable[..., Future[object]]
) -> None:
    """Invariant 9: a verification that voids what was matched commits first. The freeze waits for it, and looks after it."""
    test_ledger_behind.whole(world)
    other = Ledger.open(ledger_url)
    with pytest.raises(MoveRefusedError, match="more is open"):
        behind(lambda: world.freeze("anna", other), "matched = 0, matched_pass = NULL").result(timeout=60)
    assert (world.state("anna"), world.ledger.move_of("anna")) == (U.COPYING, None)
    other.close()


def test_forgetting_waits_for_a_move_under_way_and_wins(
    verified: World, ledger_url: str, behind: Callable[..., Future[object]]
) -> None:
    """It is not refused for what somebody else did a moment before."""
    other = Ledger.open(ledger_url)
    assert behind(lambda: other.forgotten("anna", verified.run_id, NOW)).result(timeout=60) is True
    assert moved(verified, "anna") == [(U.FROZEN, U.FORGOTTEN)]
    other.close()


def test_who_is_forgotten_is_not_brought_back(world: World) -> None:
    """Not by copying, a verification, its plan that is registered again, or another plan; and stays in the counts."""
    world.ledger.forgotten("anna", world.run_id, NOW, note="request 7")
    world.copy_all()
    found = world.start_pass()
    lease = world.lease_check(found)
    assert lease is not None
    world.check(lease, {0: Verdict.MISSING})
    world.ledger.end_worker(world.worker_id)
    world.check_all(found)
    assert world.state("anna") == U.FORGOTTEN
    assert world.ledger.register(plan_entry(), batch_infos(), [], world.run_id, NOW) == world.plan_id
    batches = [BatchInfo(0, 0, 1, 1, 1, SIZE, bytes(32))]
    users = [user_info("anna", batches=[0], copies=1)]
    other = world.ledger.register(plan_entry(OTHER, batches, 1), batches, users, world.run_id, NOW)
    assert not any(wave.users for wave in world.ledger.progress(other))
    assert world.state("anna") == U.FORGOTTEN
    assert [event.note for event in world.ledger.history("anna")] == ["request 7"]
    assert sum(wave.users.get(U.FORGOTTEN, 0) for wave in world.ledger.progress(world.plan_id)) == 1
    world.demand_sums()


@pytest.mark.parametrize("state", U)
def test_every_state_is_counted(world: World, state: UserState) -> None:
    """Invariant 3: wherever a user is, the wave counts them, there and nowhere else."""
    world.copy_batch(3)  # bjorn has a quarantined copy
    user = "bjorn" if state is U.QUARANTINED else "empty"
    world.execute("UPDATE users SET state = :state WHERE user_id = :user", state=state.value, user=user)
    by_state = {found: number for wave in world.ledger.progress(world.plan_id) for found, number in wave.users.items()}
    assert by_state[state] >= 1
    counted = [sum(wave.users.values()) for wave in world.ledger.progress(world.plan_id)]
    assert counted == [2, 2, 1, 1]
    world.demand_sums()


def test_a_verification_moves_nobody_whose_cutover_began(verified: World) -> None:
    """A new pass that matches all again leaves the frozen frozen, and who was cut over there; half of it takes nothing away."""
    verified.freeze("anna")
    token = verified.freeze("carla")  # split over two batches
    verified.cut_over("dag")
    found = verified.start_pass()
    for _ in range(2):
        lease = verified.lease_check(found)
        assert lease is not None
        verified.check(lease)
    carla = verified.ledger.user("carla")
    assert carla is not None
    assert carla.matched == carla.copies
    verified.check_all(found)
    states = [verified.state(user) for user in ("anna", "bjorn", "carla", "dag")]
    assert states == [U.FROZEN, U.VERIFIED, U.FROZEN, U.CUT_OVER]
    assert verified.ledger.thaw("carla", token, verified.run_id, NOW) is U.VERIFIED


@pytest.mark.parametrize("state", [U.VERIFIED, U.READY])
def test_a_difference_takes_the_freeze_away_from_who_is_not_frozen_yet(verified: World, state: UserState) -> None:
    """Invariant 9: who is verified, or ready on the strength of it, goes back to copied, and is not frozen."""
    verified.execute("UPDATE users SET state = :state WHERE user_id = 'anna'", state=state.value)
    lease = verified.lease_check(verified.start_pass())
    assert lease is not None
    verified.check(lease, {0: Verdict.MISMATCH})
    assert verified.state("anna") == U.COPIED
    with pytest.raises(MoveRefusedError):
        verified.freeze("anna")


def test_a_thaw_goes_back_as_far_as_what_was_found_meanwhile(verified: World) -> None:
    """Invariant 9: of who is frozen a difference is known, or a copy is put back. None of them is verified afterwards."""
    tokens = {user: verified.freeze(user) for user in ("anna", "bjorn", "dag", "empty")}
    found = verified.start_pass()
    lease = verified.lease_check(found)
    assert lease is not None
    verified.check(lease, {0: Verdict.MISMATCH, 3: Verdict.MISSING})
    assert verified.state("anna") == U.FROZEN
    extra = NewFinding(EXTRA, "hamar", "key", "empty", SIZE)
    verified.ledger.add_findings(found, [extra], run_id=verified.run_id, now=NOW)
    verified.execute("UPDATE users SET good = 3, matched = 0 WHERE user_id = 'bjorn' AND copies = 4")
    verified.execute("UPDATE users SET good = 0, matched = 0 WHERE user_id = 'bjorn'")  # as a repair does
    verified.execute("UPDATE users SET good = 0, matched = 0, quarantined = 1 WHERE user_id = 'dag'")
    thawed = {user: verified.ledger.thaw(user, token, verified.run_id, NOW) for user, token in tokens.items()}
    assert thawed == {"anna": U.COPIED, "bjorn": U.COPYING, "dag": U.QUARANTINED, "empty": U.COPIED}
    assert {user: verified.state(user) for user in tokens} == {user: state.value for user, state in thawed.items()}
    assert moved(verified, "dag")[-1] == (U.FROZEN, U.QUARANTINED)
    verified.demand_sums()


def _many(world: World, number: int) -> list[str]:
    """A plan of so many users without copies, all with a move that was flipped; their ids, in the order of the database."""
    users = [user_info(f"m{place:05}", state="planned") for place in range(number)]
    plan_id = world.ledger.register(plan_entry(OTHER, [], number), [], users, world.run_id, NOW)
    world.execute("UPDATE users SET state = 'observing' WHERE plan_id = :plan", plan=plan_id)
    world.execute(
        "INSERT INTO moves (user_id, plan_id, run_id, from_site, to_site, token, attempt, frozen_at, flipped_at, frozen_ms)"
        " SELECT user_id, plan_id, 1, 'us', 'hamar', :token, 1, 1, 2, CAST(substr(user_id, 2) AS INTEGER) + 1"
        " FROM users WHERE plan_id = :plan",
        token="0" * 64,
        plan=plan_id,
    )
    world.plan_id = plan_id
    return [user.user_id for user in users]


def test_moves_are_read_page_by_page_while_users_are_moved_on(world: World) -> None:
    """By user id, each once, also where whoever reads moves them; a page at a time; of other plans and states nobody."""
    names = _many(world, 2_345)
    world.execute(
        "UPDATE users SET state = 'cut_over' WHERE user_id < 'm00100' AND plan_id = :plan", plan=world.plan_id
    )
    assert [move.user_id for move in world.ledger.moving(world.plan_id, [U.OBSERVING])] == names[100:]
    seen = []
    for move in world.ledger.moving(world.plan_id, [U.OBSERVING, U.CUT_OVER]):
        seen.append((move.user_id, move.state))
        if move.state is U.CUT_OVER:
            world.ledger.observe(move.user_id, world.run_id, until=LATER, now=NOW)
    assert seen == [(name, U.CUT_OVER if place < 100 else U.OBSERVING) for place, name in enumerate(names)]
    assert next(world.ledger.moving(world.plan_id, [U.CUT_OVER]), None) is None
    assert next(world.ledger.moving(world.plan_id + 1, list(U)), None) is None
    world.execute("UPDATE users SET state = 'verified' WHERE user_id = 'm00007'")  # of whom no index of moves knows
    assert [move.user_id for move in world.ledger.moving(world.plan_id, [U.VERIFIED])] == ["m00007"]


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, FrozenTimes(1, 1, 1, 1)),
        (2, FrozenTimes(2, 1, 2, 2)),
        (100, FrozenTimes(100, 50, 99, 100)),
        (101, FrozenTimes(101, 51, 100, 101)),
    ],
)
def test_frozen_times_are_by_nearest_rank(world: World, number: int, expected: FrozenTimes) -> None:
    """Of times 1, 2, … n ms; the same on both databases."""
    _many(world, number)
    assert world.ledger.frozen_times(world.plan_id) == expected


def test_frozen_times_are_those_of_who_was_flipped(verified: World) -> None:
    """By wave, or of the whole plan; whoever was thawed or is still frozen has none."""
    assert verified.ledger.frozen_times(verified.plan_id) is None
    verified.freeze("bjorn")
    assert verified.ledger.frozen_times(verified.plan_id, 0) is None
    for user, frozen_ms in (("anna", 5), ("carla", 30), ("dag", 700)):
        verified.cut_over(user, frozen_ms)
    assert verified.ledger.frozen_times(verified.plan_id) == FrozenTimes(3, 30, 700, 700)
    assert verified.ledger.frozen_times(verified.plan_id, 1) == FrozenTimes(1, 30, 30, 30)
    assert verified.ledger.frozen_times(verified.plan_id + 1) is None
