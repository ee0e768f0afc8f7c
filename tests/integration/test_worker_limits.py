"""What bounds a worker between two looks at the ledger, and a run over its processes (design, invariant 11)."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from smallworld import MIB, body_of, build, planned
from test_run_verify import wait_for

from migrate.ledger import Ledger
from migrate.stores.file_download import FileDownload
from migrate.worker.loop import GROUP_RESULTS, GROUP_SECONDS
from migrate.worker.pool import Ended, Pool, Task


class Clock:
    """The time of day, and what was added to it."""

    def __init__(self) -> None:
        self.added = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.added


@pytest.mark.parametrize(("lease_seconds", "what", "most_seconds"), [(0.4, "record", GROUP_SECONDS), (4.0, "beat", 15)])
def test_leasing_ahead_holds_up_no_commit_and_no_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lease_seconds: float, what: str, most_seconds: float
) -> None:
    """Where a lease takes long, and batches are so small that many are wanted, one lease at most comes between two looks."""
    world = build(tmp_path, users=40, per_user=2, copies_max=4, odd=False, large=False)
    planned(world)
    clock, times = Clock(), list[float]()
    monkeypatch.setattr("migrate.worker.loop.time", clock)
    lease, spied = Ledger.lease, getattr(Ledger, what)

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = lease(*args, **kwargs)
        clock.added += lease_seconds
        return found

    def spy(*args: Any, **kwargs: Any) -> Any:
        times.append(clock.added)
        return spied(*args, **kwargs)

    monkeypatch.setattr(Ledger, "lease", slow)
    monkeypatch.setattr(Ledger, what, spy)
    assert world.migrate("run", "--wave", "all").code == 0
    longest = max(later - earlier for earlier, later in zip([0.0, *times], times, strict=False))
    assert len(times) >= 40 * lease_seconds / (most_seconds + lease_seconds) - 1
    assert longest <= most_seconds + lease_seconds


def test_no_more_than_a_group_of_results_waits_for_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All objects of a window end before the first is taken, and no second passes: commits come all the same."""
    world = build(tmp_path, users=1, per_user=200, copies_max=2000, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace("concurrency = 8", "concurrency = 128"))
    planned(world)
    groups: list[int] = []
    record, submit, next_ended = Ledger.record, Pool.submit, Pool.next_ended
    out: dict[str, int] = {"tasks": 0}

    def counted(self: Pool, task: Task) -> None:
        out["tasks"] += 1
        submit(self, task)

    def all_ended(self: Pool, timeout_seconds: float) -> Ended | None:
        wait_for(lambda: self._ended.qsize() == out["tasks"], 60)
        ended = next_ended(self, 0)
        out["tasks"] -= ended is not None
        return ended

    def spy(self: Ledger, lease: Any, results: Any, **kwargs: Any) -> Any:
        groups.append(len(results))
        return record(self, lease, results, **kwargs)

    monkeypatch.setattr("migrate.worker.loop.time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr("migrate.worker.climb.FIRST_LEVEL", 128)
    monkeypatch.setattr(Pool, "submit", counted)
    monkeypatch.setattr(Pool, "next_ended", all_ended)
    monkeypatch.setattr(Ledger, "record", spy)
    assert world.migrate("run", "--wave", "all").code == 0
    assert sum(groups) == 400
    assert max(groups) <= GROUP_RESULTS + 1  # an object has two copies


class Bodies:
    """The bodies that a process holds: how many bytes they are, and were at most."""

    def __init__(self) -> None:
        self.bytes = self.most = 0
        self._lock = threading.RLock()  # a body may go while another is counted

    def hold(self, data: bytes) -> bytes:
        self.count(len(data))
        body = _Body(data)
        body.bodies = self
        return body

    def count(self, size: int) -> None:
        with self._lock:
            self.bytes += size
            self.most = max(self.most, self.bytes)


class _Body(bytes):
    bodies: Bodies

    def __del__(self) -> None:
        self.bodies.count(-len(self))


def test_bodies_in_flight_stay_within_their_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small objects, of large ones that are sent and of large ones that are there already (Invariant 11)."""
    world = build(tmp_path, users=6, per_user=1, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(spec.read_text().replace("concurrency = 8", 'concurrency = 16\nbytes_in_flight = "12MiB"'))
    for user in world.users:
        for number in range(2):
            world.put_source(f"users/{user}/picture-{number}", body_of(f"{user}-{number}", 2 * MIB), backup=False)
        world.put_source(f"users/{user}/film", body_of(user, 6 * MIB), backup=False)
        there = f"users/{user}/there"
        world.put_source(there, body_of(f"{user} there", 6 * MIB), backup=False)
        for store in ("dublin-1", "dublin-2", "hamar"):
            world.put(store, there, *world.objects[there])
    planned(world)
    bodies, read = Bodies(), FileDownload.read
    monkeypatch.setattr(FileDownload, "read", lambda self: bodies.hold(read(self)))
    answer = world.migrate("run", "--wave", "all", "--json")
    assert answer.code == 0, answer.err
    outcomes = [wave["outcomes"] for wave in answer.json["standing"]]
    assert sum(outcome["present"] for outcome in outcomes) == 2 * len(world.users)
    assert 5 * MIB < bodies.most <= 12 * MIB
    assert bodies.bytes == 0


def test_more_workers_than_a_store_may_be_sent_requests_are_refused(tmp_path: Path) -> None:
    """`concurrency_max` holds over all processes, and each needs one request at least: the error says what to give."""
    world = build(tmp_path, users=4, per_user=2, odd=False, large=False)
    spec = world.root / "plans" / "small.toml"
    spec.write_text(
        spec.read_text().replace('url = "file:stores/hamar"', 'url = "file:stores/hamar"\nconcurrency_max = 2')
    )
    planned(world)
    for words in (["run"], ["run", "--dry-run"]):
        answer = world.migrate(*words, "--wave", "all", "--workers", "3")
        assert answer.code == 2, answer.err
        assert "hamar" in answer.err
        assert "`--workers 2`" in answer.err
    assert not world.at_targets()
    assert world.migrate("run", "--wave", "all", "--workers", "2").code == 0
    assert world.migrate("verify", "--workers", "3").code == 2
    world.assert_all_there()
