"""A cutover from the gate to the new home, on both ledgers: who moves, who stays, and that nobody has two homes."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kept import made_once
from purgeworld import execute
from smallworld import SmallWorld, body_of, build, listed, planned
from sqlalchemy import create_engine, inspect, text

from migrate.errors import LaterError, ThrottledError, TransientStoreError, UnreachableError
from migrate.jobs import cutover_user
from migrate.jobs.cutover_user import Tools
from migrate.ledger import Ledger
from migrate.model import Attributes
from migrate.routing import FreezeLimits
from migrate.routing.sql import SqlRouter
from migrate.spec import RoutingColumns
from migrate.states import UserState
from migrate.stores.file import FileStore

USERS = 6


@pytest.fixture(autouse=True)
def at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """No request of these worlds is ever late."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 0.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> SmallWorld:
    """Planned, copied and verified, with routes in the ledger."""
    ledger = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    return verified(tmp_path, ledger)


@pytest.fixture
def quick(tmp_path: Path) -> SmallWorld:
    """The same on SQLite alone."""
    return verified(tmp_path, None)


@made_once
def verified(root: Path, ledger: str | None, more: str = "") -> SmallWorld:
    world = build(root, users=USERS, per_user=3, odd=False, large=False)
    spec = root / "plans" / "small.toml"
    spec.write_text(
        spec.read_text() + '\n[routing]\ndrain_seconds = "1s"\nfreeze_seconds_max = "20s"\n' + more, encoding="utf-8"
    )
    world.ledger = ledger
    planned(world)
    for words in (("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    return world


@contextmanager
def ledger_of(world: SmallWorld) -> Iterator[Ledger]:
    ledger = Ledger.open(world.ledger or f"sqlite:///{world.root}/.migrate/ledger.sqlite")
    try:
        yield ledger
    finally:
        ledger.close()


@contextmanager
def routes_of(world: SmallWorld) -> Iterator[SqlRouter]:
    """The table of routes, as the platform's writers have it."""
    with ledger_of(world) as ledger:
        limits = FreezeLimits(1, 20)
        columns = RoutingColumns(writers="writers")
        yield SqlRouter(ledger.database, "routes", columns, default_home="us", limits=limits)


def cutover(world: SmallWorld, *words: str, code: int = 0) -> dict[str, Any]:
    answer = world.migrate("cutover", "--wave", "all", *words, "--json")
    assert answer.code == code, (answer.code, answer.out, answer.err)
    return dict(answer.json)


def keep_from_flipping(patch: pytest.MonkeyPatch, one: str) -> None:
    """The platform flips everybody but this user."""
    flip = SqlRouter.flip

    def refused(router: SqlRouter, user: str, token: str, site: str) -> None:
        if user == one:
            raise LaterError("not now")
        flip(router, user, token, site)

    patch.setattr(SqlRouter, "flip", refused)


def homes(world: SmallWorld) -> dict[str, str]:
    with routes_of(world) as routes:
        return {user: routes.read(user).home for user in world.users}


def states(world: SmallWorld) -> dict[str, UserState]:
    with ledger_of(world) as ledger:
        found = {user: ledger.user(user) for user in world.users}
    return {user: row.state for user, row in found.items() if row is not None}


def placed(world: SmallWorld) -> dict[str, str]:
    with ledger_of(world) as ledger:
        rows = [ledger.user(user) for user in world.users]
    return {row.user_id: str(row.home) for row in rows if row is not None}


def everything(world: SmallWorld) -> tuple[object, ...]:
    """What any command could have changed: all rows of the ledger, routes among them, and all that the stores hold."""
    with ledger_of(world) as ledger, ledger.database.read() as connection:
        tables = inspect(connection).get_table_names()
        rows = {name: sorted(map(repr, connection.execute(text(f'SELECT * FROM "{name}"')).all())) for name in tables}
    sources = {(name, info.key): info for name in ("us", "singapore") for info in listed(world.store(name))}
    assert len(rows) > 10
    return rows, sources, world.at_targets()


def test_a_wave_moves_with_what_changed_since(world: SmallWorld) -> None:
    """Users live at their new homes afterwards, with what was written, changed and deleted up to their freeze, and nobody stays
    frozen (Invariants 1 and 9). A dry run foresees it and changes nothing."""
    world.put_source("users/u000/new.jpg", b"new")
    world.put_source("users/u001/photo-0001.jpg", b"changed")
    world.put_source("users/u001/large.mp4", body_of("large", 11 * 2**20), tags={"kind": "film"})
    for store in ("us", "singapore"):
        world.store(store).delete("users/u002/photo-0002.jpg")
    del world.objects["users/u002/photo-0002.jpg"]
    before = everything(world)
    looked = cutover(world, "--dry-run")
    assert looked["users"] | {"ready": USERS} == looked["users"]
    assert (looked["late_objects"], looked["frozen"]) == (4, None)
    assert everything(world) == before
    assert set(homes(world).values()) == {"us"}

    moved = cutover(world)
    assert moved["users"] == {
        "moved": USERS, "ready": 0, "moved_before": 0, "not_ready": 0, "failed": 0, "open": 0, "settled": 0, "left": 0,
    }  # fmt: skip
    assert moved["late_objects"] == 4
    assert moved["frozen"]["users"] == USERS
    assert 0 < moved["frozen"]["p50_ms"] <= moved["frozen"]["p99_ms"] <= moved["frozen"]["max_ms"] < 20_000
    assert homes(world) == placed(world)
    assert set(states(world).values()) == {UserState.OBSERVING}
    world.assert_all_there()
    with routes_of(world) as routes:
        for user in world.users:
            assert routes.read(user).frozen_by is None
    with ledger_of(world) as ledger:
        assert [event.to_state for event in ledger.history("u001")] == [
            UserState.FROZEN,
            UserState.CUT_OVER,
            UserState.OBSERVING,
        ]
        late = ledger.late_of(["u001"])["u001"]
        assert {copy.key for copy in late} == {"users/u001/photo-0001.jpg", "users/u001/large.mp4"}
        assert all(copy.receipt is not None for copy in late)  # Invariant 1
        move = ledger.move_of("u001")
    assert move is not None
    assert move.flipped_at is not None
    assert move.observe_until == move.flipped_at + timedelta(days=14)
    told = [event["what"] for event in world.migrate("where", "u001", "--json").json["history"]]
    assert told[-3:] == ["frozen", "cut_over", "observing"]

    again = cutover(world)
    assert (again["users"]["moved"], again["users"]["moved_before"]) == (0, USERS)


def test_the_gate_says_what_is_missing_and_moves_the_others(world: SmallWorld) -> None:
    """Each check by its own user: a hold, an EXTRA object, a foreign freeze, a key that no rule knows; both ways of asking."""
    assert world.migrate("hold", "--user", "u000", "--reason", "court order").code == 0
    with routes_of(world) as routes:
        routes.freeze("u001", "somebody else's", 15)
    home = placed(world)
    world.put(home["u002"], "users/u002/stray.jpg", b"stray", Attributes(content_type="a/b"), {})
    answer = world.migrate("verify", "--wave", "all")
    assert answer.code == 3
    for words in (("--dry-run",), ()):
        found = cutover(world, *words, code=4)
        why = {each["user"]: each["why"] for each in found["who"]}
        assert set(why) == {"u000", "u001", "u002"}
        assert why["u000"] == {"hold": "is on hold"}
        assert why["u001"] == {"route": "is frozen by somebody else"}
        assert "state" in why["u002"]
        assert found["missing"]["hold"] == found["missing"]["route"] == 1
        assert found["users"]["not_ready"] == 3
    after = homes(world)
    assert {user: after[user] for user in ("u000", "u001", "u002")} == dict.fromkeys(("u000", "u001", "u002"), "us")
    assert {user for user in world.users if after[user] == home[user]} == set(world.users) - {"u000", "u001", "u002"}


@pytest.mark.parametrize(
    ("more", "check"),
    [
        ('[cutover]\nlag_max = "1s"', "lag"),
        ("[cutover]\nobjects_max = 2", "listing"),
        ('[cutover]\nlate_bytes_max = "1KB"', "late"),
    ],
)
def test_the_limits_of_the_spec_hold_users_back(tmp_path: Path, more: str, check: str) -> None:
    """The twin of each: with the default all of them move."""
    world = verified(tmp_path, None, more)
    for user in world.users:
        world.put_source(f"users/{user}/new.jpg", body_of(user, 2_000))
    if check == "lag":
        time.sleep(2.1)  # longer than lag_max
    for words in (("--dry-run",), ()):
        assert cutover(world, *words, code=4)["missing"] == {check: USERS}
    if check == "listing":  # the plan has said so, while there was time to change it
        assert world.migrate("show", "--json").json["cutover"]["users_too_large"] == USERS
        assert f"{USERS} users have more objects than may be listed in a freeze" in world.migrate("show").out
    assert set(homes(world).values()) == {"us"}
    assert set(states(world).values()) == {UserState.VERIFIED}


def test_a_layout_that_cannot_be_listed_by_user_lets_nobody_over(tmp_path: Path) -> None:
    world = build(tmp_path, users=2, per_user=2, odd=False, large=False)
    spec = tmp_path / "plans" / "small.toml"
    loose = '[[layout.rules]]\nname = "mail"\npattern = "mail/{year}/{user}/{rest}"\ncategory = "restricted"\n'
    spec.write_text(spec.read_text().replace("[[placement.rules]]", f"{loose}\n[[placement.rules]]", 1))
    planned(world)
    assert world.migrate("show", "--json").json["cutover"] == {"unlistable_rules": ["mail"], "users_too_large": 0}
    assert "nobody can be cut over: keys of mail" in world.migrate("show").out
    for words in (("run", "--wave", "all"), ("verify",)):
        assert world.migrate(*words).code == 0
    assert cutover(world, "--dry-run", code=4)["missing"] == {"listing": 2}


def test_who_has_left_the_scope_is_not_moved(quick: SmallWorld) -> None:
    """They are verified, with nothing at the targets: an empty home would be theirs. The wave ends without them."""
    world = quick
    directory = world.root / "users.csv"
    directory.write_text(directory.read_text().replace("u001,NO", "u001,US"), encoding="utf-8")
    for words in (("delta",), ("run", "--wave", "all"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    assert states(world)["u001"] is UserState.VERIFIED
    assert not any(key.startswith("users/u001/") for _, key in world.at_targets())
    for _ in range(2):
        found = cutover(world)
        assert (found["who"], found["users"]["left"]) == ([], 0)
    assert found["users"]["moved_before"] == USERS - 1
    assert homes(world)["u001"] == "us"


def test_users_go_side_by_side(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a wave come to be frozen before the first one is: none waits for another."""
    with ledger_of(quick) as ledger:
        waves = Counter(row.wave for user in quick.users if (row := ledger.user(user)) is not None)
    ((wave, number),) = waves.most_common(1)
    assert number > 1
    freeze, together = SqlRouter.freeze, threading.Barrier(number, timeout=30)

    def all_at_once(router: SqlRouter, user: str, token: str, ttl: int) -> None:
        together.wait()
        freeze(router, user, token, ttl)

    monkeypatch.setattr(SqlRouter, "freeze", all_at_once)
    answer = quick.migrate("cutover", "--wave", str(wave), "--json")
    assert (answer.code, answer.json["users"]["moved"]) == (0, number), answer.err


def test_who_fails_stays_and_the_others_go_on(quick: SmallWorld) -> None:
    """What stands at a target and is nobody's we know of is not overwritten (Invariant 2): its user is unfrozen, and stays."""
    world = quick
    world.put_source("users/u003/new.jpg", b"new")
    home = placed(world)
    world.put(home["u003"], "users/u003/new.jpg", b"somebody's", Attributes(content_type="a/b"), {})
    found = cutover(world, code=4)
    assert (found["users"]["moved"], found["users"]["failed"]) == (USERS - 1, 1)
    assert [each["user"] for each in found["who"]] == ["u003"]
    assert "occupied" in found["who"][0]["why"]["failed"]
    assert homes(world)["u003"] == "us"
    assert states(world)["u003"] is UserState.VERIFIED
    with routes_of(world) as routes:
        assert routes.read("u003").frozen_by is None
    world.store(home["u003"]).delete("users/u003/new.jpg")
    assert cutover(world)["users"]["moved"] == 1
    world.assert_all_there()


def test_what_stands_there_stays_somebody_elses_however_often_it_is_tried(quick: SmallWorld) -> None:
    """Nothing is written down of an attempt that met it: neither the next one, nor a deletion request, nor a delta takes what
    stands there for ours (Invariant 2)."""
    world, key = quick, "users/u003/new.jpg"
    home = placed(world)["u003"]
    world.put(home, key, b"somebody's", Attributes(content_type="a/b"), {})

    def is_let_be() -> None:
        with world.store(home).get(key) as download:
            assert download.read() == b"somebody's"

    world.put_source(key, b"new")
    for _ in range(2):
        found = cutover(world, code=4)
        assert "occupied" in found["who"][0]["why"]["failed"]
        is_let_be()
    erasing = world.migrate("forget", "--user", "u003", "--dry-run", "--json")
    assert (erasing.code, erasing.json["users"][0]["left"]) == (4, {"extra": 1})
    for words, code in ((("delta",), 0), (("run", "--wave", "all"), 4)):
        answer = world.migrate(*words)
        assert answer.code == code, answer.err
    is_let_be()
    world.store(home).delete(key)
    for words in (("run", "--wave", "all", "--retry-quarantined"), ("verify",)):
        answer = world.migrate(*words)
        assert answer.code == 0, answer.err
    assert cutover(world)["users"]["moved"] == 1
    world.assert_all_there()


@pytest.mark.parametrize("verb", ["put", "delete"])
def test_nobody_is_flipped_after_a_write_of_which_nobody_knows(
    verb: str, quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sent again either: the first one could land on what the user writes at the new home (Invariant 2). What a store
    has refused, since it asks for less, is sent again."""
    world, sent = quick, Counter[str]()
    new, old = "users/u003/new.jpg", "users/u003/photo-0001.jpg"
    if verb == "put":
        world.put_source(new, b"new")
    else:
        for store in ("us", "singapore"):
            world.store(store).delete(old)
        del world.objects[old]
    done = getattr(FileStore, verb)

    def lost(store: FileStore, key: str, *given: Any, **named: Any) -> Any:
        sent[store.name] += 1
        if sent[store.name] == 1:
            raise ThrottledError(store.name, verb, wait_seconds=0)
        done(store, key, *given, **named)
        raise TransientStoreError(store.name, verb, "the answer was lost", key=key)

    with monkeypatch.context() as patch:
        patch.setattr(FileStore, verb, lost)
        found = cutover(world, code=4)
    assert [each["user"] for each in found["who"]] == ["u003"]
    assert set(sent.values()) == {2}, sent
    assert (homes(world)["u003"], states(world)["u003"]) == ("us", UserState.VERIFIED)
    assert cutover(world)["users"]["moved"] == 1
    world.assert_all_there()


def test_nobody_goes_to_a_home_that_has_lost_something_since_it_was_verified(quick: SmallWorld) -> None:
    """Gone at the home, another size at the backup: the gate says so, and the others go (Invariant 1)."""
    world = quick
    with ledger_of(world) as ledger:
        rows = {user: ledger.user(user) for user in ("u001", "u002")}
    home, backup = (str(rows["u001"].home), str(rows["u002"].backup)) if all(rows.values()) else ("", "")
    world.store(home).delete("users/u001/photo-0001.jpg")
    world.put(backup, "users/u002/photo-0001.jpg", b"longer, or shorter", Attributes(content_type="a/b"), {})
    for words in (("--dry-run",), ()):
        found = cutover(world, *words, code=4)
        assert (found["missing"], {each["user"] for each in found["who"]}) == ({"targets": 2}, {"u001", "u002"})
    assert found["users"]["moved"] == USERS - 2
    assert world.migrate("verify", "--wave", "all", "--repair").code == 3
    for limit, are_more in (("1", True), ("2", False)):
        told = world.migrate("status", "--failures", "--limit", limit, "--json").json
        assert (len(told["failures"]), told["are_more"]) == (int(limit), are_more)
    for words in (("run", "--wave", "all"), ("verify",)):
        assert world.migrate(*words).code == 0
    assert cutover(world)["users"]["moved"] == 2
    world.assert_all_there()


def test_who_was_moved_by_somebody_else_since_the_gate_stays_there(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another ledger may have the same user. They have written at their home since, and nothing of ours goes there."""
    world, at = quick, placed(quick)
    world.put_source("users/u003/new.jpg", b"new")
    elsewhere = next(site for site in ("dublin-1", "dublin-2", "hamar") if site != at["u003"])
    freeze = SqlRouter.freeze

    def beside(router: SqlRouter, user: str, token: str, ttl: int) -> None:
        freeze(router, user, token, ttl)
        if user == "u003":
            execute(world, f"UPDATE routes SET home = '{elsewhere}' WHERE user_id = 'u003'")

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "freeze", beside)
        found = cutover(world, code=4)
    assert "somebody else" in found["who"][0]["why"]["failed"]
    assert homes(world)["u003"] == elsewhere
    assert not any(key == "users/u003/new.jpg" for _, key in world.at_targets())
    assert cutover(world, "--dry-run", code=4)["missing"] == {"route": 1}


def test_what_an_earlier_attempt_has_brought_is_there_when_the_user_goes(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No verification looks at it, since no plan names it: what is lost or another by then is brought again (Invariant 1)."""
    world, at = quick, placed(quick)
    for name in ("lost", "another", "there"):
        world.put_source(f"users/u003/{name}.jpg", name.encode())
    with monkeypatch.context() as patch:
        keep_from_flipping(patch, "u003")
        assert cutover(world, code=4)["users"]["failed"] == 1
    world.store(at["u003"]).delete("users/u003/lost.jpg")
    world.put(at["u003"], "users/u003/another.jpg", b"damaged", Attributes(content_type="a/b"), {})
    assert world.migrate("verify", "--wave", "all").code == 0
    found = cutover(world)
    assert (found["users"]["moved"], found["late_objects"]) == (1, 2)
    world.assert_all_there()


def test_a_delta_that_has_somebody_whom_a_cutover_left_frozen_says_what_comes_first(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform could not be asked, so nobody knows where they live: counted once, and the delta waits for a cutover."""
    world = quick

    def unreachable(*_: Any) -> Iterator[Any]:
        raise UnreachableError("the platform does not answer")
        yield

    end_freeze = cutover_user.end_freeze
    with monkeypatch.context() as patch:
        keep_from_flipping(patch, "u003")
        patch.setattr(
            cutover_user,
            "end_freeze",
            lambda router, user, *more: (unreachable if user == "u003" else end_freeze)(router, user, *more),
        )
        for code, moved in ((75, USERS - 1), (69, 0)):
            found = cutover(world, code=code)["users"]
            assert [found[name] for name in ("moved", "failed", "open", "not_ready", "left")] == [moved, 1, 1, 0, 0]
    assert states(world)["u003"] is UserState.FROZEN
    world.put_source("users/u003/new.jpg", b"new")
    assert world.migrate("delta").code == 0
    answer = world.migrate("run", "--wave", "all")
    assert (answer.code, "migrate cutover" in answer.err) == (75, True), answer.err
    parent = world.migrate("plans", "--json").json["plans"][-1]["digest"]
    answer = world.migrate("cutover", parent, "--wave", "all")
    assert answer.code == 0, answer.err
    world.assert_all_there()


def test_too_many_failures_halt_the_wave(tmp_path: Path) -> None:
    world = verified(tmp_path, None, "[cutover]\nconcurrency = 1\n")
    home = placed(world)
    for user in world.users:
        world.put_source(f"users/{user}/new.jpg", b"new")
        world.put(home[user], f"users/{user}/new.jpg", b"somebody's", Attributes(content_type="a/b"), {})
    found = cutover(world, "--max-failures", "2", code=75)
    assert found["halted"]
    assert (found["users"]["failed"], found["users"]["left"]) == (2, USERS - 2)
    assert set(states(world).values()) == {UserState.VERIFIED}


def test_an_object_that_arrives_wrong_does_not_let_its_user_over(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each late copy is read again before the flip (Invariant 9)."""
    world = quick
    world.put_source("users/u001/new.jpg", b"new")
    put = FileStore.put

    def bending(store: FileStore, key: str, body: Any, **given: Any) -> Any:
        if store.name != "us" and key.endswith("new.jpg"):
            body = b"nix"
            given["md5"] = hashlib.md5(body, usedforsecurity=False).digest()
        return put(store, key, body, **given)

    monkeypatch.setattr(FileStore, "put", bending)
    found = cutover(world, code=4)
    assert [each["user"] for each in found["who"]] == ["u001"]
    assert homes(world)["u001"] == "us"


def test_a_last_delta_that_outlasts_the_freeze_flips_nobody(quick: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the user's writers are let in again, so the user stays; what was copied late is known to the next cutover."""
    world, put = quick, FileStore.put
    world.put_source("users/u001/new.jpg", b"new")

    def slow(store: FileStore, key: str, body: Any, **given: Any) -> Any:
        if key == "users/u001/new.jpg":
            with routes_of(world) as routes:
                until = time.monotonic() + 60
                while routes.read("u001").frozen_by is not None:
                    assert time.monotonic() < until
                    time.sleep(0.1)
        return put(store, key, body, **given)

    with monkeypatch.context() as patch:
        patch.setattr(Tools, "freeze_seconds", property(lambda _: 4))
        patch.setattr(FileStore, "put", slow)
        found = cutover(world, code=4)
    why = {each["user"]: each["why"] for each in found["who"]}["u001"]
    assert "freeze" in why["failed"], why
    assert (homes(world)["u001"], states(world)["u001"]) == ("us", UserState.VERIFIED)
    cutover(world)
    assert homes(world) == placed(world)
    world.assert_all_there()


def test_a_platform_that_does_not_show_the_new_home_is_found(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has flipped, and the route that is read back says otherwise: 5, and the user stays where they are."""
    world, flip = quick, SqlRouter.flip

    def lying(router: SqlRouter, user: str, token: str, home: str) -> None:
        if user != "u002":
            flip(router, user, token, home)

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "flip", lying)
        answer = world.migrate("cutover", "--wave", "all", "--json")
    assert (answer.code, answer.out) == (5, ""), answer.err
    assert states(world)["u002"] is UserState.VERIFIED
    found, home = homes(world), placed(world)
    for user, state in states(world).items():
        assert found[user] == (home[user] if state is UserState.OBSERVING else "us")
    with routes_of(world) as routes:
        assert all(routes.read(user).frozen_by is None for user in world.users)
    cutover(world)
    assert homes(world) == home


def test_a_signal_or_the_end_of_time_leaves_who_was_not_flipped_where_they_were(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unfrozen, and left for the next cutover."""
    world, freeze = quick, SqlRouter.freeze
    assert cutover(world, "--for", "0s", code=75)["users"] == dict.fromkeys(
        ("moved", "ready", "moved_before", "not_ready", "failed", "open", "settled"), 0
    ) | {"left": USERS}

    def interrupting(router: SqlRouter, user: str, token: str, ttl: int) -> None:
        freeze(router, user, token, ttl)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(SqlRouter, "freeze", interrupting)
        patch.setattr("migrate.cli.working.end_at_once", lambda **_given: None)  # each user's freeze sends one
        found = cutover(world, code=130)["users"]
    assert found["left"] + found["moved"] == USERS
    assert found["left"] > 0
    with routes_of(world) as routes:
        assert all(routes.read(user).frozen_by is None for user in world.users)
    assert set(states(world).values()) <= {UserState.VERIFIED, UserState.OBSERVING}
    cutover(world)
    assert homes(world) == placed(world)
    world.assert_all_there()


class Broken:
    """A router that fails at a verb, before or after the platform has done it."""

    def __init__(self, inner: SqlRouter, verb: str, *, after: bool, error: Exception) -> None:
        self._inner, self._verb, self._after, self._error = inner, verb, after, error
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name != self._verb:
            return method

        def failing(user: str, *given: Any) -> Any:
            if user == "u002" and self.failed == 0:
                self.failed += 1
                if self._after:
                    method(user, *given)
                raise self._error
            return method(user, *given)

        return failing


@pytest.mark.parametrize(
    ("verb", "after", "error", "moves"),
    [
        ("freeze", False, LaterError("held"), False),
        ("freeze", True, UnreachableError("gone"), False),
        ("flip", False, UnreachableError("gone"), False),
        ("flip", True, UnreachableError("gone"), True),
        ("unfreeze", False, UnreachableError("gone"), True),
        ("unfreeze", True, UnreachableError("gone"), True),
    ],
)
def test_whatever_becomes_of_a_question_the_platform_decides(
    quick: SmallWorld, verb: str, after: bool, error: Exception, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that was lost after the flip is a flip; one that was lost before is none. Ledger and platform agree, and nobody
    stays frozen."""
    world = quick
    import migrate.cli.wave_users as command

    opened = command.open_router

    @contextmanager
    def breaking(*given: Any) -> Iterator[Any]:
        with opened(*given) as router:
            yield Broken(router, verb, after=after, error=error)

    monkeypatch.setattr(command, "open_router", breaking)
    monkeypatch.setattr("migrate.jobs.freezes._READ_AGAIN_SECONDS", 0.01)
    answer = world.migrate("cutover", "--wave", "all", "--json")
    assert answer.code == (0 if moves else 69 if isinstance(error, UnreachableError) else 4), answer.err
    expected = placed(world)["u002"] if moves else "us"
    assert homes(world)["u002"] == expected
    assert states(world)["u002"] is (UserState.OBSERVING if moves else UserState.VERIFIED)
    with routes_of(world) as routes:
        assert routes.read("u002").frozen_by is None
    assert {user: state for user, state in states(world).items() if user != "u002"} == dict.fromkeys(
        set(world.users) - {"u002"}, UserState.OBSERVING
    )


def test_a_write_that_came_late_is_not_lost_and_one_after_the_freeze_is_refused(quick: SmallWorld) -> None:
    """Writers that honour the routes: what was acknowledged before the freeze is at the new home, and nobody writes in it."""
    world = quick
    with routes_of(world) as routes:
        with routes.writing("u004") as home:
            assert home == "us"
            world.put_source("users/u004/acknowledged.jpg", b"acknowledged")
        routes.freeze("u005", "t" * 64, 15)
        with pytest.raises(LaterError), routes.writing("u005"):
            pass
        routes.unfreeze("u005", "t" * 64)
    cutover(world)
    world.assert_all_there()
    with routes_of(world) as routes, routes.writing("u004") as home:
        assert home == placed(world)["u004"]


def test_nothing_of_a_plan_that_was_not_run_or_is_continued_is_cut_over(quick: SmallWorld) -> None:
    world = quick
    assert world.migrate("cutover", "--json").code == 2  # no wave
    assert world.migrate("cutover", "--wave", "9", "--json").code == 2
    first = world.migrate("plans", "--json").json
    world.put_source("users/u000/new.jpg", b"new")
    assert world.migrate("delta", "--json").code == 0
    assert world.migrate("cutover", "--wave", "all", "--json").code == 75  # the delta, of which nothing was run
    assert world.migrate("run", "--wave", "all").code == 0
    assert world.migrate("verify").code == 0
    digest = first["plans"][0]["digest"] if isinstance(first, dict) else first[0]["digest"]
    for verb in ("cutover", "run"):
        for more in ((), ("--dry-run",)):
            assert world.migrate(verb, digest, "--wave", "all", *more, "--json").code == 77
    assert cutover(world)["users"]["moved"] == USERS
    world.assert_all_there()


def test_no_user_id_and_no_key_goes_into_logs(quick: SmallWorld) -> None:
    """Invariant 10: on stdout who was asked for, on stderr nobody."""
    world = quick
    world.put_source("users/u003/new.jpg", b"new")
    world.put(placed(world)["u003"], "users/u003/new.jpg", b"somebody's", Attributes(content_type="a/b"), {})
    answer = world.migrate("cutover", "--wave", "all")
    assert answer.code == 4
    assert "u003" in answer.out
    assert "u003" not in answer.err
    assert "new.jpg" not in answer.out + answer.err


def test_the_routes_are_the_platforms_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a table of the platform's beside the ledger."""
    platform = tmp_path / "platform.sqlite"
    engine = create_engine(f"sqlite:///{platform}")
    with engine.begin() as connection:
        connection.execute(
            text("CREATE TABLE homes (id TEXT PRIMARY KEY, site TEXT, frozen_by TEXT, frozen_until BIGINT)")
        )
        connection.execute(text("INSERT INTO homes (id, site) VALUES ('u000', 'us'), ('u001', 'us')"))
    monkeypatch.setenv("PLATFORM", f"sqlite:///{platform}")
    routing = (
        'kind = "sql"\n[routing.sql]\nurl = "env:PLATFORM"\ntable = "homes"\n'
        '[routing.sql.columns]\nuser = "id"\nhome = "site"\n'
    )
    world = verified(tmp_path / "world", None, routing)
    cutover(world)
    with engine.begin() as connection:
        found = dict(connection.execute(text("SELECT id, site FROM homes")).all())  # type: ignore[arg-type]
    assert found == placed(world)


def test_what_a_cutover_that_broke_off_has_copied_is_known_to_all_that_come_after(
    quick: SmallWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user was brought up to date, and not flipped: what was copied is not EXTRA, a delta replaces it by its own ETag, and the
    next cutover moves the user (Invariant 2)."""
    world = quick
    for key, body in (("new.jpg", b"new"), ("photo-0001.jpg", b"changed")):
        world.put_source(f"users/u001/{key}", body)
    world.store("us").delete("users/u001/photo-0002.jpg")
    world.store("singapore").delete("users/u001/photo-0002.jpg")
    del world.objects["users/u001/photo-0002.jpg"]
    with monkeypatch.context() as patch:
        keep_from_flipping(patch, "u001")
        assert cutover(world, code=4)["users"]["failed"] == 1
    assert states(world)["u001"] is UserState.VERIFIED
    with ledger_of(world) as ledger:
        assert len(ledger.late_of(["u001"])["u001"]) == 6
    # a verification of the others, who live in Europe by now and write there, and of this one
    home = placed(world)
    world.put(home["u002"], "users/u002/written-in-europe.jpg", b"europe", Attributes(content_type="a/b"), {})
    world.store(home["u003"]).delete("users/u003/photo-0000.jpg")
    found = world.migrate("verify", "--wave", "all", "--json").json
    assert found["pass"]["verdicts"]["extra"] == 0, found
    # the changed one and the removed one are not what the plan has copied: that is a delta's business
    world.put_source("users/u001/new.jpg", b"newer")
    assert world.migrate("delta", "--json").code == 0
    assert world.migrate("run", "--wave", "all").code == 0
    answer = world.migrate("verify", "--json")
    assert answer.code == 0, answer.err
    with ledger_of(world) as ledger:
        assert "users/u001/new.jpg" not in {copy.key for copy in ledger.late_of(["u001"]).get("u001", [])}
    assert cutover(world)["users"]["moved"] == 1
    world.store(home["u002"]).delete("users/u002/written-in-europe.jpg")
    world.put(home["u003"], "users/u003/photo-0000.jpg", *world.objects["users/u003/photo-0000.jpg"])
    world.assert_all_there()


def test_who_may_have_requests_under_way_is_waited_for(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invariant 2: on PostgreSQL others may write from elsewhere, so the last run has to come to rest. With folders and a ledger
    that is a file nobody can, and it begins at once."""
    monkeypatch.setattr("migrate.jobs.elsewhere.LATE_SECONDS", 3600.0)
    if world.ledger is None:
        assert cutover(world, "--for", "1h")["users"]["moved"] == USERS
        return
    answer = world.migrate("cutover", "--wave", "all", "--for", "1s", "--json")
    assert answer.code == 75, answer.err
    assert set(homes(world).values()) == {"us"}
