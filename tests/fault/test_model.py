"""Any order of runs, crashes, changes, deltas, checks and late requests: the invariants hold after each, and all ends well.

`model.py` has the events and what must hold, `modelworld.py` the oracle, `stepped.py` and `fibers.py` how the real jobs are run
request by request, `twins.py` the broken products that must be found. MIGRATE_SOAK_WORLDS bounds the sweeps of `make soak`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import twins
from fibers import Fate, Request
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from model import Model, figures
from pg import PostgresServer

from migrate.errors import MigrateError
from migrate.jobs.checking import VerifyRequest
from migrate.jobs.copying import RunRequest
from migrate.ledger import Ledger

SEED, TWIN_SEED = 2, 1
WORLDS, STEPS = 20, 30
SOAK_WORLDS = int(os.environ.get("MIGRATE_SOAK_WORLDS", "1000"))
SOAK_STEPS = 45
TWIN_WORLDS = 120  # each was found within 30

OpenLedger = Callable[[Path], Ledger]


@pytest.fixture(scope="module")
def plans_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model-plans")


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> OpenLedger:
    """Ledgers that hold nothing, copied from one: to make the tables anew takes longer than a world."""
    empty = tmp_path_factory.mktemp("model-ledger") / "ledger.sqlite"
    Ledger.open(f"sqlite:///{empty}").close()

    def open_ledger(root: Path) -> Ledger:
        path = root / "ledger.sqlite"
        shutil.copy(empty, path)
        return Ledger.open(f"sqlite:///{path}")

    return open_ledger


def machine(
    plans_root: Path,
    open_ledger: OpenLedger,
    sabotage: Callable[[pytest.MonkeyPatch], None] | None = None,
    *,
    has_deltas: bool = True,
) -> type[Model]:
    values = {
        "has_deltas": has_deltas,
        "plans_root": plans_root,
        "open_ledger": staticmethod(open_ledger),
        "sabotage": None if sabotage is None else staticmethod(sabotage),
    }
    return type("SmallWorld", (Model,), values)


def bounded(worlds: int, steps: int) -> settings:
    """Not shrunk: each try of a smaller world costs as much as a world, and the steps that are printed can be replayed.

    The seed is the machine's, so that the same worlds are looked at everywhere.
    """
    return settings(
        max_examples=worlds,
        stateful_step_count=steps,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


def test_the_invariants_hold_in_any_order_of_events(plans_root: Path, sqlite: OpenLedger) -> None:
    """Design, invariants 1, 2, 3, 5, 7, 8 and 9, after every step; and at the end each object is where it belongs, once."""
    figures.clear()
    run_state_machine_as_test(seed(SEED)(machine(plans_root, sqlite)), settings=bounded(WORLDS, STEPS))
    print(dict(figures))
    # what never happened would show nothing
    events = ["requests stalled", "late requests landed", "copies harmed", "sources changed", "leases expired"]
    events += ["deltas begun", "copies of deltas", "deltas refused", "users forgotten", "users moved", "late objects"]
    for event in events:
        assert figures[event], f"no world had {event}"


@pytest.mark.parametrize(
    ("twin", "words"),
    [
        (
            twins.receipts_before_the_bytes,
            "has a receipt, and is not at the target|is pending, and its source is there",
        ),
        (twins.no_fence, "INTEGRITY|two different outcomes|cannot be done|is not leased"),
        (twins.if_none_match_is_ignored, "was overwritten"),
        (twins.drift_is_not_seen, "is not what its source was"),
        (twins.verification_trusts_the_receipt, "is verified with"),
        (twins.extra_objects_are_not_told, "is verified beside"),
        (twins.what_is_there_is_replaced, "was overwritten|is gone"),
        (twins.any_pass_moves_users_on, "is verified with"),
        (twins.repairs_are_not_uncounted, "seals and rows|batch .*Counter|INTEGRITY"),
        (twins.deletions_are_only_written_down, "has a receipt, and is not at the target"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_model_finds_a_broken_twin(
    plans_root: Path, sqlite: OpenLedger, twin: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    """Each twin breaks one invariant, and the search that finds nothing in the product finds it."""
    has_deltas = twin is twins.deletions_are_only_written_down
    broken = seed(TWIN_SEED)(machine(plans_root, sqlite, twin, has_deltas=has_deltas))
    with pytest.raises((AssertionError, MigrateError), match=words):
        run_state_machine_as_test(broken, settings=bounded(TWIN_WORLDS, STEPS))


def test_what_a_delta_has_removed_does_not_come_back(plans_root: Path, sqlite: OpenLedger) -> None:
    """Invariant 2: a PUT of the plan before that stalled has landed, or never will, when its delta begins."""
    _remove_what_is_on_its_way(machine(plans_root, sqlite)())


def test_it_comes_back_where_a_delta_waits_for_no_late_request(plans_root: Path, sqlite: OpenLedger) -> None:
    """The broken twin."""
    with pytest.raises(AssertionError, match="an older plan's copy came back"):
        _remove_what_is_on_its_way(machine(plans_root, sqlite, twins.a_delta_waits_for_no_late_request)())


def _remove_what_is_on_its_way(world: Model) -> None:
    world.begin(conditional=True)
    try:
        (first,) = world.cohorts
        run = world._start(first, RunRequest(waves="all"))
        at = _stall_a_put(world)
        world._finish(run)
        world._finish(world._start(first, VerifyRequest(waves="all")))
        world.everything_holds()
        assert len(world.scheduler.late) == 1
        world.change_a_source([wanted.at for wanted in world.oracle.copies].index(at), "delete")
        delta = world._plan_delta(first)
        assert delta is not None
        assert {wanted.at for wanted in delta.copies} > {at}
        world._finish(world._start(delta, RunRequest(waves="all")))
        world.everything_holds()
        assert world.cohorts == [delta]
        while world.scheduler.late:
            world._land(0)
        world.everything_holds()
    finally:
        world.teardown()


def _stall_a_put(world: Model) -> tuple[str, str]:
    """The first that a run sends: where it is to go."""
    while True:
        for fiber in world.scheduler.ready():
            if isinstance(fiber.at, Request) and fiber.at.operation == "put":
                at = (fiber.at.place, fiber.at.key)
                world.scheduler.step(fiber, Fate.STALLED)
                return at
            world.scheduler.step(fiber)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_invariants_hold_in_many_worlds(plans_root: Path, sqlite: OpenLedger) -> None:
    """The same search, with a fixed seed, longer and in longer worlds."""
    figures.clear()
    found = seed(SEED)(machine(plans_root, sqlite))
    run_state_machine_as_test(found, settings=bounded(SOAK_WORLDS, SOAK_STEPS))
    print(dict(figures))


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_invariants_hold_on_postgresql(plans_root: Path, postgres_server: PostgresServer) -> None:
    """A fifth of the search on the other database."""
    with ExitStack() as databases:

        def open_ledger(_root: Path) -> Ledger:
            databases.close()  # the world before has ended
            return Ledger.open(databases.enter_context(postgres_server.database()))

        found = seed(SEED)(machine(plans_root, open_ledger))
        run_state_machine_as_test(found, settings=bounded(SOAK_WORLDS // 5, SOAK_STEPS))
