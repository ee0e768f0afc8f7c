"""Runs, plans and users in the ledger; what reading shows; how it is opened."""

from __future__ import annotations

import stat
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ledgers import NOW, PLAN, World, batch_infos, plan_entry, quarantined, receipt, start_run, user_info, user_infos
from pg import PostgresServer

from migrate.errors import IntegrityError, LedgerError, RefusedError, UnreachableError, UsageError
from migrate.ledger import Ledger
from migrate.ledger.engine import Database, network_file_system, safe_journal_mode, wal_is_safe
from migrate.model import BatchInfo, Outcome, UserInfo
from migrate.states import BatchState, UserState

OTHER = "cd" * 32


def test_a_run_is_written_down_from_start_to_end(ledger: Ledger) -> None:
    """Who, where, when, with what, and how it ended; the newest first; it ends once."""
    first, second = start_run(ledger), start_run(ledger)
    ledger.end_run(first, exit_code=75, now=NOW)
    newest, oldest = ledger.runs(10)
    assert (newest.id, oldest.id) == (second, first)
    assert (oldest.exit_code, oldest.ended_at, oldest.started_at) == (75, NOW, NOW)
    assert (oldest.operator, oldest.country, oldest.arguments, oldest.plan) == ("op", "IE", {"wave": 1}, PLAN)
    assert (newest.exit_code, newest.ended_at) == (None, None)
    assert [run.id for run in ledger.runs(1)] == [second]
    with pytest.raises(LedgerError, match="ended before"):
        ledger.end_run(first, exit_code=0, now=NOW)


def test_registering_twice_is_registering_once(world: World) -> None:
    """The same id, and nothing that has happened since is lost."""
    world.copy_batch()
    again = world.ledger.register(plan_entry(), batch_infos(), user_infos(), start_run(world.ledger), NOW)
    assert again == world.plan_id == world.ledger.plan_id(PLAN)
    assert world.ledger.batch(world.plan_id, 0).state == BatchState.DONE
    (plan,) = world.ledger.plans()
    assert (plan.entry, plan.registered_at, plan.run_id) == (plan_entry(), NOW, world.run_id)


def test_a_plan_is_registered_once_by_many(ledger_url: str) -> None:
    """Processes that start together agree on one id."""
    ledgers = [Ledger.open(ledger_url) for _ in range(4)]
    gate = threading.Barrier(4)

    def register(ledger: Ledger) -> int:
        run_id = start_run(ledger)
        gate.wait(timeout=60)
        return ledger.register(plan_entry(), batch_infos(), user_infos(), run_id, NOW)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(register, ledgers))) == 1
    for ledger in ledgers:
        ledger.close()


def test_a_ledger_is_made_once_by_many(ledger_url: str) -> None:
    """Workers on an empty database: one makes the tables, the others find them."""
    gate = threading.Barrier(4)

    def open_it(_: int) -> str | None:
        gate.wait(timeout=60)
        ledger = Ledger.open(ledger_url)
        mode = ledger.journal_mode()
        ledger.close()
        return mode

    with ThreadPoolExecutor(4) as pool:
        expected = safe_journal_mode() if ledger_url.startswith("sqlite") else None
        assert set(pool.map(open_it, range(4))) == {expected}


def test_of_two_deltas_of_one_plan_at_once_one_is_registered(ledger_url: str) -> None:
    """Neither has users, so that nothing but the line itself refuses the other; it is told which one counts, and is not there."""
    ledgers = [Ledger.open(ledger_url) for _ in range(2)]
    world = World.make(ledgers[0])
    mark = world.ledger.mark_of([world.plan_id])
    gate = threading.Barrier(2)

    def register(ledger: Ledger, digest: str) -> RefusedError | None:
        entry = plan_entry(digest, [], 0)._replace(parent=PLAN)
        gate.wait(timeout=60)
        try:
            ledger.register(entry, [], [], world.run_id, NOW, mark=mark)
        except RefusedError as refused:
            return refused
        return None

    with ThreadPoolExecutor(2) as pool:
        refused = [error for error in pool.map(register, ledgers, (OTHER, "ef" * 32)) if error is not None]
    (child,) = [plan.entry.digest for plan in world.ledger.plans() if plan.entry.parent is not None]
    assert child == world.ledger.child_of(PLAN)
    assert [error.what for error in refused] == [f"plan {PLAN[:12]} is continued by another delta, {child[:12]}"]
    again = plan_entry(child, [], 0)._replace(parent=PLAN)
    assert ledgers[1].register(again, [], [], world.run_id, NOW, mark=mark) == world.ledger.plan_id(child)
    for ledger in ledgers:
        ledger.close()


def test_a_user_in_another_plan_is_refused_and_nothing_is_kept(world: World) -> None:
    """A user has one row and one plan. All or nothing; the error names nobody."""
    users = [user_info("new", batches=[0], copies=1), user_info("anna")]
    batches = [BatchInfo(0, 0, 1, 1, 1, 10, bytes(32))]
    with pytest.raises(RefusedError, match="another plan") as refused:
        world.ledger.register(plan_entry(OTHER, batches, 2), batches, users, world.run_id, NOW)
    assert "anna" not in str(refused.value)
    assert f"run {OTHER[:12]}" in refused.value.remedy
    assert world.ledger.plan_id(OTHER) is None
    assert world.ledger.user("new") is None
    assert world.ledger.register(plan_entry(OTHER, batches, 1), batches, users[:1], world.run_id, NOW) != world.plan_id


def test_it_can_be_foreseen_that_a_user_is_in_another_plan(world: World) -> None:
    """Before a plan is registered: the plan that has one of its users, or none; its own users are no matter."""
    strangers = [f"stranger-{number}" for number in range(12_000)]
    assert world.ledger.plan_that_has([*strangers, "anna"], besides=[OTHER]) == PLAN
    assert world.ledger.plan_that_has(strangers, besides=[OTHER]) is None
    assert world.ledger.plan_that_has(["anna"], besides=[PLAN]) is None


def _one_more_user() -> Sequence[UserInfo]:
    return [*user_infos(), user_info("late", batches=[0], copies=1)]


@pytest.mark.parametrize(
    ("batches", "users"),
    [(batch_infos()[:-1], user_infos()[:3]), (batch_infos(), user_infos()[:-1]), (batch_infos(), _one_more_user())],
)
def test_totals_that_are_not_the_sums_are_refused(
    ledger: Ledger, batches: Sequence[BatchInfo], users: Sequence[UserInfo]
) -> None:
    """Invariant 3 begins with the plan."""
    with pytest.raises(IntegrityError, match="totals"):
        ledger.register(plan_entry(), batches, users, start_run(ledger), NOW)
    assert ledger.plans() == []


def test_what_an_operator_accepts_is_kept_by_kind(world: World) -> None:
    """Count and digest; the last word counts."""
    world.ledger.accept(world.plan_id, "review", 3, "aa", world.run_id, NOW)
    world.ledger.accept(world.plan_id, "unclassified", 1, "bb", world.run_id, NOW)
    world.ledger.accept(world.plan_id, "review", 4, "cc", world.run_id, NOW)
    assert world.ledger.acceptances([PLAN, OTHER]) == {("review", 4, "cc"), ("unclassified", 1, "bb")}


def test_progress_adds_up_by_wave(world: World) -> None:
    """Invariant 3, for every wave, from the counters of its batches; users without a wave come last."""
    world.copy_batch(3)
    lease = world.lease()
    world.record(lease, [receipt(0), quarantined(1)])
    waves = world.ledger.progress(world.plan_id)
    assert [wave.wave for wave in waves] == [0, 1, 2, None]
    assert [wave.copies for wave in waves] == [4, 5, 1, 0]
    assert waves[0].outcomes[Outcome.COPIED] == 3
    assert waves[0].users == {UserState.COPIED: 1, UserState.QUARANTINED: 1}
    assert waves[1].batches == {BatchState.LEASED: 1, BatchState.PENDING: 1}
    assert (waves[1].outcomes[Outcome.PENDING], waves[1].done_bytes) == (3, 10)
    assert waves[3].users == {UserState.HELD: 1}
    world.demand_sums()


def test_failures_come_in_order_and_within_the_limit(world: World) -> None:
    """Of batches that are done and of those under way."""
    world.copy_batch(1, 3)
    world.record(world.lease(), [quarantined(2)])
    found = world.ledger.failures(world.plan_id, 10)
    assert [(failure.number, failure.ordinal) for failure in found] == [(0, 1), (0, 3), (1, 2)]
    assert world.ledger.failures(world.plan_id, 2) == found[:2]
    assert world.ledger.run_failures(world.run_id) == 3


def test_a_ledger_file_is_private(tmp_path: Path) -> None:
    """Invariant 10: it holds user ids. So is the lock file beside it."""
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger.open(f"sqlite:///{path}")
    with ledger.hold_plan(PLAN, share=False):
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    ledger.close()
    assert set(modes.values()) == {0o600}
    assert f"ledger.sqlite.{PLAN[:16]}.lock" in modes


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    """Invariant 10: not in what is displayed, not in an error, however the connection fails."""
    url = f"postgresql://me:s3cret@/nothing?host={tmp_path}"
    assert "s3cret" not in Database(url).display_url
    with pytest.raises(UnreachableError) as failed:
        Ledger.open(url)
    assert "s3cret" not in str(failed.value) + repr(failed.value.__cause__)
    with pytest.raises(UsageError) as failed_too:
        Ledger.open("mysql://me:s3cret@host/x")
    assert "s3cret" not in str(failed_too.value)


@pytest.mark.parametrize("url", ["", "sqlite://", "sqlite:///:memory:", "no url", "duckdb:///x"])
def test_what_is_no_ledger_url_is_refused(url: str) -> None:
    """With a hint at what one looks like."""
    with pytest.raises(UsageError) as refused:
        Ledger.open(url)
    assert "sqlite:///PATH" in refused.value.remedy


def test_a_constraint_error_shows_no_value(world: World) -> None:
    """Invariant 10: PostgreSQL puts the row's values in its text and in the chain of causes; ours has neither."""
    with pytest.raises(LedgerError) as failed:
        world.execute("INSERT INTO users SELECT * FROM users WHERE user_id = 'anna'")
    assert "anna" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


def test_a_server_that_went_away_is_unreachable_and_may_come_back(postgres_server: PostgresServer) -> None:
    """A broken connection is one error, not the end of the process: the next one is new."""
    with postgres_server.database() as url:
        world = World.make(Ledger.open(url))
        with pytest.raises(UnreachableError):
            world.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert world.ledger.plan_id(PLAN) == world.plan_id
        world.ledger.close()


def test_a_path_that_cannot_be_is_unreachable(tmp_path: Path) -> None:
    """No folder, no ledger, and no traceback of the driver."""
    with pytest.raises(UnreachableError):
        Ledger.open(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.sqlite'}")


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_only_where_it_cannot_corrupt(version: tuple[int, int, int], safe: bool) -> None:
    """By the versions that sqlite.org names as fixed."""
    assert wal_is_safe(version) is safe


MOUNTS = """\
/dev/vda / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/vdb /home/local ext4 rw 0 0
//box/share /mnt/my\\040share cifs rw 0 0
me@host:/ /mnt/ssh fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/data", None),
        ("/home", "nfs4"),
        ("/home/me/.migrate", "nfs4"),
        ("/home/local/me", None),
        ("/homes/me", None),
        ("/mnt/my share/x", "cifs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(path: str, kind: str | None) -> None:
    """The longest mount point that holds the path decides."""
    assert network_file_system(Path(path), MOUNTS) == kind


def test_a_ledger_on_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's locks are not to be relied on there."""
    monkeypatch.setattr("migrate.ledger.engine.network_file_system", lambda _path, _mounts: "nfs4")
    with pytest.raises(UsageError, match="nfs4") as refused:
        Ledger.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    assert "PostgreSQL" in refused.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_stays_locked_names_who_may_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the busy timeout: unreachable, with a way to find the holder."""
    monkeypatch.setattr("migrate.ledger.patience.BUSY_TIMEOUT_SECONDS", 0)
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    ledger, other = Ledger.open(url), Ledger.open(url)
    with ledger._database.write(), pytest.raises(UnreachableError, match="locked") as locked:
        start_run(other)
    assert "fuser" in locked.value.remedy
    ledger.close()
    other.close()
