"""The sample of keys that proves an inventory, and the threads that inputs are read on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from inventories import Desk, clock, desk, whole_text

from migrate.errors import DeniedError, InputError, InterruptedRun, PermanentStoreError, ThrottledError
from migrate.inventory.aside import ask, side_by_side
from migrate.inventory.files import InventoryFile
from migrate.inventory.sample import check_sample
from migrate.stopping import Stopping, never
from migrate.stores.memory import MemoryPlace, MemoryStore

PLAIN = [f"users/{number:04d}/photo.jpg" for number in range(200)]
ODD = [f"users/{number:04d}/my photo+é.jpg" for number in range(20)]


def world(tmp_path: Path, keys: list[str]) -> tuple[Desk, MemoryPlace, InventoryFile]:
    place = MemoryPlace(now=clock)
    for key in keys:
        place.seed(key, b"x")
    table = desk(tmp_path)
    return table, place, table.take(MemoryStore("us", place))


def test_sample_of_a_fresh_inventory_finds_every_key(tmp_path: Path) -> None:
    """Half of the sample are keys that an encoding would change."""
    table, place, taken = world(tmp_path, PLAIN + ODD)
    report = check_sample(taken, MemoryStore("us", place), count=20, seed="s", scratch=table.scratch)
    assert (report.asked, report.same, report.changed, report.gone) == (20, 20, 0, 0)
    assert (report.odd_asked, report.odd_gone) == (10, 0)


def test_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    """The seed decides the keys; another seed asks for others. Every key is asked for once, with HEAD alone."""
    table, place, taken = world(tmp_path, PLAIN)
    asked: list[list[str]] = []
    for seed in ("a", "a", "b"):
        seen: list[tuple[str, str]] = []
        place.fault = lambda operation, key, seen=seen: seen.append((operation, key))  # type: ignore[misc]
        check_sample(taken, MemoryStore("us", place), count=10, seed=seed, scratch=table.scratch)
        assert {operation for operation, _ in seen} == {"head"}
        asked.append(sorted(key for _, key in seen))
    assert asked[0] == asked[1] != asked[2]
    assert len(set(asked[0])) == 10


def test_a_folders_name_is_no_part_of_a_query(tmp_path: Path) -> None:
    """Braces and quotes in the workspace's path; and a sample of more keys than there are takes all."""
    folder = tmp_path / "{eu} it's"
    folder.mkdir()
    table, place, taken = world(folder, PLAIN)
    for count in (10, 500):
        report = check_sample(taken, MemoryStore("us", place), count=count, seed="s", scratch=table.scratch)
        assert (report.asked, report.same) == (min(count, len(PLAIN)),) * 2


def test_changed_and_gone_objects_are_counted(tmp_path: Path) -> None:
    """A living source changes: a few differences are told, and refuse nothing."""
    table, place, taken = world(tmp_path, PLAIN)
    place.remove(PLAIN[0])
    place.seed(PLAIN[1], b"yy")
    report = check_sample(taken, MemoryStore("us", place), count=500, seed="s", scratch=table.scratch)
    assert (report.asked, report.same, report.changed, report.gone) == (200, 198, 1, 1)


@pytest.mark.parametrize(
    ("kept", "gone", "expected"),
    [
        (PLAIN[:179], PLAIN[179:], "stale"),
        ([], PLAIN[:1], "stale"),
        (PLAIN + ODD[:9], ODD[9:], "decoded wrongly"),
    ],
)
def test_too_many_keys_gone_refuse_the_inventory(
    tmp_path: Path, kept: list[str], gone: list[str], expected: str
) -> None:
    """Invariant 4: an inventory whose keys are not there is stale or was decoded wrongly. Complete, it passes."""
    table, place, taken = world(tmp_path, kept + gone)
    store = MemoryStore("us", place)
    check_sample(taken, store, count=200, seed="s", scratch=table.scratch)
    for key in gone:
        place.remove(key)
    with pytest.raises(InputError) as caught:
        check_sample(taken, store, count=200, seed="s", scratch=table.scratch)
    assert expected in whole_text(caught.value)
    assert "photo" not in whole_text(caught.value)


def test_error_while_sampling_is_no_missing_key(tmp_path: Path) -> None:
    """Invariant 4: a denied HEAD is raised, and never counts as gone."""
    table, place, taken = world(tmp_path, PLAIN)

    def deny(operation: str, key: str) -> None:
        raise DeniedError("us", operation, key=key)

    place.fault = deny
    with pytest.raises(DeniedError):
        check_sample(taken, MemoryStore("us", place), count=5, seed="s", scratch=table.scratch)


def test_empty_inventory_has_nothing_to_ask(tmp_path: Path) -> None:
    """No keys, no requests, no refusal."""
    table, place, taken = world(tmp_path, [])
    assert check_sample(taken, MemoryStore("us", place), count=5, seed="s", scratch=table.scratch).asked == 0


def test_results_come_in_the_order_of_the_jobs() -> None:
    """Whichever thread ends first, and however many there are."""
    jobs: list[Callable[[Stopping], int]] = [lambda _halted, number=number: number for number in range(50)]  # type: ignore[misc]
    assert side_by_side(jobs, threads=4, is_stopping=never) == list(range(50))
    assert side_by_side([], threads=4, is_stopping=never) == []


def test_first_error_halts_the_others_and_is_raised() -> None:
    """Jobs that have not begun do not begin, and those under way are told."""
    told = threading.Event()

    def patient(halted: Stopping) -> None:
        while not halted():
            told.wait(0.01)
        told.set()

    def broken(_halted: Stopping) -> None:
        raise PermanentStoreError("us", "list")

    with pytest.raises(PermanentStoreError):
        side_by_side([patient, broken, patient, patient], threads=2, is_stopping=never)
    assert told.is_set()


def test_threads_that_never_come_back_do_not_hold_up_a_stop() -> None:
    """Five seconds of grace, then the wait ends; the threads are daemons and end with the process."""
    silent, end = threading.Event(), threading.Event()

    def hang(_halted: Stopping) -> None:
        silent.set()
        end.wait(60)

    began = time.monotonic()
    with pytest.raises(InterruptedRun):
        side_by_side([hang], threads=1, is_stopping=silent.is_set)
    assert 4 < time.monotonic() - began < 8
    hanging = [thread for thread in threading.enumerate() if thread.name.startswith("inventory-") and not thread.daemon]
    end.set()
    assert not hanging


def test_throttled_request_waits_as_long_as_it_was_told() -> None:
    """Retry-After is kept to; a permanent error is not asked twice."""
    times: list[float] = []

    def throttled() -> str:
        times.append(time.monotonic())
        if len(times) < 2:
            raise ThrottledError("us", "list", wait_seconds=0.3)
        return "done"

    assert ask(throttled) == "done"
    assert times[1] - times[0] >= 0.3
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise PermanentStoreError("us", "list")

    with pytest.raises(PermanentStoreError):
        ask(broken)
    assert len(calls) == 1
