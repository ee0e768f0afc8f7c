"""A purge is killed with -9 at each of its points, and a hold comes in its midst: nothing goes that is not named, and it goes
on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from purgeworld import at_sources, digest_of, ledger_of, moved, of, purge, states
from smallworld import SmallWorld
from test_crashes import BOTH_LEDGERS, IN_A_PURGE, NOBODY_IS_LATE, killed_at
from together import frozen_at, wake

from migrate.jobs.purge_user import HOLD_SECONDS
from migrate.pauses import PausePoint
from migrate.states import UserState

USERS, OBJECTS = 4, 3
U = UserState
ONE_BY_ONE = "[cutover]\nconcurrency = 1\n"
# one request at a time, so that it is known how many are in flight
ONE_THREAD = f"""{NOBODY_IS_LATE}
import migrate.jobs.steps as steps
pool = steps.ThreadPoolExecutor
steps.ThreadPoolExecutor = lambda threads, **named: pool(1, **named)
"""


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


def world_of(root: Path, kind: str, request: pytest.FixtureRequest, more: str = "") -> SmallWorld:
    return moved(root, request.getfixturevalue("postgres_url") if kind == "postgresql" else None, more=more)


def assert_consistent(world: SmallWorld) -> None:
    """Whoever is called purged has nothing left; of whom something is gone the ledger knows it (Invariants 1 and 9)."""
    found, now = at_sources(world), states(world)
    for user in world.users:
        left = of(user, found)
        assert now[user] in (U.OBSERVING, U.PURGING, U.PURGED)
        if now[user] is U.PURGED:
            assert left == 0
        if left < 2 * OBJECTS:
            assert now[user] in (U.PURGING, U.PURGED)
    world.assert_all_there()


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
@pytest.mark.parametrize("point", IN_A_PURGE, ids=str)
def test_a_crash_in_a_purge_is_gone_on_with_by_the_same_digest(
    point: PausePoint, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Killed at the point, the same digest ends the job, or a new purge plan does; the targets are as they were (Invariants 1, 2
    and 9)."""
    world = world_of(tmp_path, kind, request)
    digest = digest_of(world)
    killed_at(world, point, "purge", "--wave", "all", "--confirm", digest, times=2, program=NOBODY_IS_LATE)
    assert_consistent(world)
    assert U.PURGING in states(world).values()
    if point is PausePoint.SOME_DELETED:  # the other way to go on
        assert purge(world, "--dry-run")["purge"]["users"] <= USERS
        digest = digest_of(world)
    done = purge(world, "--confirm", digest)
    assert done["users"]["purged"] + done["users"]["purged_before"] == done["purge"]["users"]
    assert set(states(world).values()) == {U.PURGED}
    assert at_sources(world) == {"us": [], "singapore": []}
    world.assert_all_there()
    assert world.migrate("sweep").code == 0
    for user in world.users:
        with ledger_of(world) as ledger:
            moves = [event.to_state for event in ledger.history(user)][-2:]
        assert moves == [U.PURGING, U.PURGED]


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
def test_a_hold_that_comes_meanwhile_wins_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Set by another process while the user's sources are deleted: what is in flight ends, nothing more of that user goes, also
    in a later purge, until the release."""
    world = world_of(tmp_path, kind, request, ONE_BY_ONE)
    digest = digest_of(world)
    words = ("purge", "--wave", "all", "--confirm", digest, "--json")
    with frozen_at(world, PausePoint.SOME_DELETED, *words, times=2, program=ONE_THREAD) as process:
        (user,) = [user for user, state in states(world).items() if state is U.PURGING]
        assert of(user, at_sources(world)) == 2 * OBJECTS - 2
        assert world.migrate("hold", "--user", user, "--reason", "claim 4711").code == 0
        time.sleep(HOLD_SECONDS)  # as long as deletions may be begun after the ledger was asked
        code, out, err = wake(process)
    assert code == 4, (out, err)
    assert '"hold": 1' in out
    assert of(user, at_sources(world)) == 2 * OBJECTS - 2
    assert states(world) == {each: U.PURGING if each == user else U.PURGED for each in world.users}
    held = purge(world, "--confirm", digest, code=4)
    assert held["missing"] == {"hold": 1}
    assert of(user, at_sources(world)) == 2 * OBJECTS - 2
    assert world.migrate("hold", "--user", user, "--release", "--reason", "settled").code == 0
    assert purge(world, "--confirm", digest)["users"]["purged"] == 1
    assert at_sources(world) == {"us": [], "singapore": []}


def test_a_signal_ends_what_is_in_flight_and_nothing_more_goes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """130, the user is purging, and the same digest goes on."""
    world = world_of(tmp_path, "sqlite", request, ONE_BY_ONE)
    digest = digest_of(world)
    words = ("purge", "--wave", "all", "--confirm", digest)
    with frozen_at(world, PausePoint.SOME_DELETED, *words, program=ONE_THREAD) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(HOLD_SECONDS)  # so that nothing is begun before the signal is heard
        code, out, err = wake(process)
    assert code == 130, (out, err)
    (user,) = [user for user, state in states(world).items() if state is U.PURGING]
    assert of(user, at_sources(world)) == 2 * OBJECTS - 1
    assert_consistent(world)
    assert purge(world, "--confirm", digest)["users"]["purged"] == USERS


@pytest.mark.parametrize("kind", BOTH_LEDGERS)
def test_a_hold_at_the_last_moment_keeps_the_user_purging(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After everything was deleted: nothing is called purged of who is on hold, and nothing is lost by asking again."""
    world = world_of(tmp_path, kind, request, ONE_BY_ONE)
    words = ("purge", "--wave", "all", "--confirm", digest_of(world), "--json")
    with frozen_at(world, PausePoint.SOURCES_EMPTIED, *words, program=NOBODY_IS_LATE) as process:
        (user,) = [user for user, state in states(world).items() if state is U.PURGING]
        assert world.migrate("hold", "--user", user, "--reason", "claim 4711").code == 0
        code, out, err = wake(process)
    assert code == 4, (out, err)
    assert states(world) == {each: U.PURGING if each == user else U.PURGED for each in world.users}
