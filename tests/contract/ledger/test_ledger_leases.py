"""Who holds a batch or a plan: contention, the dead, and the lock that dies with its holder (invariant 5)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from ledgers import NOW, PLAN, SIZE, World, plan_entry, receipt, start_run, user_info

from migrate.errors import LaterError, StaleLeaseError
from migrate.ledger import Lease, LeaseWatch, Ledger, ProcessIdentity
from migrate.ledger.processes import process_started
from migrate.model import BatchInfo, Purpose

HERE = ProcessIdentity("host-1", "boot-1", 100, 5000)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def watch(clock: Clock, alive: Callable[[int], int | None] = lambda _pid: 5000) -> LeaseWatch:
    return LeaseWatch(HERE, 180, clock=clock, started=alive)


def lease_as(world: World, identity: ProcessIdentity) -> Lease:
    return world.lease(world.ledger.start_worker(world.run_id, identity, NOW))


def test_workers_of_many_connections_get_every_batch_once(ledger_url: str) -> None:
    """Eight workers with a ledger each ask until there is nothing left."""
    batches = [BatchInfo(n, 0, 1, 1, 1, SIZE, bytes(32)) for n in range(60)]
    main = Ledger.open(ledger_url)
    run_id = start_run(main)
    users = [user_info(f"user-{n}", batches=[n], copies=1) for n in range(60)]
    plan_id = main.register(plan_entry(batches=batches, users=60), batches, users, run_id, NOW)

    def work(_: int) -> list[int]:
        ledger = Ledger.open(ledger_url)
        worker_id = ledger.start_worker(run_id, ProcessIdentity.current(), NOW)
        found = []
        while (lease := ledger.lease(plan_id, worker_id, Purpose.COPY)) is not None:
            ledger.record(lease, [receipt(0)], sizes={0: SIZE}, run_id=run_id, now=NOW)
            found.append(lease.number)
        ledger.close()
        return found

    with ThreadPoolExecutor(8) as pool:
        numbers = [number for found in pool.map(work, range(8)) for number in found]
    assert sorted(numbers) == list(range(60))
    assert main.leases(plan_id).total() == 60
    main.close()


def test_threads_share_one_ledger(world: World) -> None:
    """The beat and the main loop of a worker write by the same object."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: world.ledger.beat(world.worker_id), range(40)))
    clock = Clock()
    world.lease()
    assert world.ledger.reclaim(watch(clock)) == 0


def test_a_dead_process_of_this_host_loses_its_leases_at_once(world: World) -> None:
    """By pid and start time: the batch goes back to pending, and its receipts stay (invariant 1)."""
    lease = lease_as(world, HERE)
    world.record(lease, [receipt(0)])
    assert world.ledger.reclaim(watch(Clock(), alive=lambda _pid: 5000)) == 0
    assert world.ledger.reclaim(watch(Clock(), alive=lambda _pid: None)) == 1
    with pytest.raises(StaleLeaseError):
        world.record(lease, [receipt(1)])
    again = world.lease()
    assert again.number == lease.number
    assert [row.ordinal for row in world.ledger.copy_rows(again)] == [0]


@pytest.mark.parametrize(
    ("identity", "alive", "freed"),
    [
        (ProcessIdentity("host-1", "boot-1", 100, 4999), 5000, 1),  # the pid is used again
        (ProcessIdentity("host-1", "boot-0", 100, 5000), 5000, 1),  # the host was started again
        (ProcessIdentity("host-1", "", 100, 5000), None, 0),  # a system that does not tell
        (ProcessIdentity("host-2", "boot-1", 100, 5000), None, 0),  # pids of another host say nothing
        (ProcessIdentity("host-2", "boot-2", 100, 5000), None, 0),
    ],
)
def test_what_is_known_of_a_process_decides(
    world: World, identity: ProcessIdentity, alive: int | None, freed: int
) -> None:
    """At once only where it is certain."""
    lease_as(world, identity)
    assert world.ledger.reclaim(watch(Clock(), alive=lambda _pid: alive)) == freed


def test_a_worker_elsewhere_loses_its_leases_when_its_beat_stands_still(world: World) -> None:
    """By the observer's own clock, from when it first saw that beat."""
    lease = lease_as(world, ProcessIdentity("host-2", "boot-2", 7, 7))
    clock = Clock()
    observer = watch(clock)
    assert world.ledger.reclaim(observer) == 0
    clock.seconds += 179
    assert world.ledger.reclaim(observer) == 0
    world.ledger.beat(lease.worker_id)
    clock.seconds += 1
    assert world.ledger.reclaim(observer) == 0, "it moved in time"
    clock.seconds += 179
    assert world.ledger.reclaim(observer) == 0
    clock.seconds += 1
    assert world.ledger.reclaim(observer) == 1
    assert world.ledger.reclaim(observer) == 0
    with pytest.raises(StaleLeaseError):
        world.record(lease, [receipt(0)])
    other = world.ledger.lease(world.plan_id, lease.worker_id, Purpose.COPY)
    assert other is not None, "the worker may come back and lease again"


def test_a_new_observer_starts_its_own_count(world: World) -> None:
    """A beat that one observer has watched for long is new to the next."""
    lease_as(world, ProcessIdentity("host-2", "boot-2", 7, 7))
    clock = Clock()
    assert world.ledger.reclaim(watch(clock)) == 0
    clock.seconds += 1000
    assert world.ledger.reclaim(watch(clock)) == 0


def test_a_dead_verifier_gives_its_check_back(world: World) -> None:
    """The batch stays done, the check is pending again."""
    world.copy_all()
    found = world.start_pass()
    dead = world.ledger.start_worker(world.run_id, HERE, NOW)
    lease = world.ledger.lease(world.plan_id, dead, Purpose.VERIFY, pass_id=found.id)
    assert lease is not None
    assert world.ledger.reclaim(watch(Clock(), alive=lambda _pid: None)) == 1
    again = world.lease_check(found)
    assert again is not None
    assert (again.number, again.fence) == (lease.number, lease.fence + 1)


def test_this_process_is_alive_by_its_own_account() -> None:
    """And a child that was killed is not, also before its parent has waited for it."""
    me = ProcessIdentity.current()
    assert me.pid == os.getpid()
    assert me.boot_id
    assert process_started(me.pid) == me.started
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process_started(child.pid) is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_started(child.pid) is None
    finally:
        child.kill()
        child.communicate()


def test_one_run_a_plan(ledger_url: str, world: World) -> None:
    """A second one is sent away at once; another plan, or after the end, is no matter."""
    other = Ledger.open(ledger_url)
    with world.ledger.hold_plan(PLAN, share=False):
        with pytest.raises(LaterError), other.hold_plan(PLAN, share=False):
            pass
        with other.hold_plan("cd" * 32, share=False):
            pass
    with other.hold_plan(PLAN, share=False):
        pass
    other.close()


def test_runs_that_share_hold_a_plan_together(ledger_url: str, world: World) -> None:
    """Beside the first run and beside each other; while any is there, nobody gets it alone."""
    other, third = Ledger.open(ledger_url), Ledger.open(ledger_url)
    with (
        world.ledger.hold_plan(PLAN, share=False),
        other.hold_plan(PLAN, share=True),
        third.hold_plan(PLAN, share=True),
    ):
        pass
    with other.hold_plan(PLAN, share=True), pytest.raises(LaterError), third.hold_plan(PLAN, share=False):
        pass
    with world.ledger.hold_plan(PLAN, share=False):
        pass
    other.close()
    third.close()


def test_only_one_of_many_gets_the_plan(ledger_url: str, world: World) -> None:
    """However close together they come: the lock has no moment in which two can enter."""
    ledgers = [Ledger.open(ledger_url) for _ in range(6)]
    gate, done = threading.Barrier(6), threading.Event()

    def enter(ledger: Ledger) -> bool:
        gate.wait(timeout=60)
        try:
            with ledger.hold_plan(PLAN, share=False):
                assert done.wait(timeout=60)
                return True
        except LaterError:
            return False

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(enter, ledger) for ledger in ledgers]
        try:
            _soon(lambda: sum(future.done() for future in futures) >= 5)
        finally:
            done.set()
        assert sum(future.result(timeout=60) for future in futures) == 1
    for ledger in ledgers:
        ledger.close()


HOLDER = """
import sys
from migrate.ledger import Ledger
with Ledger.open(sys.argv[1]).hold_plan(sys.argv[2], share=False):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_dies_with_a_killed_holder(ledger_url: str, world: World) -> None:
    """kill -9 leaves nothing to clean up: the next run starts."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, ledger_url, PLAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LaterError), world.ledger.hold_plan(PLAN, share=False):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=60)
        # a server notices a broken connection a moment later
        _soon(lambda: _can_hold(world.ledger))
    finally:
        holder.kill()
        holder.communicate()


def _can_hold(ledger: Ledger) -> bool:
    try:
        with ledger.hold_plan(PLAN, share=False):
            return True
    except LaterError:
        return False


def _soon(true: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(600):
        if true():
            return
        pause.wait(0.05)
    raise AssertionError("not within 30 s")


def test_ending_a_worker_gives_everything_back(world: World) -> None:
    """Its leases, and nobody else's."""
    other = world.ledger.start_worker(world.run_id, HERE, NOW)
    world.lease()
    world.lease(other)
    world.ledger.end_worker(world.worker_id)
    assert world.ledger.leases(world.plan_id).total() == 1
    assert world.lease().number == 0


@pytest.mark.parametrize("purpose", [Purpose.COPY, Purpose.VERIFY])
def test_a_run_does_not_wait_for_what_its_own_workers_hold(world: World, purpose: Purpose) -> None:
    """What is left tells the batches of one's own run from those of another, by the other's host."""
    ledger = world.ledger
    found = None
    if purpose is Purpose.VERIFY:
        world.copy_all()
        found = world.start_pass().id
    other = start_run(ledger)
    theirs = [ledger.start_worker(other, replace(HERE, host="host-2", pid=pid), NOW) for pid in (7, 8)]
    for worker_id in (world.worker_id, *theirs):
        assert ledger.lease(world.plan_id, worker_id, purpose, pass_id=found) is not None
    left = ledger.left(world.plan_id, purpose, run_id=world.run_id, pass_id=found)
    assert (left.ours, left.held, left.is_pending) == (1, {"host-2": 2}, True)
    last = ledger.lease(world.plan_id, world.worker_id, purpose, pass_id=found)
    assert last is not None
    for worker_id in theirs:
        ledger.end_worker(worker_id)
    for _ in theirs:
        assert ledger.lease(world.plan_id, world.worker_id, purpose, pass_id=found) is not None
    left = ledger.left(world.plan_id, purpose, run_id=world.run_id, pass_id=found)
    assert (left.ours, left.held, left.is_pending, left.is_any) == (4, {}, False, True)
