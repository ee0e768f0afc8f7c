"""Several commands at once: timers that overlap, four workers, one that is frozen past its lease and wakes.

However they meet, no copy is counted twice and no batch is left in nobody's hands (design, invariants 3 and 5).
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from smallworld import SmallWorld, planned
from together import (
    all_at_once,
    assert_all_is_well,
    finish,
    frozen_at,
    is_in_a_transaction,
    ledger_of,
    many_batches,
    many_planned,
    start,
    wake,
)

from migrate.model import Attributes, Outcome
from migrate.pauses import PausePoint

BOTH_LEDGERS = ("sqlite", "postgresql")
NIGHTS = 8
TRIES = 8
LEASE_SECONDS = "migrate.engines.assignment.LEASE_SECONDS"
_P = PausePoint
SOAK = pytest.mark.soak


@pytest.fixture
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    ledger = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return many_planned(tmp_path, ledger)


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process hold a worker for dead that has not beaten for a second."""
    monkeypatch.setattr(LEASE_SECONDS, 1.0)


@pytest.mark.parametrize("world", ["sqlite", pytest.param("postgresql", marks=SOAK)], indirect=True)
def test_timers_that_overlap_do_the_work_once(world: SmallWorld) -> None:
    """Two runs and a verification start together, the first time on no ledger at all: each does its work or ends with 75, and
    says why; a few nights later all is verified."""
    said = ""
    for _ in range(NIGHTS):
        ends = all_at_once(
            world, ("run", "--wave", "all", "--json"), ("run", "--wave", "all", "--json"), ("verify", "--json")
        )
        assert {code for code, _, _ in ends} <= {0, 75}, ends
        said += "".join(err for _, _, err in ends)
        if [code for code, _, _ in ends[:2]].count(0) and ends[2][0] == 0 and is_verified(ends[2][1]):
            break
    assert "another command works on plan" in said
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


def is_verified(out: str) -> bool:
    return all(wave["users"].keys() == {"verified"} for wave in json.loads(out)["standing"])


def test_plannings_that_overlap_build_one_plan(tmp_path: Path) -> None:
    """The second ends with 75 and touches nothing of the first, which goes on to its plan."""
    world = many_batches(tmp_path, large=False)
    spec = str(world.root / "plans" / "small.toml")
    with frozen_at(world, _P.OBJECTS_WRITTEN, "plan", spec) as first:
        second = world.migrate("plan", spec)
        assert second.code == 75
        assert "another planning is under way in this workspace" in second.err
        code, _, err = wake(first)
    assert code == 0, err
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


@pytest.mark.parametrize("world", ["postgresql", pytest.param("sqlite", marks=SOAK)], indirect=True)
def test_a_verification_waits_for_its_turn_while_a_run_stands_still(world: SmallWorld) -> None:
    """A run that hangs holds the plan: run and verify of other timers end with 75 at once, and status answers."""
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all") as run:
        for words in (("run",), ("verify",), ("run", "--retry-quarantined")):
            answer = world.migrate(*words)
            assert answer.code == 75
            assert "another command works on plan" in answer.err
            assert "--share" in answer.err
        assert world.migrate("status").code == 0
        code, _, err = wake(run)
    assert code == 0, err
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


@pytest.mark.parametrize(
    ("world", "runs"),
    [
        ("sqlite", 4),
        ("postgresql", 1),
        pytest.param("sqlite", 1, marks=SOAK),
        pytest.param("postgresql", 4, marks=SOAK),
    ],
    indirect=["world"],
)
def test_four_workers_on_one_ledger_copy_everything_once(world: SmallWorld, runs: int) -> None:
    """Processes of one run, or runs that share: what they say they did adds up to what there is, and each ends with 0."""
    words = ("run", "--wave", "all", "--share", "--json", "--workers", str(4 // runs))
    ends = all_at_once(world, *[words] * runs)
    assert [code for code, _, _ in ends] == [0] * runs, ends
    assert sum(json.loads(out)["done"]["copies"] for _, out, _ in ends) == 2 * len(world.objects)
    checks = all_at_once(world, *[("verify", "--share", "--json", "--workers", str(4 // runs))] * runs)
    assert [code for code, _, _ in checks] == [0] * runs, checks
    assert_all_is_well(world)


def test_verifications_that_share_list_a_store_of_no_prefixes_once(tmp_path: Path) -> None:
    """Where a user's objects are under no prefix of theirs, the stores are listed whole: the second waits for its turn, takes
    what the first has listed, and both end as one alone would. A stray is one finding (Invariant 9)."""
    world = many_batches(tmp_path, large=False)
    spec = world.root / "plans" / "small.toml"
    loose = 'name = "mail"\npattern = "mail/{year}/{user}/{rest}"\ncategory = "restricted"\n[[layout.rules]]\n'
    spec.write_text(spec.read_text().replace('name = "photos"', f'{loose}name = "photos"'))
    planned(world)
    assert world.migrate("run", "--wave", "all").code == 0
    for target in ("dublin-1", "dublin-2", "hamar"):  # wherever the user is: two of them are none of its sites
        world.put(target, "mail/2026/u001/stray", b"who wrote this", Attributes(), {})
    with frozen_at(world, _P.SEGMENT_SEALED, "verify") as first:
        second = start(world, ("verify", "--share"))
        deadline = time.monotonic() + 60
        while not any(name.startswith("verify-") and name.endswith(".lock") for name in open_files(second.pid)):
            assert second.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ends = [wake(first), finish(second)]
    assert [code for code, _, _ in ends] == [3, 3], ends
    extras = world.migrate("status", "--failures", "--json").json["failures"]
    assert {(entry["user"], entry["key"]) for entry in extras} == {("u001", "mail/2026/u001/stray")}
    assert len(extras) == len({entry["store"] for entry in extras})
    assert not list((world.root / ".migrate" / "scratch").glob("verify-*"))
    assert "waiting for another verification" in ends[1][2]


def open_files(pid: int) -> list[str]:
    """The names of the files that a process has open."""
    names = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            names.append(os.path.basename(link.readlink()))
    return names


COPYING = (
    _P.BATCH_LEASED,
    _P.OBJECT_READ,
    _P.OBJECT_WRITTEN,
    _P.GROUP_COMMITTED,
    _P.RECEIPTS_WRITING,
    _P.RECEIPTS_SEALED,
    _P.BATCH_FINISHED,
    _P.UPLOAD_CREATED,
    _P.UPLOAD_RECORDED,
    _P.PART_SENT,
    _P.PARTS_RECORDED,
    _P.PARTS_COMPLETE,
    _P.PARTS_JOINED,
)
CHECKING = (_P.CHECK_LEASED, _P.VERDICTS_SEALED, _P.PASS_ENDING)
OFTEN = {  # the others are left to the soak
    ("sqlite", _P.OBJECT_READ),
    ("sqlite", _P.RECEIPTS_WRITING),
    ("sqlite", _P.PART_SENT),
    ("sqlite", _P.VERDICTS_SEALED),
    ("postgresql", _P.GROUP_COMMITTED),
    ("postgresql", _P.CHECK_LEASED),
}


def on_both(points: Iterable[PausePoint]) -> list[Any]:
    return [
        pytest.param(kind, point, id=f"{kind}-{point}", marks=() if (kind, point) in OFTEN else SOAK)
        for kind in BOTH_LEDGERS
        for point in points
    ]


@contextmanager
def asleep_at(world: SmallWorld, point: PausePoint, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is frozen at the point, and in no transaction. A thread may come there while the main one is in one: then
    it is killed, and comes there again."""
    for _ in range(TRIES):
        with frozen_at(world, point, *words) as sleeper:
            if not is_in_a_transaction(world):
                yield sleeper
                return
    raise AssertionError(f"{words} was in a transaction whenever it came to {point}")


@pytest.mark.parametrize(("world", "point"), on_both(COPYING), indirect=["world"])
@pytest.mark.usefixtures("short_lease")
def test_a_worker_that_slept_past_its_lease_writes_nothing_more(world: SmallWorld, point: PausePoint) -> None:
    """Its batch was taken over and done; it wakes, is fenced off, drops the batch and ends with 0, for nothing is left
    (Invariant 5)."""
    with asleep_at(world, point, "run", "--wave", "all", "--json") as sleeper:
        before = settled(world)
        other = world.migrate("run", "--wave", "all", "--share", "--json")
        assert other.code == 0, other.err
        assert other.json["done"]["copies"] == 2 * len(world.objects) - before
        world.assert_all_there()
        code, _, err = wake(sleeper)
    assert code == 0, err
    assert "Traceback" not in err
    assert world.migrate("verify", "--level", "both-ends").code == 0
    assert_all_is_well(world)


def settled(world: SmallWorld) -> int:
    """How many copies have a receipt."""
    ledger = ledger_of(world)
    try:
        return sum(
            wave.outcomes[Outcome.COPIED] + wave.outcomes[Outcome.PRESENT]
            for plan in ledger.plans()
            for wave in ledger.progress(plan.id)
        )
    finally:
        ledger.close()


@pytest.mark.usefixtures("short_lease")
def test_receipts_that_are_written_count_though_the_batch_is_lost(tmp_path: Path) -> None:
    """A run that slept after a group commit says what it has settled: with the other's, it adds up to what there is."""
    world = many_planned(tmp_path, None)
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all", "--json") as sleeper:
        other = world.migrate("run", "--wave", "all", "--share", "--json")
        code, out, err = wake(sleeper)
    assert (code, other.code) == (0, 0), err
    done = [json.loads(text)["done"]["copies"] for text in (out, other.out)]
    assert min(done) > 0
    assert sum(done) == 2 * len(world.objects)


@pytest.mark.parametrize(("world", "point"), on_both(CHECKING), indirect=["world"])
@pytest.mark.usefixtures("short_lease")
def test_a_check_that_slept_past_its_lease_writes_nothing_more(world: SmallWorld, point: PausePoint) -> None:
    """The same for a verification: its checks are done by another, and it says so when it wakes."""
    assert world.migrate("run", "--wave", "all").code == 0
    with asleep_at(world, point, "verify", "--json") as sleeper:
        other = world.migrate("verify", "--share", "--json")
        assert other.code == 0, other.err
        code, out, err = wake(sleeper)
    assert code == 0, err
    assert json.loads(out)["pass"]["verdicts"]["match"] == 2 * len(world.objects)
    assert_all_is_well(world)


SUPERSEDED = "another verification, begun since, has taken the place of this one"


@pytest.mark.parametrize(
    ("world", "point"),
    [
        ("sqlite", _P.VERDICTS_SEALED),
        pytest.param("postgresql", _P.CHECK_LEASED, marks=SOAK),
        pytest.param("sqlite", _P.CHECK_LEASED, marks=SOAK),
        pytest.param("postgresql", _P.VERDICTS_SEALED, marks=SOAK),
    ],
    indirect=["world"],
)
def test_a_verification_that_another_took_the_place_of_ends_and_says_so(world: SmallWorld, point: PausePoint) -> None:
    """A deeper one beside it does all of its work, at once: the first loses its leases, and ends with 75 and not never."""
    assert world.migrate("run", "--wave", "all").code == 0
    with asleep_at(world, point, "verify") as first:
        deeper = world.migrate("verify", "--share", "--level", "both-ends", "--json")
        assert deeper.code == 0, deeper.err
        assert deeper.json["pass"]["verdicts"]["match"] == 2 * len(world.objects)
        code, _, err = wake(first)
    assert code == 75, err
    assert SUPERSEDED in err
    assert_all_is_well(world)


NO_FENCE = """
import migrate.ledger.copying
migrate.ledger.copying.demand_lease = lambda connection, lease: None
"""


@pytest.mark.usefixtures("short_lease")
def test_a_twin_without_the_fence_is_found(tmp_path: Path) -> None:
    """The corrupted twin: it writes for a batch that another has done, and does not end well."""
    world = many_planned(tmp_path, None)
    with frozen_at(world, _P.RECEIPTS_SEALED, "run", "--wave", "all", program=NO_FENCE) as sleeper:
        assert world.migrate("run", "--wave", "all", "--share").code == 0
        code, _, err = wake(sleeper)
    assert code == 5, err
    assert "cannot be done" in err


IN_A_TRANSACTION = (
    _P.GROUP_COMMITTING,
    pytest.param(_P.BATCH_FINISHING, marks=SOAK),
    pytest.param(_P.PLAN_REGISTERING, marks=SOAK),
)


@pytest.mark.parametrize("point", IN_A_TRANSACTION, ids=str)
def test_a_worker_that_sleeps_in_a_transaction_is_named_as_who_holds_the_ledger(
    point: PausePoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite nobody else can write: they end with 69 and how to find it. Nothing was taken from it, and it goes on."""
    world = many_planned(tmp_path, None)
    monkeypatch.setattr("migrate.ledger.patience.BUSY_TIMEOUT_SECONDS", 1.0)
    with frozen_at(world, point, "run", "--wave", "all") as sleeper:
        other = world.migrate("run", "--wave", "all", "--share")
        assert other.code == 69
        assert "is locked, and stayed so" in other.err
        assert "fuser -v" in other.err
        code, _, err = wake(sleeper)
    assert code == 0, err
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)


def test_a_reader_that_never_ends_costs_a_run_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell with an open transaction on the SQLite file: run and verify end with 69 and name the way to it; once it has gone
    both go on where they were."""
    world = many_planned(tmp_path, None)
    with frozen_at(world, _P.GROUP_COMMITTED, "run", "--wave", "all") as run:
        run.kill()
        run.wait()
    reader = sqlite3.connect(world.root / ".migrate" / "ledger.sqlite", isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT sum(copied) FROM batches").fetchone()
    with monkeypatch.context() as patch:
        patch.setattr("migrate.ledger.patience.BUSY_TIMEOUT_SECONDS", 1.0)
        for words in (("run", "--wave", "all"), ("verify",)):
            answer = world.migrate(*words)
            assert answer.code == 69
            assert "is locked, and stayed so" in answer.err
            assert "fuser -v" in answer.err
    assert world.migrate("status").code == 0
    assert reader.execute("SELECT sum(copied) FROM batches").fetchone() == before
    reader.close()
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    assert_all_is_well(world)
