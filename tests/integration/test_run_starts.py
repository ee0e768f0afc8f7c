"""How a run begins: what it refuses before it changes anything, and the registration of its plan."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from smallworld import SmallWorld, body_of, build_planned, planned

from migrate.errors import LaterError, UnsupportedError
from migrate.jobs.common import heeding
from migrate.ledger import Ledger
from migrate.planner.digest import USERS, Table, stream_digest
from migrate.planner.folder import find_plan
from migrate.stopping import Stopping
from migrate.stores.file import FileStore
from migrate.worker.loop import Stop
from migrate.workspace import Workspace


@pytest.fixture
def world(tmp_path: Path) -> SmallWorld:
    return build_planned(tmp_path, users=12, per_user=4, odd=False, large=False)


def users_of_wave(world: SmallWorld, wave: int) -> list[str]:
    return [user.user_id for user in find_plan(Workspace(world.root), None).users() if user.wave == wave]


def occupy(world: SmallWorld, user: str) -> str:
    """Somebody else's object where one of the user's goes; its key."""
    key = f"users/{user}/photo-0001.jpg"
    for store in ("hamar", "dublin-1", "dublin-2"):
        world.put(store, key, b"somebody else's", world.objects[key][1], {})
    return key


def outcomes(world: SmallWorld, outcome: str) -> int:
    return sum(int(wave["outcomes"][outcome]) for wave in world.migrate("status", "--json").json["standing"])


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_refused_retry_has_put_nothing_back(world: SmallWorld, dry: tuple[str, ...]) -> None:
    """Wave 0 is not verified, and something of wave 1 is quarantined: 75, and what was quarantined is so still."""
    world.migrate("run")
    occupy(world, users_of_wave(world, 1)[0])
    assert world.migrate("run", "--wave", "1").code in (4, 75)
    assert outcomes(world, "quarantined") == 2
    answer = world.migrate("run", "--retry-quarantined", *dry)
    assert answer.code == 75, answer.err
    assert "wave 1 waits: wave 0 is not verified" in answer.err + answer.out
    assert outcomes(world, "quarantined") == 2


def test_a_retry_takes_the_wave_of_what_is_quarantined(world: SmallWorld) -> None:
    """The twin: nothing before it waits, so it is put back, copied, and the forecast says as much."""
    world.migrate("run")
    key = occupy(world, users_of_wave(world, 1)[0])
    world.migrate("verify", "--wave", "0")
    world.migrate("run", "--wave", "all")
    for store in ("hamar", "dublin-1", "dublin-2"):
        world.store(store).delete(key)
    forecast = world.migrate("run", "--retry-quarantined", "--dry-run", "--json").json
    assert (forecast["waves"], forecast["copies"]) == ([1], 2)
    assert world.migrate("run", "--retry-quarantined").code == 0
    world.assert_all_there()


def change(world: SmallWorld, user: str) -> None:
    """Something of the user is another at the source by now."""
    key = f"users/{user}/photo-0001.jpg"
    world.put("us", key, body_of("newer", 99), world.objects[key][1], {})


def test_users_who_wait_for_drift_hold_up_nobody_else(world: SmallWorld) -> None:
    """No verification mends a drifted or quarantined copy: the nightly `run` and `verify` go on to the end, which is 4, each says
    who waits, those users stay unverified, and nothing is read twice (Invariant 9)."""
    drifted, occupied = users_of_wave(world, 0)[0], users_of_wave(world, 1)[0]
    change(world, drifted)
    occupy(world, occupied)
    told = []
    for wave, code in ((0, 75), (1, 75), (2, 4)):
        assert world.migrate("run", "--dry-run").code == code
        run = world.migrate("run", "--json")
        assert (run.code, run.json["waves"]) == (code, [wave]), run.err
        verify = world.migrate("verify", "--json")
        assert (verify.code, verify.json["pass"]["waves"]) == (4 if wave < 2 else 0, [wave])
        told += [run.json["next"]]
    assert all("2 copies drifted: their users wait" in words for words in told[:1])
    assert "2 copies quarantined and 2 copies drifted: their users wait" in told[2]
    states = {user: world.migrate("status", "--user", user, "--json").json["state"] for user in world.users}
    assert {user: state for user, state in states.items() if state != "verified"} == {
        drifted: "copying",
        occupied: "quarantined",
    }
    last = world.migrate("verify", "--json")
    assert (last.code, last.json["pass"]) == (4, None)
    assert world.migrate("run").code == 4


@pytest.mark.parametrize("harm", [change, occupy])
def test_a_wave_of_which_nobody_could_go_on_holds_the_next(harm: Callable[..., object], world: SmallWorld) -> None:
    """A canary that is all drifted or quarantined says that something is wrong: 4, since no time mends it, and by name only."""
    for user in users_of_wave(world, 0):
        harm(world, user)
    assert world.migrate("run").code == 75
    verify = world.migrate("verify", "--json")
    assert verify.code == 4
    # what is whole beside a drifted copy is looked at, since a cutover can take its user
    assert (verify.json["pass"] is None) == (harm is occupy)
    assert world.migrate("verify", "--json").json["pass"] is None
    assert world.migrate("run", "--dry-run").code == 4
    refused = world.migrate("run")
    assert refused.code == 4
    assert "wave 1 waits: nobody of wave 0 could go on" in refused.err
    assert "--wave 1` goes on without them" in refused.err
    assert ("--retry-quarantined" in refused.err) == (harm is occupy)
    for said in (refused.err, verify.json["next"]):
        assert ("the business of `migrate delta" in said) == (harm is not occupy)
    assert world.migrate("run", "--wave", "1").code == 75
    assert world.migrate("verify").code == 0
    assert world.migrate("run", "--json").json["waves"] == [2], "wave 1 went well"


def test_who_waits_for_what_no_target_can_keep_is_not_told_to_try_again(
    world: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another target or a decision helps there; of what else is quarantined, trying again is still said, each with its number."""
    first, second = users_of_wave(world, 0)[0], users_of_wave(world, 1)[0]
    put = FileStore.put

    def bends(store: FileStore, key: str, *words: Any, **more: Any) -> object:
        if key == f"users/{first}/photo-0001.jpg":
            raise UnsupportedError(store.name, "put", "it keeps no such thing", key=key)
        return put(store, key, *words, **more)

    monkeypatch.setattr(FileStore, "put", bends)
    run = world.migrate("run", "--json")
    assert run.code == 75, run.err
    verify = world.migrate("verify", "--json")
    for step in (run.json["next"], verify.json["next"]):
        assert "--retry-quarantined" not in step
        assert "trying again does not help 2 copies of which the target cannot keep all" in step
    occupy(world, second)
    step = world.migrate("run", "--wave", "1", "--json").json["next"]
    assert "4 copies quarantined" in step
    assert "--retry-quarantined` tries again; trying again does not help 2 copies" in step


def test_a_source_that_moved_on_holds_up_its_user_alone(world: SmallWorld) -> None:
    """At both ends, asking again does not help: the next wave is taken, its end says 4 and what helps. Nothing is read twice."""
    (spec,) = (world.root / "plans").glob("*.toml")
    spec.write_text(spec.read_text() + '\n[verify]\nlevel = "both-ends"\n')
    planned(world)
    assert world.migrate("run").code == 75
    change(world, users_of_wave(world, 0)[0])
    verify = world.migrate("verify", "--json")
    assert verify.code == 4
    assert "takes the next wave" in verify.json["next"]
    again = world.migrate("verify", "--json")
    assert (again.code, again.json["pass"]) == (4, None)
    assert "1 user has sources that changed since they were copied" in again.json["next"]
    for wave, code in ((1, 75), (2, 4)):
        assert world.migrate("run", "--dry-run").code == code
        run = world.migrate("run", "--json")
        assert (run.code, run.json["waves"]) == (code, [wave]), run.err
        assert "what changed at the source is the business of `migrate delta" in run.json["next"]
        assert world.migrate("verify", "--json").json["pass"]["waves"] == [wave]
    assert world.migrate("run").code == 4


def test_a_difference_in_a_later_wave_is_not_what_the_next_one_waits_for(world: SmallWorld) -> None:
    """Wave 2 was taken by name, and something of it is missing: wave 1 waits for the verification of wave 0 alone."""
    assert world.migrate("run", "--wave", "0,2").code == 75
    key = f"users/{users_of_wave(world, 2)[0]}/photo-0000.jpg"
    store = next(store for store, found in world.at_targets() if found == key)
    world.store(store).delete(key)
    assert world.migrate("verify", "--wave", "2").code == 3
    assert world.migrate("run", "--dry-run").code == 75
    refused = world.migrate("run")
    assert refused.code == 75
    assert "wave 1 waits: wave 0 is not verified" in refused.err
    assert world.migrate("verify", "--wave", "0").code == 0
    run = world.migrate("run", "--json")
    assert (run.code, run.json["waves"]) == (3, [1]), "what stands is told at the end"


def test_a_known_difference_holds_the_next_wave(world: SmallWorld) -> None:
    """3 and not 75, as its dry run says: it is no matter of time, also where it is of a user whom drift holds up anyhow."""
    user = users_of_wave(world, 0)[0]
    change(world, user)
    world.migrate("run")
    world.migrate("verify")
    store = next(store for store, key in world.at_targets() if key == f"users/{user}/photo-0000.jpg")
    world.store(store).delete(f"users/{user}/photo-0000.jpg")
    assert world.migrate("verify", "--wave", "0").code == 3
    assert world.migrate("run", "--dry-run").code == 3
    refused = world.migrate("run")
    assert refused.code == 3
    assert "wave 1 waits: a verification found a difference in wave 0" in refused.err
    repair = world.migrate("verify", "--repair", "--json")
    assert (repair.json["repaired"], repair.json["pass"]["waves"]) == (1, [0]), "the wave is found without its name"
    assert world.migrate("run", "--json").json["waves"] == [0]
    assert world.migrate("verify").code == 4
    assert world.migrate("run", "--json").json["waves"] == [1]


def test_a_wave_that_is_none_is_refused_before_anything_else(world: SmallWorld) -> None:
    """Also before the blockers: 2, and the plan is not registered."""
    with (world.root / "users.csv").open("a", encoding="utf-8") as file:
        file.write("x001,??\n")
    planned(world)
    assert world.migrate("run").code == 77
    answer = world.migrate("run", "--wave", "99")
    assert answer.code == 2
    assert "no wave 99" in answer.err
    assert plans(world) == 0


def plans(world: SmallWorld) -> int:
    ledger = Ledger.open(f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        return len(ledger.plans())
    finally:
        ledger.close()


def test_a_signal_is_heard_while_the_plan_is_registered(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, nothing of the plan is in the ledger, and the next run registers it whole (Invariant 3)."""

    def interrupt(_watch: object, users: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("migrate.cli.working.Watch.registering", interrupt)
        patch.setattr("migrate.jobs.common._ROWS_BETWEEN_LOOKS", 4)
        answer = world.migrate("run", "--wave", "all")
    assert answer.code == 130, answer.err
    assert "nothing of it was kept" in answer.err
    assert plans(world) == 0
    assert world.migrate("run", "--wave", "all").code == 0
    world.assert_all_there()


def test_a_signal_is_heard_while_users_are_digested(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read before the first of them is registered: 130 before the digest is at its end, and nothing is registered."""
    ended: list[str] = []

    def interrupted(connection: duckdb.DuckDBPyConnection, relation: str, table: Table, *rest: Stopping) -> str:
        if table is not USERS:
            return stream_digest(connection, relation, table, *rest)
        os.kill(os.getpid(), signal.SIGTERM)
        ended.append(stream_digest(connection, relation, table, *rest))
        return ended[-1]

    with monkeypatch.context() as patch:
        patch.setattr("migrate.planner.folder.stream_digest", interrupted)
        answer = world.migrate("run", "--wave", "all")
    assert answer.code == 130, answer.err
    assert "interrupted while the plan was registered" in answer.err
    assert ended == []
    assert plans(world) == 0


def test_registering_says_how_far_it_is(world: SmallWorld) -> None:
    """A log line where nobody watches a terminal: how many there are, and not that there are none yet."""
    answer = world.migrate("run", "--wave", "all")
    (line,) = [line for line in answer.err.splitlines() if "event=registering" in line]
    assert "count=12" in line
    assert "registering" not in world.migrate("run", "--wave", "all").err


def test_time_that_is_up_ends_what_has_to_be_done_whole() -> None:
    """LaterError between two rows; with time left, all of them come."""
    assert list(heeding(range(10), Stop(), time.monotonic() + 60, "it was done")) == list(range(10))
    with pytest.raises(LaterError, match="time is up while it was done"):
        list(heeding(range(10), Stop(), time.monotonic() - 1, "it was done"))
