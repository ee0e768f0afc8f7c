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
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from model import Model, figures
from pg import PostgresServer

from migrate.errors import MigrateError
from migrate.ledger import Ledger

SEED = 1
WORLDS, STEPS = 30, 30
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
    plans_root: Path, open_ledger: OpenLedger, sabotage: Callable[[pytest.MonkeyPatch], None] | None = None
) -> type[Model]:
    values = {
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
        (twins.what_is_not_proved_is_kept, "is verified, and|is not kept|is not as its source|is verified with"),
        (twins.a_delta_waits_for_no_late_request, "came back|has a receipt, and is not at the target"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_model_finds_a_broken_twin(
    plans_root: Path, sqlite: OpenLedger, twin: Callable[[pytest.MonkeyPatch], None], words: str
) -> None:
    """Each twin breaks one invariant, and the search that finds nothing in the product finds it."""
    broken = seed(SEED)(machine(plans_root, sqlite, twin))
    with pytest.raises((AssertionError, MigrateError), match=words):
        run_state_machine_as_test(broken, settings=bounded(TWIN_WORLDS, STEPS))


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
